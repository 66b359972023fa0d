"""A dense chain in compiled code: one call for an evaluation, or for all steps of a solve on a uniform grid.

A sample is computed by the same instructions in every batch. For a small field and few rows a solve through tensor
operations is ten times its arithmetic: one row of the paper's Sphere2 field took .7 ms for 64 evaluations. Activations
are those whose exponentials are computed here, in double precision. For the service: there are no gradients.
"""

import ctypes
import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from ode_core.fields.dense_chain import DenseChain
from ode_core.fields.native_library import native_library
from ode_core.solvers.solution import is_plain
from ode_core.solvers.taped_grid import GridRule

_ACTIVATIONS: dict[type[nn.Module], int] = {nn.ReLU: 0, nn.Tanh: 1, nn.SiLU: 2, nn.ELU: 3}
_WIDEST = 1024  # wider layers do not stay in a core's cache, and the library's products gain on ours
# Multiplications of one call, during which nobody is asked whether to go on: some milliseconds.
_AT_ONCE = 2**26

_Pointer = ctypes.c_void_p


class _Layer(ctypes.Structure):
    _fields_ = (
        ("weight", _Pointer),
        ("bias", _Pointer),
        ("time_weight", _Pointer),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
    )


class _Chain(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        ("count", ctypes.c_int64),
        ("features", ctypes.c_int64),
        ("widest", ctypes.c_int64),
        ("activation", ctypes.c_int64),
    )


class ChainKernel:
    """The compiled code with the weights of a chain.

    Args:
        chain: in whole blocks, in float32 on the CPU; its weights are not to change.
        library: of ``chain_kernel.cpp``.
    """

    def __init__(self, chain: DenseChain, library: ctypes.CDLL) -> None:
        weights = [weight.detach().contiguous() for weight in chain.weights]
        biases = [bias.detach().contiguous() for bias in chain.biases]
        time_weight = None if chain.time_weight is None else chain.time_weight.detach().contiguous()
        self._tensors = (weights, biases, time_weight)  # whose memory the structures point to
        layers = (_Layer * len(weights))(
            *(_Layer(w.data_ptr(), b.data_ptr(), None, *w.shape) for w, b in zip(weights, biases, strict=True))
        )
        if time_weight is not None:
            layers[0].time_weight = time_weight.data_ptr()
        self._features = weights[0].shape[0]
        widest = max(len(bias) for bias in biases)
        self._chain = _Chain(layers, len(weights), self._features, widest, _ACTIVATIONS[type(chain.activation)])
        self._address = ctypes.addressof(self._chain)
        self._products = sum(weight.numel() for weight in weights)
        self._evaluate = library.odeness_evaluate
        self._evaluate.argtypes = (_Pointer, ctypes.c_int64, _Pointer, ctypes.c_int64, _Pointer, _Pointer)
        self._walk = library.odeness_walk
        self._walk.argtypes = (_Pointer, *(ctypes.c_int64,) * 3, *(_Pointer,) * 4)
        self._evaluate.restype = self._walk.restype = None

    def takes(self, z: Tensor) -> bool:
        """Whether states can be given to the compiled code, here and now."""
        return (
            z.dtype == torch.float32
            and z.device.type == "cpu"
            and not (torch.is_grad_enabled() and z.requires_grad)
            and is_plain(z)
        )

    def evaluate(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt`` of the shape of ``z``; ``t`` is 0-d or one time a sample.

        Raises:
            ValueError: these are no states of the chain, or not as many times.
        """
        self._check(z)
        if t.ndim > 0 and t.numel() != len(z):
            raise ValueError(f"times of shape {list(t.shape)} for {len(z)} samples: give one, 0-d, or one a sample")
        states, times = z.contiguous(), t.to(z).contiguous()
        out = torch.empty_like(states)
        self._evaluate(self._address, len(z), times.data_ptr(), t.ndim > 0, states.data_ptr(), out.data_ptr())
        return out

    def walk(self, z0: Tensor, rule: GridRule, before: Callable[[], None] | None) -> Tensor:
        """Return ``(batch, *state)`` after all steps of a rule; ``before`` is called every few milliseconds.

        Raises:
            ValueError: these are no states of the chain.
        """
        self._check(z0)
        z = z0.clone(memory_format=torch.contiguous_format)
        a, b, times = _numbers(rule)
        steps = max(1, _AT_ONCE // max(1, len(z) * rule.stages * self._products))
        for first in range(0, rule.steps, steps):
            if before is not None:
                before()
            count, at = min(steps, rule.steps - first), times.data_ptr() + 4 * first * rule.stages
            self._walk(self._address, len(z), count, rule.stages, a.data_ptr(), b.data_ptr(), at, z.data_ptr())
        return z

    def _check(self, z: Tensor) -> None:
        """Refuse what the compiled code, which is given addresses alone, would read past the end of."""
        if not self.takes(z) or z.ndim < 2 or math.prod(z.shape[1:]) != self._features:
            raise ValueError(
                f"states of shape {list(z.shape)} in {z.dtype} on {z.device}: the chain takes {self._features} numbers "
                "a sample in float32 on the CPU, without gradients"
            )


@lru_cache(maxsize=16)
def _numbers(rule: GridRule) -> tuple[Tensor, Tensor, Tensor]:
    """Return a rule's ``a`` and ``b`` times the step's length and its times, in float32."""
    a, b = torch.zeros(rule.stages, rule.stages), torch.zeros(rule.stages)
    for i, row in enumerate(rule.rows):
        for j, weight in row:
            a[i, j] = weight
    for j, weight in rule.b:
        b[j] = weight
    return a, b, torch.tensor(rule.times, dtype=torch.float32)


def chain_kernel(chain: DenseChain) -> ChainKernel | None:
    """Return the compiled code for a chain in whole blocks; None where it is not for it, or there is no compiler."""
    first = chain.weights[0]
    fits = first.dtype == torch.float32 and first.device.type == "cpu" and chain.stacked is None
    if not fits or type(chain.activation) not in _ACTIVATIONS or max(map(len, chain.biases)) > _WIDEST:
        return None
    library = native_library("chain_kernel.cpp")
    return None if library is None else ChainKernel(chain, library)
