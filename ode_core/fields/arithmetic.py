"""Arithmetic of a vector field: full precision, TF32 products or bfloat16, within a solve in float32.

Only the field's network computes in it. The state, the error estimate and the step control stay in float32, and so
do the weights and their gradients. In float64 a field always computes in full: that is what float64 is asked for,
by an audit's reference for instance.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ode_core.fields.dense_chain import DenseChain
from ode_core.specs.model import FieldArithmetic


def network_type(arithmetic: FieldArithmetic, weights: torch.dtype) -> torch.dtype:
    """Return the type in which a network with ``weights`` of a type computes."""
    return torch.bfloat16 if arithmetic == "bfloat16" and weights == torch.float32 else weights


def cast_once(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor in ``dtype``, unless gradients are to flow to it.

    Then it has to be cast where it is used, each time: the gradients of the many evaluations of a solve would
    otherwise be added up in ``dtype``, and in bfloat16 the 257th of equal ones is lost.
    """
    return tensor if tensor.requires_grad and torch.is_grad_enabled() else tensor.to(dtype)


class CastNetwork:
    """A chain of layers that computes in ``dtype`` and returns what it was given.

    Its weights are cast once where no gradients are wanted; it holds until they change.
    """

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._layers: list[tuple[nn.Module, Tensor | None, Tensor | None]] = []
        for layer in layers:
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
                bias = None if layer.bias is None else cast_once(layer.bias, dtype)
                self._layers.append((layer, cast_once(layer.weight, dtype), bias))
            else:
                self._layers.append((layer, None, None))

    def __call__(self, values: Tensor) -> Tensor:
        """Return the chain's result in the type of ``values``."""
        result = values.to(self._dtype)
        for layer, weight, bias in self._layers:
            weight = None if weight is None else weight.to(self._dtype)
            bias = None if bias is None else bias.to(self._dtype)
            if weight is None:
                result = layer(result)
            elif isinstance(layer, nn.Linear):
                result = functional.linear(result, weight, bias)
            elif isinstance(layer, nn.Conv1d):
                result = functional.conv1d(result, weight, bias, padding=layer.padding)
            else:
                assert isinstance(layer, nn.Conv2d)
                result = functional.conv2d(result, weight, bias, padding=layer.padding)
        return result.to(values.dtype)


class CastChain:
    """A dense chain that computes in ``dtype`` and returns the type of the state.

    It keeps no tape: a solve goes through autograd.
    """

    def __init__(self, chain: DenseChain, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._chain = _with_tensors(chain, lambda tensor: cast_once(tensor, dtype))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the gradients of a solve flow into."""
        return self._chain.tensors

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt`` of the shape and type of ``z``."""
        chain = _with_tensors(self._chain, lambda tensor: tensor.to(self._dtype))
        return chain(t, z.to(self._dtype)).to(z.dtype)


def _with_tensors(chain: DenseChain, change: Callable[[Tensor], Tensor]) -> DenseChain:
    return dataclasses.replace(
        chain,
        weights=tuple(map(change, chain.weights)),
        biases=tuple(map(change, chain.biases)),
        time_weight=None if chain.time_weight is None else change(chain.time_weight),
    )


@contextmanager
def float32_products(arithmetic: FieldArithmetic, device: torch.device) -> Iterator[None]:
    """Within it, float32 matrix products and convolutions on a CUDA device are TF32 or, unless asked for, not.

    torch by itself takes TF32 for convolutions. Other devices are left alone. The setting is the process's: a solve
    in another thread meanwhile runs under it too.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn  # its type does not know what it sets at import
    matmul, conv = torch.backends.cuda.matmul, cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    matmul.fp32_precision = conv.fp32_precision = "tf32" if arithmetic == "tf32" else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before
