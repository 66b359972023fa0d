"""Memory for the tapes of a field's solves, which one solve leaves to the next.

Fresh pages from the system cost as much as the arithmetic of a small field, and making the views of every evaluation
costs a good part of it. So both are kept together.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# States this narrow lie in memory feature by feature: a matrix product with two columns is three times as slow as
# one with two rows.
NARROW = 8
# Rows of cotangents that are gathered before their product with the activations: enough for full speed, and few
# enough to stay in the cache.
_ROWS = 2048


@dataclass(frozen=True)
class TapeLayout:
    """What a tape keeps of each evaluation.

    Attributes:
        networks: number of stacked networks, or None for one without a leading dimension.
        batch: samples of each network.
        features: numbers of a sample's state.
        widths: of the hidden layers.
        keeps_both: whether a hidden layer's values are kept before and after its activation, or after it alone.
        dtype: of all numbers.
        device: of all numbers.
    """

    networks: int | None
    batch: int
    features: int
    widths: tuple[int, ...]
    keeps_both: bool
    dtype: torch.dtype
    device: torch.device

    @property
    def narrow(self) -> bool:
        """Whether states are laid out feature by feature, ``([S,] features, batch)``."""
        return self.features <= NARROW

    @property
    def chunk(self) -> int:
        """Evaluations whose cotangents are kept until they are gathered, at most."""
        return max(1, _ROWS // max(1, self.batch * (self.networks or 1)))

    @property
    def rows_shape(self) -> tuple[int, ...]:
        """``([S,] batch, features)``, of states as rows."""
        return (*self._stack, self.batch, self.features)

    @property
    def _stack(self) -> tuple[int, ...]:
        return () if self.networks is None else (self.networks,)

    def rows(self, slots: int, width: int) -> Tensor:
        """Return uninitialised memory ``(slots, [S,] batch, width)``."""
        return self._empty(slots, self.batch, width)

    def states(self, slots: int) -> Tensor:
        """Return uninitialised memory for states: ``(slots, [S,] features, batch)`` where they are narrow."""
        return self._empty(slots, self.features, self.batch) if self.narrow else self.rows(slots, self.features)

    def _empty(self, slots: int, *matrix: int) -> Tensor:
        return torch.empty(slots, *self._stack, *matrix, dtype=self.dtype, device=self.device)


class Cotangents:
    """Memory for the cotangents of a chunk of evaluations, as lists by evaluation where not said otherwise.

    Attributes:
        slots: the number of evaluations there is room for.
        states, hidden: the memory itself: of the slopes, and of each hidden layer before its activation.
        slopes, slope_rows: cotangents of slopes in the layout of states, and the same as rows.
        layers: of the hidden layers from the last to the first.
        first_columns: of the first hidden layer, its features first.
    """

    def __init__(self, layout: TapeLayout, slots: int) -> None:
        self.slots = slots
        self.states = layout.states(slots)
        self.hidden = [layout.rows(slots, width) for width in layout.widths]
        self.slopes = self.states.unbind()
        self.slope_rows = _rows(layout, self.slopes)
        self.layers = list(zip(*(layer.unbind() for layer in reversed(self.hidden)), strict=True))
        self.first_columns = [layers[-1].mT for layers in self.layers]


class TapeMemory:
    """Memory for a number of evaluations, as lists by evaluation where not said otherwise.

    Attributes:
        layout: what is kept of each.
        slots: the number of evaluations there is room for.
        states, hidden: the memory itself: of the states, and of each hidden layer after its activation.
        stages, inputs: states, and the same as rows.
        before, after: the hidden layers before and after their activation.
        before_reversed: from the last to the first.
        last_columns: the last hidden layer after its activation, its features first.
    """

    def __init__(self, layout: TapeLayout, slots: int) -> None:
        self.layout, self.slots = layout, slots
        self.states = layout.states(slots)
        self.hidden = [layout.rows(slots, width) for width in layout.widths]
        self._before = [layout.rows(slots, width) for width in layout.widths] if layout.keeps_both else self.hidden
        self.stages = self.states.unbind()
        self.inputs = _rows(layout, self.stages)
        self.after = list(zip(*(layer.unbind() for layer in self.hidden), strict=True))
        self.before = list(zip(*(layer.unbind() for layer in self._before), strict=True))
        self.before_reversed = [layers[::-1] for layers in self.before]
        self.last_columns = [layers[-1].mT for layers in self.after]
        self._cotangents: Cotangents | None = None

    @property
    def cotangents(self) -> Cotangents:
        """Memory for a chunk of cotangents, made when it is first asked for."""
        if self._cotangents is None:
            self._cotangents = Cotangents(self.layout, min(self.slots, self.layout.chunk))
        return self._cotangents

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        tensors = [self.states, *self.hidden, *(self._before if self.layout.keeps_both else ())]
        if self._cotangents is not None:
            tensors += [self._cotangents.states, *self._cotangents.hidden]
        return sum(tensor.nbytes for tensor in tensors)

    def serves(self, layout: TapeLayout, slots: int) -> bool:
        """Whether it has room for that many evaluations, and not far too much."""
        # What was made in inference mode can only be written to there.
        usable = torch.is_inference_mode_enabled() or not self.states.is_inference()
        return usable and layout == self.layout and slots <= self.slots <= 2 * slots


def _rows(layout: TapeLayout, states: Sequence[Tensor]) -> Sequence[Tensor]:
    return [state.mT for state in states] if layout.narrow else states


class TapePool:
    """Memory that nobody uses at the moment."""

    _MOST_BYTES = 2**28

    def __init__(self) -> None:
        self._free: list[TapeMemory] = []
        # Memory comes back when a graph is freed, which may be in the middle of a call here.
        self._lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "TapePool":
        return TapePool()

    def __reduce__(self) -> tuple[type["TapePool"], tuple[()]]:
        return TapePool, ()

    def take(self, layout: TapeLayout, slots: int) -> TapeMemory:
        """Return memory for at least ``slots`` evaluations that nobody else uses; what is in it is arbitrary."""
        with self._lock:
            free, self._free = self._free, []
            for i, memory in enumerate(free):
                if memory.serves(layout, slots):
                    self._free += free[:i] + free[i + 1 :]
                    return memory
            self._free += free
        with torch.no_grad():
            return TapeMemory(layout, slots)

    def give(self, memory: TapeMemory) -> None:
        """Take back memory that nobody uses any more."""
        with self._lock:
            self._free.append(memory)
            while self._free and sum(memory.nbytes for memory in self._free) > self._MOST_BYTES:
                del self._free[0]
