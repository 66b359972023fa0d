"""Fixed grids of one field and one method solved as one: the states of all lie side by side in each evaluation.

A sweep tests one model under many numbers of steps. Each of these solves is a lane of the stack. All lanes make their
steps together, with a step length each; a lane that has arrived leaves, and the others go on. Small fields spend much
of an evaluation on calls, which the lanes share. For solves without gradients, of fields that keep a tape.
"""

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.fixed_grid import grid_solution
from ode_core.solvers.solution import Execution, Solution
from ode_core.solvers.tableaus import ButcherTableau
from ode_core.solvers.taped_grid import FieldTape, TapedField, why_not_taped
from ode_core.specs.methods import METHODS, MethodName
from ode_core.specs.solver import SolverSpec

# With more rows than this in an evaluation its arithmetic is all of it, on a processor: nothing is left to share.
_MOST_ROWS = 256
# What a stack may take more in memory than its solves alone.
_MOST_BYTES = 2**27


def stacks(solvers: Sequence[SolverSpec], rows: int, device: torch.device) -> list[list[int]]:
    """Return which of ``solvers`` are best solved together, as groups of their positions, in order.

    Args:
        solvers: to be run from the same states.
        rows: samples in a batch of them.
        device: where they are run. On a graphics processor a small evaluation takes the time of its calls alone.
    """
    groups: dict[MethodName, list[int]] = {}
    together: list[list[int]] = []
    for position, solver in enumerate(solvers):
        if not can_be_lane(solver) or (device.type == "cpu" and rows > _MOST_ROWS):
            together.append([position])
        elif solver.method in groups:
            groups[solver.method].append(position)
        else:
            groups[solver.method] = [position]
            together.append(groups[solver.method])
    return together


def can_be_lane(solver: SolverSpec) -> bool:
    """Whether a solver makes equal steps of an explicit method of ours."""
    own = solver.runs_on == "odeness" and solver.grid != "truncate"
    return own and not solver.adaptive and solver.facts.family == "explicit"


def keeps_lanes(field: object, z0: Tensor) -> TypeGuard[TapedField]:
    """Whether solves of a field from ``z0`` can be lanes of a stack, here and now."""
    # The rows of a stack of networks belong to one network after the other.
    stacked_itself = getattr(field, "stacked", None) is not None
    return not stacked_itself and not torch.is_grad_enabled() and why_not_taped(field, z0) is None


def lanes_at_once(field: TapedField, z0: Tensor, method: MethodName) -> int:
    """Return how many lanes from ``z0`` a stack may have for its memory."""
    # A tape keeps every hidden layer of every stage; a weight has the width of its layer.
    numbers = z0[0].numel() + sum(tensor.shape[-1] for tensor in field.tensors if tensor.ndim > 1)
    lane = 2 * len(TABLEAUS[method].grid_rows) * len(z0) * numbers * z0.element_size()
    return max(1, _MOST_BYTES // lane)


@torch.no_grad()
def solve_stacked_grids(
    field: TapedField, z0: Tensor, method: MethodName, counts: Sequence[int], *, t0: float, t1: float
) -> list[Solution]:
    """Solve with each number of steps in ``counts``: the same as one solve after another, to round-off.

    Args:
        field: for which ``keeps_lanes`` holds.
        z0: ``(batch, *state)``, where every lane starts.
        method: an explicit method.
        counts: numbers of steps, each at least 1.
        t0: start time.
        t1: end time.

    Returns:
        A solution for each number of steps, in their order.
    """
    batch = len(z0)
    # The lane with the most steps first: those still on the way are then always the first ones.
    order = sorted(range(len(counts)), key=lambda lane: counts[lane], reverse=True)
    states = z0.repeat(len(counts), *(1 for _ in z0.shape[1:]))
    finals: dict[int, Tensor] = {}
    done = 0
    while order:
        nearest = counts[order[-1]]
        if nearest > done:
            lanes = _Lanes(field, states, TABLEAUS[method], [counts[lane] for lane in order], t0, t1)
            states = lanes.walk(done, nearest)
            done = nearest
        finals[order.pop()] = states[-batch:]
        states = states[:-batch]
    execution = Execution("taped", True, len(counts), "solved together with other numbers of steps")
    return [
        grid_solution(z0, finals[lane], METHODS[method].evaluations(count), count, (t1 - t0) / count, execution)
        for lane, count in enumerate(counts)
    ]


Weights = list[tuple[int, float | Tensor]]
"""For each stage with a weight that is not zero: one number, or one for every row of the stack."""


class _Lanes:
    """The lanes that are still on the way, from where they stand ``(lanes * batch, *state)``."""

    def __init__(
        self, field: TapedField, states: Tensor, tableau: ButcherTableau, counts: Sequence[int], t0: float, t1: float
    ) -> None:
        self._t0, self._t1, self._counts = t0, t1, counts
        rows = tableau.grid_rows
        self._c = [float(c) for c in tableau.c[: len(rows)]]
        self._tape: FieldTape = field.tape(states, len(rows))
        self._z = self._tape.stage(0)
        self._z.copy_(self._tape.pack(states))
        self._rows_of_lane = len(states) // len(counts)
        self._rows = [self._scaled([float(w) for w in row]) for row in rows]
        self._b = self._scaled([float(w) for w in tableau.b[: len(rows)]])

    def walk(self, first: int, last: int) -> Tensor:
        """Make the steps of every lane from number ``first`` up to ``last``; return the states after them."""
        stages = range(len(self._rows))
        slopes = [torch.empty_like(self._z, memory_format=torch.contiguous_format) for _ in stages]
        for step in range(first, last):
            for i in stages:
                if i > 0:
                    _add_up(self._z, slopes, self._rows[i], out=self._tape.stage(i))
                self._tape.evaluate(i, self._time(step + self._c[i]), slopes[i])
            _add_up(self._z, slopes, self._b, out=self._z)
        return self._tape.unpack(self._z)

    def _scaled(self, weights: Sequence[float]) -> Weights:
        lengths = [(self._t1 - self._t0) / count for count in self._counts]
        return [(j, self._by_row([h * w for h in lengths])) for j, w in enumerate(weights) if w != 0.0]

    def _time(self, steps: float) -> float | Tensor:
        """Return the time ``steps`` steps after the start, within the interval."""
        early, late = min(self._t0, self._t1), max(self._t0, self._t1)
        times = [self._t0 + (self._t1 - self._t0) * steps / count for count in self._counts]
        return self._by_row([min(max(t, early), late) for t in times])

    def _by_row(self, values: Sequence[float]) -> float | Tensor:
        """Return one value for each lane as what multiplies states in the layout of the tape."""
        if len(values) == 1:
            return values[0]
        by_lane = torch.tensor(values, dtype=self._z.dtype, device=self._z.device)
        return self._tape.spread(by_lane.repeat_interleave(self._rows_of_lane))


def _add_up(z: Tensor, slopes: Sequence[Tensor], weights: Weights, *, out: Tensor) -> None:
    """Write ``z + sum w_j k_j`` to ``out``, which may be ``z``."""
    for j, w in weights:
        if isinstance(w, Tensor):
            z = torch.addcmul(z, slopes[j], w, out=out)
        else:
            z = torch.add(z, slopes[j], alpha=w, out=out)
    if z is not out:
        out.copy_(z)
