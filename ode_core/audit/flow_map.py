"""The exact flow of a field, from a time of each sample's own to another, to an accuracy that is estimated.

Each sample is solved again with a tolerance ten times tighter until its end moves by less than the accuracy asked for.
Only those that still move go on: at the kinks of ReLU a tight tolerance is dear, and for most samples not needed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core.solvers.solution import Field, per_sample
from ode_core.solvers.solve import solve
from ode_core.specs.methods import MethodName
from ode_core.specs.solver import SolverSpec

METHOD: MethodName = "dopri5"
# Relative to the state. A ReLU field trained with 16 Euler steps carries errors to the end grown 40-fold, and to halve
# one takes a quarter more evaluations at its kinks: a sample took 3,000 to 4,000 of them for 1e-4, and 14,000 to
# 16,000 for 1e-6.
ACCURACY = 1e-4
REFINEMENTS = 5
SMALLEST_TOLERANCE = 1e-13
MAX_STEPS = 5_000
# What is carried along must not count in the choice of the first step. A power of two, so that nothing is rounded.
_TINY = 2.0**-500
_NUMBERS_AT_ONCE, _FEWEST_ROWS, _MOST_ROWS = 2**19, 64, 4096


@dataclass(frozen=True)
class FlowEnds:
    """Where the flow leads, in float64.

    Attributes:
        states: ``(n, *state)``, NaN where a solve failed.
        error: ``(n,)``, by how much an end moved when the tolerance was tightened for the last time, in the units of
            the state (largest number): an estimate of its error. NaN where a solve failed.
        converged: ``(n,)`` of bool: whether that is within the accuracy.
        evaluations: of the field, for all samples together.
    """

    states: Tensor
    error: Tensor
    converged: Tensor
    evaluations: int


def rows_at_once(state_size: int) -> int:
    """Return how many states are followed in one solve."""
    return max(_FEWEST_ROWS, min(_MOST_ROWS, _NUMBERS_AT_ONCE // max(1, state_size)))


@torch.no_grad()
def flow(
    field: Field,
    states: Tensor,
    starts: Tensor,
    ends: Tensor,
    *,
    accuracy: float = ACCURACY,
    max_evaluations: int | None = None,
    method: MethodName = METHOD,
) -> FlowEnds:
    """Follow the flow of each sample from its start to its end time.

    Args:
        field: ``f(t, z)``; called with ``z`` ``(batch, *state)`` in float64.
        states: ``(n, *state)``.
        starts: ``(n,)``.
        ends: ``(n,)``, before or after the starts.
        accuracy: relative to the largest absolute number of a state, at the start or at the end.
        max_evaluations: bound on the evaluations of the field for one sample in one solve, or None.
        method: of the solves; one with an error estimate.
    """
    states, starts, ends = states.double(), starts.to(states.device).double(), ends.to(states.device).double()
    if len(states) == 0:
        return FlowEnds(states, starts, torch.ones_like(starts, dtype=torch.bool), 0)
    rows = rows_at_once(states[0].numel())
    blocks = zip(*(torch.split(values, rows) for values in (states, starts, ends)), strict=True)
    parts = [_flow(_OwnTimes(field, z, start, end, method, max_evaluations), accuracy) for z, start, end in blocks]
    return FlowEnds(
        torch.cat([part.states for part in parts]),
        torch.cat([part.error for part in parts]),
        torch.cat([part.converged for part in parts]),
        sum(part.evaluations for part in parts),
    )


def _flow(solves: "_OwnTimes", accuracy: float) -> FlowEnds:
    before = per_sample(solves.states).abs().amax(dim=1)
    tolerance = first = min(1e-3, accuracy)
    last = max(SMALLEST_TOLERANCE, first / 10**REFINEMENTS)
    everyone = open_samples = torch.arange(len(before), device=before.device)
    found = solves(everyone, tolerance)
    error = torch.full_like(before, torch.nan)
    converged = torch.zeros_like(before, dtype=torch.bool)
    while len(open_samples) > 0 and tolerance > 1.01 * last:
        tolerance /= 10
        finer = solves(open_samples, tolerance)
        change = (finer - found[open_samples]).abs().amax(dim=1)
        size = torch.maximum(finer.abs().amax(dim=1), before[open_samples])
        found[open_samples], error[open_samples] = finer, change
        settled = change <= accuracy * size
        converged[open_samples] = settled
        # A state that leaves the floating-point range does so at every tolerance.
        open_samples = open_samples[~settled & torch.isfinite(change)]
    return FlowEnds(found.reshape(solves.states.shape), error, converged, solves.evaluations)


class _OwnTimes:
    """Solves in which every sample runs over ``s`` in [0, 1] with ``t = start + (end - start) s``, and is of size 1.

    So one absolute tolerance is right for samples of any size. A sample's times and size are the last numbers of its
    state: a solver may do with the batch what it likes.
    """

    def __init__(
        self,
        field: Field,
        states: Tensor,
        starts: Tensor,
        ends: Tensor,
        method: MethodName,
        max_evaluations: int | None,
    ) -> None:
        self.states, self._method = states, method
        self._field, self._shape, self._max_evaluations = field, states.shape[1:], max_evaluations
        self._size = self._shape.numel()
        numbers = per_sample(states)
        scale = numbers.abs().amax(dim=1)
        scale = torch.where(torch.isfinite(scale) & (scale > 0), scale, 1.0).unsqueeze(1)
        carried = torch.cat([starts.unsqueeze(1), ends.unsqueeze(1), scale], dim=1)
        self._scale, self._rows = scale, torch.cat([numbers / scale, carried * _TINY], dim=1)
        self.evaluations = 0

    def __call__(self, samples: Tensor, tolerance: float) -> Tensor:
        """Return ``(n, size)``."""
        solution = solve(
            self._slope,
            self._rows[samples],
            SolverSpec(method=self._method, rtol=tolerance, atol=tolerance, max_steps=MAX_STEPS),
            max_evaluations=self._max_evaluations,
            compilation="never",
            warn=False,
        )
        self.evaluations += int(solution.evaluations.sum())
        return solution.final[:, : self._size] * self._scale[samples]

    def _slope(self, s: Tensor, rows: Tensor) -> Tensor:
        start, end, scale = (rows[:, self._size :] / _TINY).unbind(dim=1)
        t = start + (end - start) * s.reshape(-1)
        t = torch.clamp(t, torch.minimum(start, end), torch.maximum(start, end))
        states = (rows[:, : self._size] * scale.unsqueeze(1)).reshape(-1, *self._shape)
        slope = per_sample(self._field(t.reshape(-1, *(1 for _ in self._shape)), states))
        return torch.cat([((end - start) / scale).unsqueeze(1) * slope, rows.new_zeros(len(rows), 3)], dim=1)
