"""The least time a computation can take on this machine: by its arithmetic, and by the bytes it moves.

Both rates are measured in the same run as what they are held against, on the same core.
"""

import math
from dataclasses import dataclass

import torch

from benchmarks.interleaved import interleave, stopwatch
from ode_core.specs.model import ClassifierSpec, Conv1dField, Conv2dField, model_state_shape

_SIZE = 1024  # of the matrices of the arithmetic rate: large enough for the peak
_COPIED = 128 * 2**20  # bytes copied for the memory's rate: several times any cache


@dataclass(frozen=True)
class MachineRates:
    """Multiply-adds a second of a float32 matrix product, and bytes a second of a copy (read and written)."""

    multiply_adds: float
    bytes: float

    def floors(self, multiply_adds: float, bytes_moved: float) -> str:
        """Return both floor times of a computation as text."""
        arithmetic, memory = 1e3 * multiply_adds / self.multiply_adds, 1e3 * bytes_moved / self.bytes
        return f"arithmetic {arithmetic:.3g} ms, bytes {memory:.3g} ms"


def measure_rates(device: torch.device, repeats: int = 30) -> MachineRates:
    """Measure the best rates on this core or GPU, now: a floor must not rise where others use the core too."""
    a, b = torch.rand(_SIZE, _SIZE, device=device), torch.rand(_SIZE, _SIZE, device=device)
    product = torch.empty(_SIZE, _SIZE, device=device)
    source = torch.rand(_COPIED // 4, device=device)
    target = torch.empty_like(source)
    timed = {
        "product": stopwatch(lambda: torch.mm(a, b, out=product)),
        "copy": stopwatch(lambda: target.copy_(source)),
    }
    best = {name: min(seconds) for name, seconds in interleave(timed, rounds=repeats).items()}
    return MachineRates(multiply_adds=_SIZE**3 / best["product"], bytes=2 * _COPIED / best["copy"])


@dataclass(frozen=True)
class FieldCost:
    """What one evaluation of a model's field needs for one sample.

    Attributes:
        multiply_adds: of its layers; products with the zeros of a padding do not count.
        values: numbers that its layers write: their outputs, activations not counted apart.
        state: numbers of the state.
    """

    multiply_adds: int
    values: int
    state: int


def field_cost(model: ClassifierSpec, sample_shape: tuple[int, ...]) -> FieldCost:
    """Return the cost of a convolutional field ``conv(1) - conv(kernel) - conv(1)`` without time."""
    field, state = model.field, model_state_shape(model, sample_shape)
    if not isinstance(field, Conv1dField | Conv2dField) or field.time_dependent:
        raise ValueError("the cost is known of convolutional fields without time")
    positions = math.prod(state[1:])
    taps = math.prod(_taps(size, field.kernel) for size in state[1:])
    n = field.channels
    return FieldCost(
        multiply_adds=2 * state[0] * n * positions + n * n * taps,
        values=(2 * n + state[0]) * positions,
        state=math.prod(state),
    )


def _taps(size: int, kernel: int) -> int:
    """Return how many pairs of an output and an input lie within the kernel's reach along one axis."""
    return sum(min(size - 1, i + kernel // 2) - max(0, i - kernel // 2) + 1 for i in range(size))
