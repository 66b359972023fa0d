"""The one entry point: a field, a start and a solver make a solution."""

import math
import warnings

import torch
from torch import Tensor

from ode_core.solvers.adaptive import solve_adaptive
from ode_core.solvers.fixed_grid import solve_fixed_grid
from ode_core.solvers.implicit_adaptive import solve_implicit_adaptive
from ode_core.solvers.implicit_grid import solve_implicit_grid
from ode_core.solvers.output_times import require_output_times
from ode_core.solvers.solution import Field, Solution, broadcast_to_state, finite_samples
from ode_core.solvers.status import SolveStatus
from ode_core.specs.solver import DEFAULT_MAX_STEPS, SolverSpec

# Below this many rounding errors of the state's type the error estimate is noise.
SMALLEST_TOLERANCE_EPS = 50


class ToleranceWarning(UserWarning):
    """The relative tolerance asks for more digits than the precision has."""


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
    warn: bool = True,
) -> Solution:
    """Solve ``dz/dt = field(t, z)`` from ``z(t0) = z0`` to ``t1``.

    Args:
        field: ``f(t, z)``; see ``Field`` for the shapes of ``t``. Never called outside the interval.
        z0: ``(batch, *state)`` in float32 or float64; gradients flow through it and the field.
        solver: method and step rule.
        t0: start time.
        t1: end time, before or after ``t0``.
        times: ``(times,)`` output times within the interval, in the order of the walk, or None.
        max_evaluations: bound on the evaluations of the field for one sample, or None.
        throw: raise instead of returning a solution with failed samples.
        warn: warn of a tolerance that the precision cannot resolve; False where it was chosen on purpose, as
            in a ladder of tolerances.

    Returns:
        The solution; a sample that fails has a status and NaN, and leaves the others alone.

    Raises:
        ValueError: the arguments do not make a solve.
        SolveFailed: with ``throw``, when a sample fails.

    Warns:
        ToleranceWarning: ``rtol`` is below 50 rounding errors of ``z0``'s type.
    """
    _require_state(z0)
    if warn:
        _warn_of_tolerance(solver, z0.dtype)
    if not (math.isfinite(t0) and math.isfinite(t1)):
        raise ValueError(f"t0 and t1 must be finite; they are {t0} and {t1}")
    if times is not None:
        times = require_output_times(times, t0, t1)
    if t0 == t1:
        solution = _standing_still(z0, times)
    elif solver.adaptive:
        solution = _solve_adaptive(field, z0, solver, t0, t1, times, max_evaluations)
    else:
        solve_grid = solve_implicit_grid if solver.facts.family == "implicit" else solve_fixed_grid
        solution = solve_grid(
            field,
            z0,
            solver.method,
            solver.fixed_steps(t0, t1),
            t0=t0,
            t1=t1,
            times=times,
            max_evaluations=max_evaluations,
        )
    if throw:
        solution.raise_on_failure()
    return solution


def _solve_adaptive(
    field: Field,
    z0: Tensor,
    solver: SolverSpec,
    t0: float,
    t1: float,
    times: Tensor | None,
    max_evaluations: int | None,
) -> Solution:
    assert solver.rtol is not None
    assert solver.atol is not None
    solve_method = solve_implicit_adaptive if solver.facts.family == "implicit" else solve_adaptive
    return solve_method(
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


def _warn_of_tolerance(solver: SolverSpec, dtype: torch.dtype) -> None:
    smallest = SMALLEST_TOLERANCE_EPS * torch.finfo(dtype).eps
    if solver.rtol is not None and solver.rtol < smallest:
        warnings.warn(
            f"rtol {solver.rtol:g} is below what {dtype} can resolve: "
            f"use at least {smallest:.1g}, or compute in float64",
            ToleranceWarning,
            stacklevel=3,
        )


def _require_state(z0: Tensor) -> None:
    if z0.ndim < 1 or z0.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"z0 must be float32 or float64 of shape (batch, *state); it is {z0.dtype} of shape {tuple(z0.shape)}"
        )


def _standing_still(z0: Tensor, times: Tensor | None) -> Solution:
    """Return the solution over an interval of length 0: the start, and nothing was evaluated."""
    finite = finite_samples(z0)
    final = torch.where(broadcast_to_state(finite, z0), z0, torch.nan)
    nothing = torch.zeros_like(finite, dtype=torch.int64)
    return Solution(
        final=final,
        status=torch.where(finite, int(SolveStatus.SUCCESS), int(SolveStatus.NON_FINITE)),
        evaluations=nothing,
        accepted=nothing,
        rejected=nothing,
        last_step=nothing.double(),
        times=times,
        trajectory=None if times is None else final.expand(len(times), *final.shape),
    )
