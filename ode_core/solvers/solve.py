"""The one entry point: a field, a start and a solver make a solution."""

import torch
from torch import Tensor

from ode_core.solvers.adaptive import solve_adaptive
from ode_core.solvers.fixed_grid import solve_fixed_grid
from ode_core.solvers.solution import Field, Solution
from ode_core.specs.solver import DEFAULT_MAX_STEPS, SolverSpec


def solve(
    field: Field,
    z0: Tensor,
    solver: SolverSpec,
    *,
    t0: float = 0.0,
    t1: float = 1.0,
    times: Tensor | None = None,
    max_evaluations: int | None = None,
    throw: bool = False,
) -> Solution:
    """Solve ``dz/dt = field(t, z)`` from ``z(t0) = z0`` to ``t1``.

    Args:
        field: ``f(t, z)``; see ``Field`` for the shapes of ``t``.
        z0: ``(batch, *state)`` in float32 or float64; gradients flow through it and the field.
        solver: method and step rule.
        t0: start time.
        t1: end time, before or after ``t0``.
        times: ``(times,)`` output times within the interval, in the order of the walk, or None.
        max_evaluations: bound on the evaluations of the field for one sample, or None.
        throw: raise instead of returning a solution with failed samples.

    Returns:
        The solution; a sample that fails has a status and NaN, and leaves the others alone.

    Raises:
        ValueError: the arguments do not make a solve.
        SolveFailed: with ``throw``, when a sample fails.
    """
    if z0.ndim < 2 or not z0.is_floating_point():
        raise ValueError(f"z0 must be floating point of shape (batch, *state); it is {z0.dtype} of {tuple(z0.shape)}")
    if times is not None:
        _require_times(times, t0, t1)
    if t0 == t1 or not solver.adaptive:
        steps = 1 if t0 == t1 else solver.fixed_steps(t0, t1)
        solution = solve_fixed_grid(
            field, z0, solver.method, steps, t0=t0, t1=t1, times=times, max_evaluations=max_evaluations
        )
    else:
        assert solver.rtol is not None
        assert solver.atol is not None
        solution = solve_adaptive(
            field,
            z0,
            solver.method,
            rtol=solver.rtol,
            atol=solver.atol,
            max_steps=solver.max_steps or DEFAULT_MAX_STEPS,
            t0=t0,
            t1=t1,
            times=times,
            max_evaluations=max_evaluations,
        )
    if throw:
        solution.raise_on_failure()
    return solution


def _require_times(times: Tensor, t0: float, t1: float) -> None:
    if times.ndim != 1 or times.numel() == 0:
        raise ValueError("times must be a non-empty vector")
    values = times.double()
    ordered = values.diff() >= 0 if t1 >= t0 else values.diff() <= 0
    inside = (values >= min(t0, t1)) & (values <= max(t0, t1))
    if not (bool(torch.isfinite(values).all()) and bool(ordered.all()) and bool(inside.all())):
        raise ValueError(f"times must run from {t0:g} towards {t1:g} in order, within the interval")
