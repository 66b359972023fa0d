"""The exact flow of a field, followed from states at any times to one end, to an accuracy that is estimated.

Each curve is solved again with a tolerance ten times tighter until it changes by less than the accuracy asked for. Only
those that still change go on: at the kinks of ReLU a tight tolerance is dear, and for most curves not needed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core.solvers.solution import Field
from ode_core.solvers.solve import solve
from ode_core.specs.methods import MethodName
from ode_core.specs.solver import SolverSpec

METHOD: MethodName = "dopri5"
ACCURACY = 1e-5  # relative to the size of a curve: far below what a figure can show
FIRST_TOLERANCE = 1e-5
LAST_TOLERANCE = 1e-11
MAX_STEPS = 20_000


@dataclass(frozen=True)
class ExactFlow:
    """Solutions in float64, on the states' device.

    Attributes:
        curves: ``(points, n, *state)``, at equal fractions of each sample's own interval, the ends included; NaN
            where a solve failed.
        error: ``(n,)``, by how much a curve changed at most when the tolerance was tightened for the last time, in
            the units of the state: an estimate of its error, from above. NaN where a solve failed.
        converged: ``(n,)`` of bool: whether that is within the accuracy.
    """

    curves: Tensor
    error: Tensor
    converged: Tensor

    @property
    def ends(self) -> Tensor:
        """``(n, *state)``, the states at the end."""
        return self.curves[-1]


@torch.no_grad()
def flow_to_end(
    field: Field,
    states: Tensor,
    start_times: Tensor,
    end_time: float,
    *,
    points: int = 2,
    accuracy: float = ACCURACY,
    max_evaluations: int | None = None,
) -> ExactFlow:
    """Follow the flow from ``states`` at their own ``start_times`` to ``end_time``.

    Args:
        field: ``f(t, z)``; called with ``z`` ``(batch, *state)`` in float64.
        states: ``(n, *state)``.
        start_times: ``(n,)``.
        end_time: where all end.
        points: of each curve, at least 2.
        accuracy: relative to the largest absolute value on a curve.
        max_evaluations: bound on the evaluations of the field for one sample in one solve, or None.
    """
    shape = states.shape[1:]
    walk = _OwnTimes(field, shape, end_time, points, max_evaluations)
    starts = walk.starts(states, start_times)
    tolerance = FIRST_TOLERANCE
    curves = walk.curves(starts, tolerance)
    error = torch.full((len(starts),), torch.nan, dtype=torch.float64, device=starts.device)
    open_samples = torch.arange(len(starts), device=starts.device)
    while len(open_samples) > 0 and tolerance > LAST_TOLERANCE * 1.01:
        tolerance /= 10
        finer = walk.curves(starts[open_samples], tolerance)
        change = (finer - curves[:, open_samples]).abs().amax(dim=(0, 2))
        size = finer.abs().amax(dim=(0, 2))
        curves[:, open_samples] = finer
        error[open_samples] = change
        # No change at all means that both made the same steps, which proves nothing. Comparisons with NaN are False: a
        # curve that leaves the floating-point range is not followed any further.
        open_samples = open_samples[(change > accuracy * size) | (change == 0)]
    size = curves.abs().amax(dim=(0, 2))
    return ExactFlow(curves.reshape(points, -1, *shape), error, error <= accuracy * size)


class _OwnTimes:
    """Solves in which every sample runs over ``s`` in [0, 1] with ``t = start + (end - start) s``.

    A sample's start is the last number of its state, so that a solver may do with the batch what it likes.
    """

    def __init__(
        self, field: Field, shape: torch.Size, end_time: float, points: int, max_evaluations: int | None
    ) -> None:
        self._field, self._shape, self._size = field, shape, shape.numel()
        self._end_time, self._points, self._max_evaluations = end_time, points, max_evaluations

    def starts(self, states: Tensor, start_times: Tensor) -> Tensor:
        flat = states.double().reshape(len(states), self._size)
        return torch.cat([flat, start_times.to(flat).reshape(-1, 1)], dim=1)

    def curves(self, starts: Tensor, tolerance: float) -> Tensor:
        """Return ``(points, n, size)``."""
        scale = float(starts[:, : self._size].nan_to_num(0.0, 0.0, 0.0).square().mean().sqrt()) or 1.0
        solution = solve(
            self._slope,
            starts,
            SolverSpec(method=METHOD, rtol=tolerance, atol=min(1.0, tolerance * scale), max_steps=MAX_STEPS),
            times=torch.linspace(0, 1, self._points, dtype=torch.float64, device=starts.device),
            outputs="interpolate",  # landing on them, every tolerance would make the same steps
            max_evaluations=self._max_evaluations,
            compilation="never",
            warn=False,
        )
        assert solution.trajectory is not None
        return solution.trajectory[:, :, : self._size]

    def _slope(self, s: Tensor, w: Tensor) -> Tensor:
        begin = w[:, self._size :]
        length = self._end_time - begin
        t = (begin + length * s.reshape(-1, 1)).reshape(-1, *(1,) * len(self._shape))
        slope = self._field(t, w[:, : self._size].reshape(-1, *self._shape))
        return torch.cat([length * slope.reshape(-1, self._size), torch.zeros_like(begin)], dim=1)
