"""Lady Windermere's fan: how the errors of single steps are carried to the end and add up.

From every state ``y_k`` of a numerical solution the exact flow is followed to the end ``T``, where it is at ``V_k``.
The first of these curves is the exact solution, the last is empty: ``V_N = y_N``. So ``V_{k+1} - V_k`` is the error of
step ``k`` alone, transported to ``T``, and

    y_N - z(T) = sum_k (V_{k+1} - V_k)

holds to round-off. Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section I.7.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core.audit.exact_flow import FIGURE_ACCURACY as ACCURACY
from ode_core.audit.exact_flow import flow, flow_to_end
from ode_core.solvers.solution import Field
from ode_core.specs.methods import MethodName

BRANCHES = 32
CURVE_POINTS = 65

_REFERENCE_METHOD: MethodName = "dopri8"  # another method than the continuations', so that the two check each other
_REFERENCE_MAX_STEPS = 50_000


@dataclass(frozen=True)
class ErrorFan:
    """The fans of ``n`` samples; states are in float64.

    Attributes:
        starts: the grid points from which the exact flow is followed, from 0 to the last but one of them.
        curves: ``(points, starts, n, *state)``, the continuations, at equal fractions of the time from their start, or
            from ``curves_from`` if that is later, to the end.
        ends: ``(starts + 1, n, *state)``, ``V`` at the starts and, last, the numerical end.
        global_error: ``(n, *state)``, numerical end minus the exact end, which was computed by itself.
        residual: ``(n,)``, ``|sum of the transported errors - global_error|`` over the sum of their sizes.
        error: ``(n,)``, how far a continuation is off at most, in the units of the state (an estimate from above).
        converged: ``(n,)`` of bool: whether every continuation converged, and the sum of the transported errors is the
            global error, to ``ACCURACY`` of the states' size. False where the numerical solution is not finite.
    """

    starts: list[int]
    curves: Tensor
    ends: Tensor
    global_error: Tensor
    residual: Tensor
    error: Tensor
    converged: Tensor

    @property
    def transported(self) -> Tensor:
        """``(starts, n, *state)``, the error of each step, or stretch of steps, as it arrives at the end."""
        return self.ends[1:] - self.ends[:-1]


def error_fan(
    field: Field,
    states: Tensor,
    times: Tensor,
    *,
    branches: int = BRANCHES,
    curve_points: int = CURVE_POINTS,
    curves_from: float | None = None,
    max_evaluations: int | None = None,
) -> ErrorFan:
    """Return the fan of a numerical solution.

    Args:
        field: ``f(t, z)``, evaluated in float64.
        states: ``(steps + 1, n, *state)``, the numerical solution at the grid points.
        times: ``(steps + 1,)``, the grid.
        branches: at most so many continuations a sample; with more steps, one from every few steps.
        curve_points: points of each continuation.
        curves_from: time from which the continuations are kept; None: all of them.
        max_evaluations: bound on the evaluations of the field for one sample in one solve, or None.
    """
    steps, n = len(states) - 1, states.shape[1]
    shape = states.shape[2:]
    states, times = states.double(), times.double()
    end_time = float(times[-1])
    stride = -(-steps // branches)
    starts = list(range(0, steps, stride))
    begins, begin_times = states[starts].reshape(-1, *shape), times[starts].repeat_interleave(n)
    error, converged = torch.zeros_like(begin_times), torch.ones_like(begin_times, dtype=torch.bool)
    early = torch.nonzero(begin_times < (begin_times[0] if curves_from is None else curves_from)).flatten()
    if curves_from is not None and len(early) > 0:
        before = flow_to_end(field, begins[early], begin_times[early], curves_from, max_evaluations=max_evaluations)
        begins, begin_times = begins.index_copy(0, early, before.ends), begin_times.clone()
        begin_times[early] = curves_from
        error[early], converged[early] = before.error, before.converged
    continued = flow_to_end(field, begins, begin_times, end_time, points=curve_points, max_evaluations=max_evaluations)
    error, converged = error.maximum(continued.error), converged & continued.converged
    curves = continued.curves.reshape(curve_points, len(starts), n, *shape)
    ends = torch.cat([curves[-1], states[-1:]])
    global_error = states[-1] - _exact_end(field, states[0], float(times[0]), end_time, max_evaluations)
    transported = ends[1:] - ends[:-1]
    sizes = transported.reshape(len(starts), n, -1).norm(dim=2).sum(dim=0)
    missing = (transported.sum(dim=0) - global_error).reshape(n, -1).norm(dim=1)
    residual = torch.where(sizes > 0, missing / sizes, missing)
    size = torch.cat([states, ends]).reshape(-1, n, shape.numel()).abs().amax(dim=(0, 2))
    # The ends of two solves, each right to the accuracy; comparisons with NaN are False.
    adds_up = missing <= 2 * ACCURACY * size
    converged = converged.reshape(len(starts), n).all(dim=0) & adds_up
    return ErrorFan(starts, curves, ends, global_error, residual, error.reshape(len(starts), n).amax(dim=0), converged)


def _exact_end(field: Field, z0: Tensor, t0: float, t1: float, max_evaluations: int | None) -> Tensor:
    """Return ``(n, *state)``, the exact end, NaN where no tolerance gives one that the next confirms."""
    found = flow(
        field,
        z0,
        torch.full((len(z0),), t0, dtype=torch.float64),
        t1,
        accuracy=ACCURACY,
        first_tolerance=1e-6,
        max_steps=_REFERENCE_MAX_STEPS,
        max_evaluations=max_evaluations,
        method=_REFERENCE_METHOD,
    )
    return torch.where(found.converged.reshape(-1, *(1,) * (z0.ndim - 1)), found.ends, torch.nan)
