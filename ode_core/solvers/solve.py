"""The one entry point: a field, a start and a solver make a solution."""

import dataclasses
import math
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ode_core.solvers.adaptive import solve_adaptive
from ode_core.solvers.compilation import Compilation
from ode_core.solvers.fixed_grid import nothing_done, solve_fixed_grid
from ode_core.solvers.gradients.adjoint import solve_with_adjoint
from ode_core.solvers.gradients.backprop import solve_with_graph
from ode_core.solvers.gradients.checkpoint import solve_with_checkpoints
from ode_core.solvers.gradients.reversible import solve_reversibly
from ode_core.solvers.gradients.tensors import gradient_tensors
from ode_core.solvers.implicit_grid import solve_implicit_grid
from ode_core.solvers.leapfrog import solve_leapfrog
from ode_core.solvers.output_times import OutputMode, require_output_times
from ode_core.solvers.record import Record
from ode_core.solvers.solution import Execution, Field, Solution, broadcast_to_state, finite_samples
from ode_core.solvers.stacked_grids import can_be_lane, keeps_lanes, lanes_at_once, solve_stacked_grids
from ode_core.solvers.status import SolveStatus
from ode_core.solvers.torchdiffeq_backend import (
    adaptive_with_torchdiffeq,
    fixed_grid_with_torchdiffeq,
    uniform_grid,
)
from ode_core.solvers.truncated_grid import precision_of, truncated_grid
from ode_core.specs.gradient import GradientMode, check_gradient
from ode_core.specs.methods import MethodName
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
    outputs: OutputMode = "land",
    gradient: GradientMode = "backprop",
    parameters: Iterable[Tensor] | None = None,
    max_evaluations: int | None = None,
    compilation: Compilation = "auto",
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
        outputs: an adaptive solve lands on every output time (``land``), which may take more steps, or reads
            them off its interpolant (``interpolate``), whose error is of the method's order. A fixed grid is never
            changed by output times.
        gradient: how gradients are computed; see ``ode_core.specs.gradient``.
        parameters: the tensors beside ``z0`` that gradients are wanted for. None: the parameters of a field that
            is a module, or its ``tensors``. Not used by ``backprop``, which finds them by itself.
        max_evaluations: bound on the evaluations of the field for one sample, or None.
        compilation: whether steps without gradients may be compiled to one graph: ``auto`` once steps of the kind have
            taken as long eagerly as compiling takes, ``always``, or ``never``. The solution's ``execution`` says
            what was done.
        throw: raise instead of returning a solution with failed samples.
        warn: warn of a tolerance that the precision cannot resolve, and of corrections that do not converge;
            False where the solver was chosen on purpose, as in a ladder of tolerances.

    Returns:
        The solution; a sample that fails has a status and NaN, and leaves the others alone. Where the solver
        names torchdiffeq as its backend, an adaptive solve goes by the whole batch: one that fails stops all.

    Raises:
        ValueError: the arguments do not make a solve.
        SolveFailed: with ``throw``, when a sample fails.

    Warns:
        ToleranceWarning: ``rtol`` is below 50 rounding errors of ``z0``'s type.
        UserWarning: the corrections of ``implicit_adams`` did not converge in a step, by torchdiffeq. The step is
            still of the method's order, but as that of an explicit method.
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
    else:
        solution = _with_gradient(
            gradient, parameters, field, z0, solver, t0, t1, times, outputs, max_evaluations, compilation, warn
        )
    if throw:
        solution.raise_on_failure()
    return solution


def solve_together(
    field: Field,
    z0: Tensor,
    solvers: Sequence[SolverSpec],
    *,
    t0: float = 0.0,
    t1: float = 1.0,
    max_evaluations: int | None = None,
    compilation: Compilation = "auto",
) -> list[Solution]:
    """Solve from the same start with each of ``solvers``; the same as ``solve`` with each, to round-off.

    Solvers of one method on uniform grids are stacked: each evaluation of the field is one for all of them. That is
    for fields that keep a tape and without gradients; where it cannot be done the solves are made one after another,
    as each solution's ``execution`` says.

    Args:
        field: ``f(t, z)``.
        z0: ``(batch, *state)``.
        solvers: methods and step rules.
        t0: start time.
        t1: end time.
        max_evaluations: bound on the evaluations of the field for one sample in each solve, or None.
        compilation: as in ``solve``, for the solves that are not stacked.

    Returns:
        A solution for each solver, in their order.
    """
    found: dict[int, Solution] = {}
    if t0 != t1 and keeps_lanes(field, z0):
        lanes: dict[MethodName, dict[int, int]] = {}
        for position, solver in enumerate(solvers):
            if can_be_lane(solver):
                steps = solver.fixed_steps(t0, t1)
                if max_evaluations is not None and solver.facts.evaluations(steps) > max_evaluations:
                    found[position] = nothing_done(z0, None, SolveStatus.BUDGET_EXCEEDED)
                else:
                    lanes.setdefault(solver.method, {})[position] = steps
        for method, steps_of in lanes.items():
            # Lanes of about as many steps share the most.
            positions, size = sorted(steps_of, key=steps_of.__getitem__), lanes_at_once(field, z0, method)
            for part in (positions[first : first + size] for first in range(0, len(positions), size)):
                if len(part) > 1:
                    stack = solve_stacked_grids(field, z0, method, [steps_of[p] for p in part], t0=t0, t1=t1)
                    found |= dict(zip(part, stack, strict=True))
    return [
        found[position]
        if position in found
        else solve(
            field, z0, solver, t0=t0, t1=t1, max_evaluations=max_evaluations, compilation=compilation, warn=False
        )
        for position, solver in enumerate(solvers)
    ]


def _with_gradient(
    gradient: GradientMode,
    parameters: Iterable[Tensor] | None,
    field: Field,
    z0: Tensor,
    solver: SolverSpec,
    t0: float,
    t1: float,
    times: Tensor | None,
    outputs: OutputMode,
    max_evaluations: int | None,
    compilation: Compilation,
    warn: bool,
) -> Solution:
    def plain(start: Tensor) -> Solution:
        return _run(
            field,
            start,
            solver,
            t0=t0,
            t1=t1,
            times=times,
            outputs=outputs,
            max_evaluations=max_evaluations,
            compilation=compilation,
            warn=warn,
        )

    check_gradient(gradient, solver)
    if gradient == "backprop":
        # With tolerances our walk itself keeps failed samples out of the graph; in torchdiffeq's all fail together.
        return plain(z0) if solver.adaptive else solve_with_graph(plain, z0)
    tensors = gradient_tensors(field, parameters, gradient)
    if not torch.is_grad_enabled() or not (z0.requires_grad or tensors):
        return plain(z0)
    if gradient == "reversible":
        steps = solver.fixed_steps(t0, t1)
        solution = solve_reversibly(
            field, z0, steps, tensors, t0=t0, t1=t1, times=times, max_evaluations=max_evaluations
        )
        return _explained(solution, "a reversible method")
    if gradient == "checkpoint":
        return solve_with_checkpoints(
            _run,
            field,
            z0,
            solver,
            tensors,
            t0=t0,
            t1=t1,
            times=times,
            outputs=outputs,
            max_evaluations=max_evaluations,
        )
    return solve_with_adjoint(
        _run,
        field,
        z0,
        solver,
        tensors,
        coupled=gradient == "adjoint",
        t0=t0,
        t1=t1,
        times=times,
        outputs=outputs,
        max_evaluations=max_evaluations,
    )


def _run(
    field: Field,
    z0: Tensor,
    solver: SolverSpec,
    *,
    t0: float,
    t1: float,
    times: Tensor | None = None,
    outputs: OutputMode = "land",
    max_evaluations: int | None = None,
    compilation: Compilation = "never",
    warn: bool = False,
    record: Record | None = None,
) -> Solution:
    if solver.runs_on == "torchdiffeq":
        solution = _solve_with_torchdiffeq(field, z0, solver, t0, t1, times, outputs, max_evaluations, warn)
        return _explained(solution, "torchdiffeq makes the steps")
    if solver.adaptive:
        return solve_adaptive(
            field,
            z0,
            solver,
            t0=t0,
            t1=t1,
            times=times,
            outputs=outputs,
            max_evaluations=max_evaluations,
            compilation=compilation,
            record=record,
        )
    if solver.facts.family == "reversible":
        steps = solver.fixed_steps(t0, t1)
        solution = solve_leapfrog(field, z0, steps, t0=t0, t1=t1, times=times, max_evaluations=max_evaluations)
        return _explained(solution, "a reversible method")
    return _solve_fixed(field, z0, solver, t0, t1, times, max_evaluations, record, compilation)


def _explained(solution: Solution, reason: str) -> Solution:
    """Return a solution of an eager solve with the reason why there is no faster path for it."""
    return dataclasses.replace(solution, execution=Execution("eager", reason=reason))


def _solve_fixed(
    field: Field,
    z0: Tensor,
    solver: SolverSpec,
    t0: float,
    t1: float,
    times: Tensor | None,
    max_evaluations: int | None,
    record: Record | None,
    compilation: Compilation,
) -> Solution:
    steps = solver.fixed_steps(t0, t1, precision_of(z0.dtype))
    if solver.facts.family == "implicit":
        return solve_implicit_grid(
            field, z0, solver.method, steps, t0=t0, t1=t1, times=times, max_evaluations=max_evaluations
        )
    return solve_fixed_grid(
        field,
        z0,
        solver.method,
        steps,
        t0=t0,
        t1=t1,
        times=times,
        max_evaluations=max_evaluations,
        grid=_given_grid(solver, steps, t0, t1, z0.dtype),
        record=record,
        compilation=compilation,
    )


def _solve_with_torchdiffeq(
    field: Field,
    z0: Tensor,
    solver: SolverSpec,
    t0: float,
    t1: float,
    times: Tensor | None,
    outputs: OutputMode,
    max_evaluations: int | None,
    warn: bool,
) -> Solution:
    if solver.rtol is not None and solver.atol is not None:
        return adaptive_with_torchdiffeq(
            field,
            z0,
            solver.method,
            rtol=solver.rtol,
            atol=solver.atol,
            max_steps=solver.max_steps or DEFAULT_MAX_STEPS,
            t0=t0,
            t1=t1,
            times=times,
            outputs=outputs,
            max_evaluations=max_evaluations,
        )
    steps = solver.fixed_steps(t0, t1, precision_of(z0.dtype))
    grid = _given_grid(solver, steps, t0, t1, z0.dtype)
    return fixed_grid_with_torchdiffeq(
        field,
        z0,
        solver.method,
        uniform_grid(steps, t0, t1) if grid is None else grid,
        t0=t0,
        t1=t1,
        times=times,
        max_evaluations=max_evaluations,
        order=solver.max_order,
        warn=warn,
    )


def _given_grid(solver: SolverSpec, steps: int, t0: float, t1: float, dtype: torch.dtype) -> Tensor | None:
    """Return the solver's grid where it is not the uniform one."""
    if solver.grid != "truncate" or solver.step_size is None:
        return None
    return truncated_grid(solver.step_size, steps, t0, t1, dtype)


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
