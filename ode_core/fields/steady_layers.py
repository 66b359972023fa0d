"""Layers that compute a sample alike, bit for bit, whatever batch it is in and wherever it stands there. On a CPU.

Libraries choose their code by the size of a product, and sum up in another order at the edges of a block. Measured in
float32 and float64 with torch 2.13 (MKL, oneDNN) on a processor with AVX-512, for 1 to 512 rows in random places:
products of whole blocks of 16 rows and 16 columns give a row the same bits, smaller ones do not; oneDNN's convolution
always does, but torch takes it for some sizes only. Elementwise functions differ where less than two vectors are left.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ode_core.solvers.solution import is_plain

BLOCK = 16
"""Rows and columns that a product is to have a multiple of."""
LANES = 32
"""Numbers that an elementwise function computes at once: in a rest that is smaller it may round otherwise."""


def whole_blocks(size: int) -> int:
    """Return the least multiple of ``BLOCK`` that is not below ``size``."""
    return -(-size // BLOCK) * BLOCK


class SteadyLinear(nn.Module):
    """A linear layer from ``(batch, in)`` to ``(batch, out)`` as a product of whole blocks; its weights are copied."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.features = layer.out_features
        more = whole_blocks(self.features) - self.features
        bias = layer.weight.new_zeros(self.features) if layer.bias is None else layer.bias.detach()
        self.register_buffer("weight", functional.pad(layer.weight.detach().T, (0, more)).contiguous())
        self.register_buffer("bias", functional.pad(bias, (0, more)))

    def forward(self, values: Tensor) -> Tensor:
        """Return the layer's result."""
        rows = len(values)
        if missing := whole_blocks(rows) - rows:
            values = functional.pad(values, (0, 0, 0, missing))
        return torch.addmm(self.bias, values, self.weight)[:rows, : self.features]


class SteadyConvolution(nn.Module):
    """A convolution by oneDNN for every size, its weights laid out once; they are not to change.

    With ``relu``, a ReLU follows. Where that cannot be, with gradients or within a transform, it is as torch does it.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d, *, relu: bool = False) -> None:
        super().__init__()
        self.layer, self._relu = layer, relu
        self.out_channels = layer.out_channels
        self._signal = isinstance(layer, nn.Conv1d)
        # A signal is an image of one row. ("zeros" is what the layers of fields and stems pad with, in numbers.)
        weight = layer.weight.detach().unsqueeze(2) if self._signal else layer.weight.detach()
        above, one = ((0,), (1,)) if self._signal else ((), ())
        assert not isinstance(layer.padding, str)
        self._settings = ((*above, *layer.padding), (*one, *layer.stride), (*one, *layer.dilation), layer.groups)
        steady = weight.dtype == torch.float32 and weight.device.type == "cpu" and layer.padding_mode == "zeros"
        self._weight = _reordered(weight.to_mkldnn(), *self._settings) if steady else None

    def forward(self, values: Tensor) -> Tensor:
        """Return the layer's result, the channels of a point next to each other in memory."""
        if self._weight is None or torch.is_grad_enabled() or not is_plain(values):
            result: Tensor = self.layer(values)
            return result.relu() if self._relu else result
        image = values.unsqueeze(2) if self._signal else values
        after = "relu" if self._relu else "none"
        convolved: Tensor = _convolution(image, self._weight, self.layer.bias, *self._settings, after, [], "")
        return convolved.squeeze(2) if self._signal else convolved


class Contiguous(nn.Module):
    """The same numbers in the order of their dimensions, as a solver adds them up."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the values, copied where their order is another."""
        return values.contiguous()


def _reordered(weight: Tensor, *settings: Any) -> Tensor:
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    result: Tensor = reorder(weight, *settings)
    return result


_convolution: Any = torch.ops.mkldnn._convolution_pointwise


def steady(module: nn.Module) -> nn.Module:
    """Return a copy of a layer or of a sequence of layers with steady ones in their place; others stay as they are."""
    if isinstance(module, nn.Sequential):
        return nn.Sequential(*_steady_sequence(list(module)))
    if type(module) is nn.Linear:
        return SteadyLinear(module)
    if isinstance(module, nn.Conv1d | nn.Conv2d) and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return SteadyConvolution(module)
    return module


def _steady_sequence(layers: Sequence[nn.Module]) -> Iterator[nn.Module]:
    before: nn.Module | None = None
    for layer, after in itertools.zip_longest(layers, layers[1:]):
        changed = steady(layer)
        if isinstance(changed, SteadyConvolution) and type(after) is nn.ReLU:
            yield SteadyConvolution(changed.layer, relu=True)
        elif not (isinstance(before, SteadyConvolution) and type(layer) is nn.ReLU):
            yield changed
        before = changed
