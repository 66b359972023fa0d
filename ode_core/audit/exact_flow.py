"""The exact flow of a field, from a time of each sample's own to another, to an accuracy that is estimated.

Each sample is solved again with a tolerance ten times tighter until its curve changes by less than the accuracy asked
for. Only those that still change go on: at the kinks of ReLU a tight tolerance is dear, and most samples need none.
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
LARGEST_TOLERANCE, SMALLEST_TOLERANCE = 1e-3, 1e-13
REFINEMENTS = 5
MAX_STEPS = 5_000
FIGURE_ACCURACY = 1e-5  # far below what a figure can show
# What is carried along must not count in the choice of the first step. A power of two, so that nothing is rounded.
_TINY = 2.0**-500
_NUMBERS_AT_ONCE, _FEWEST_ROWS, _MOST_ROWS = 2**19, 64, 4096


@dataclass(frozen=True)
class ExactFlow:
    """Solutions in float64, on the states' device.

    Attributes:
        curves: ``(points, n, *state)``, at equal fractions of each sample's own interval, the ends included; NaN
            where a solve failed.
        error: ``(n,)``, by how much a curve changed at most when the tolerance was tightened for the last time, in
            the units of the state (largest number): an estimate of its error. NaN where a solve failed.
        converged: ``(n,)`` of bool: whether that is within the accuracy.
        evaluations: of the field, for all samples together.
    """

    curves: Tensor
    error: Tensor
    converged: Tensor
    evaluations: int

    @property
    def ends(self) -> Tensor:
        """``(n, *state)``, the states at the end."""
        return self.curves[-1]

    @property
    def converged_curves(self) -> Tensor:
        """``(points, n, *state)``, NaN where they did not converge."""
        converged = self.converged.reshape(1, -1, *(1,) * (self.curves.ndim - 2))
        return torch.where(converged, self.curves, torch.nan)


def rows_at_once(numbers: int) -> int:
    """Return how many samples of so many numbers each are followed in one solve."""
    return max(_FEWEST_ROWS, min(_MOST_ROWS, _NUMBERS_AT_ONCE // max(1, numbers)))


@torch.no_grad()
def flow(
    field: Field,
    states: Tensor,
    starts: Tensor,
    ends: Tensor | float,
    *,
    points: int = 2,
    accuracy: float = ACCURACY,
    first_tolerance: float | None = None,
    refinements: int = REFINEMENTS,
    max_steps: int = MAX_STEPS,
    max_evaluations: int | None = None,
    method: MethodName = METHOD,
) -> ExactFlow:
    """Follow the flow of each sample from its start to its end time.

    What is found for a sample depends neither on the others nor on the units of its state.

    Args:
        field: ``f(t, z)``; called with ``z`` ``(batch, *state)`` in float64.
        states: ``(n, *state)``.
        starts: ``(n,)``.
        ends: ``(n,)``, before or after the starts, or one time for all.
        points: of each curve, at least 2.
        accuracy: relative to the largest absolute number on a curve.
        first_tolerance: relative to the largest number of the start and of the state; None: the accuracy, at most 1e-3.
        refinements: how often at most the tolerance is made ten times tighter.
        max_steps: of one sample in one solve.
        max_evaluations: bound on the evaluations of the field for one sample in one solve, or None.
        method: of the solves; one with an error estimate.
    """
    states = states.double()
    starts = starts.to(states)
    ends = torch.as_tensor(ends).to(states).expand_as(starts)
    if len(states) == 0:
        nothing = torch.zeros_like(starts)
        return ExactFlow(states.expand(points, *states.shape), nothing, nothing == 0, 0)
    tolerance = min(LARGEST_TOLERANCE, accuracy) if first_tolerance is None else first_tolerance
    rows = rows_at_once(states[0].numel() * (points - 1))
    blocks = zip(*(torch.split(values, rows) for values in (states, starts, ends)), strict=True)
    parts = [
        _refined(
            _OwnTimes(field, z, start, end, points, method, max_steps, max_evaluations),
            accuracy,
            tolerance,
            refinements,
        )
        for z, start, end in blocks
    ]
    return ExactFlow(
        torch.cat([part.curves for part in parts], dim=1),
        torch.cat([part.error for part in parts]),
        torch.cat([part.converged for part in parts]),
        sum(part.evaluations for part in parts),
    )


def flow_to_end(
    field: Field,
    states: Tensor,
    start_times: Tensor,
    end_time: float,
    *,
    points: int = 2,
    max_evaluations: int | None = None,
) -> ExactFlow:
    """Follow the flow of each sample from its start time to one end, as accurately as a figure needs; see ``flow``."""
    return flow(
        field,
        states,
        start_times,
        end_time,
        points=points,
        accuracy=FIGURE_ACCURACY,
        refinements=6,
        max_steps=20_000,
        max_evaluations=max_evaluations,
    )


def _refined(solves: "_OwnTimes", accuracy: float, tolerance: float, refinements: int) -> ExactFlow:
    last = max(SMALLEST_TOLERANCE, tolerance / 10**refinements)
    open_samples = torch.arange(len(solves.states), device=solves.states.device)
    curves = solves(open_samples, tolerance)
    error = torch.full_like(curves[0, :, 0], torch.nan)
    while len(open_samples) > 0 and tolerance > 1.01 * last:
        tolerance /= 10
        finer = solves(open_samples, tolerance)
        change = (finer - curves[:, open_samples]).abs().amax(dim=(0, 2))
        size = finer.abs().amax(dim=(0, 2))
        curves[:, open_samples], error[open_samples] = finer, change
        # No change at all means that both made the same steps, which proves nothing. Comparisons with NaN are False: a
        # state that leaves the floating-point range does so at every tolerance, and is not followed any further.
        same = (change == 0) & solves.moves[open_samples]
        open_samples = open_samples[(change > accuracy * size) | same]
    converged = error <= accuracy * curves.abs().amax(dim=(0, 2))
    return ExactFlow(curves.reshape(len(curves), *solves.states.shape), error, converged, solves.evaluations)


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
        points: int,
        method: MethodName,
        max_steps: int,
        max_evaluations: int | None,
    ) -> None:
        self.states, self.moves, self.evaluations = states, starts != ends, 0
        self._field, self._shape, self._size = field, states.shape[1:], states.shape[1:].numel()
        self._points, self._method = points, method
        self._max_steps, self._max_evaluations = max_steps, max_evaluations
        numbers = per_sample(states)
        largest = numbers.abs().amax(dim=1)
        largest = torch.where(torch.isfinite(largest) & (largest > 0), largest, 1.0)
        # Powers of two, so that nothing is rounded, and not so small that they vanish when they are carried.
        exponent = torch.frexp(largest).exponent.clamp(-500, 1000)
        scale = torch.ldexp(torch.ones_like(largest), exponent).unsqueeze(1)
        carried = torch.cat([starts.unsqueeze(1), ends.unsqueeze(1), scale], dim=1)
        self._scale, self._rows = scale, torch.cat([numbers / scale, carried * _TINY], dim=1)

    def __call__(self, samples: Tensor, tolerance: float) -> Tensor:
        """Return curves ``(points, n, size)``."""
        rows = self._rows[samples]
        between = self._points > 2
        solution = solve(
            self._slope,
            rows,
            SolverSpec(method=self._method, rtol=tolerance, atol=tolerance, max_steps=self._max_steps),
            times=torch.linspace(0, 1, self._points, dtype=torch.float64, device=rows.device) if between else None,
            outputs="interpolate",  # landing on them, every tolerance would make the same steps
            max_evaluations=self._max_evaluations,
            compilation="never",
            warn=False,
        )
        self.evaluations += int(solution.evaluations.sum())
        curves = solution.trajectory if between else torch.stack([rows, solution.final])
        assert curves is not None
        return curves[:, :, : self._size] * self._scale[samples]

    def _slope(self, s: Tensor, rows: Tensor) -> Tensor:
        start, end, scale = (rows[:, self._size :] / _TINY).unbind(dim=1)
        t = start + (end - start) * s.reshape(-1)
        t = torch.clamp(t, torch.minimum(start, end), torch.maximum(start, end))
        states = (rows[:, : self._size] * scale.unsqueeze(1)).reshape(-1, *self._shape)
        slope = per_sample(self._field(t.reshape(-1, *(1 for _ in self._shape)), states))
        return torch.cat([((end - start) / scale).unsqueeze(1) * slope, rows.new_zeros(len(rows), 3)], dim=1)
