"""Embedded Runge-Kutta methods with step control for each sample by itself.

Every sample has its own time, step, error norm, status and counts, so its result does not depend on
the other samples of the batch. Steps land exactly on the end and, unless outputs are interpolated, on every
output time; the field is never called outside the interval.
"""

import time

import torch
from torch import Tensor

from ode_core.solvers.adaptive_step import (
    RUNNING,
    Attempt,
    ExplicitStep,
    Limits,
    PassRule,
    Plan,
    StepMethod,
    Walk,
    broken_samples,
    least_evaluations,
    parked,
    plan_step,
    slope_at,
    stale_slopes,
    take_step,
    with_renewed_slope,
    within_step,
)
from ode_core.solvers.compilation import Compilation
from ode_core.solvers.compiled_passes import compilable_passes
from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.implicit_step import ImplicitStep
from ode_core.solvers.implicit_tableaus import IMPLICIT_TABLEAUS
from ode_core.solvers.initial_step import initial_step
from ode_core.solvers.output_times import OutputMode, snapped_to_ends
from ode_core.solvers.record import AcceptedStep, Record
from ode_core.solvers.solution import (
    Execution,
    ExecutionPath,
    Field,
    Solution,
    broadcast_to_state,
    finite_samples,
    is_plain,
)
from ode_core.solvers.status import SolveStatus
from ode_core.solvers.step_control import ErrorHistory, StepControl
from ode_core.solvers.step_history import StepHistory, pass_of
from ode_core.solvers.step_polynomial import step_polynomial
from ode_core.specs.solver import DEFAULT_MAX_STEPS, SolverSpec

_NO_LIMIT = 2**62


def solve_adaptive(
    field: Field,
    z0: Tensor,
    solver: SolverSpec,
    *,
    t0: float,
    t1: float,
    times: Tensor | None = None,
    outputs: OutputMode = "land",
    max_evaluations: int | None = None,
    compilation: Compilation = "auto",
    record: Record | None = None,
) -> Solution:
    """Solve from ``t0`` to ``t1`` with error control; see ``solve`` for the arguments.

    A step is accepted when the root mean square over the sample of
    ``error / (atol + rtol max(|z|, |z_new|))`` is at most 1. Evaluations: 2 at the start (the slope and
    the initial step), then ``stages - 1`` a step; a method whose last stage is not the next first one
    needs one more after every accepted step but the last. Interpolated outputs need that one too, and the
    interpolant's extra stages in every step.

    Gradients flow through the accepted steps, not through the choice of their lengths. ``record`` is called
    with every step that was accepted.
    """
    walk = _AdaptiveWalk(field, z0, solver, t0, t1, times, outputs, max_evaluations, compilation)
    walk.record = record
    return walk.run()


class _AdaptiveWalk:
    """One adaptive solve of a batch."""

    def __init__(
        self,
        field: Field,
        z0: Tensor,
        solver: SolverSpec,
        t0: float,
        t1: float,
        times: Tensor | None,
        outputs: OutputMode,
        max_evaluations: int | None,
        compilation: Compilation,
    ) -> None:
        assert solver.rtol is not None
        assert solver.atol is not None
        implicit = IMPLICIT_TABLEAUS.get(solver.method)
        tableau = implicit or TABLEAUS[solver.method]
        interpolating = times is not None and outputs == "interpolate"
        self.field, self.times = field, times
        self.rtol, self.atol, self.interval = solver.rtol, solver.atol, abs(t1 - t0)
        self.compilation, self.execution = compilation, Execution()
        self.record: Record | None = None
        method: StepMethod
        if implicit is None:
            method = ExplicitStep(tableau, with_extra_stages=interpolating)
        else:
            method = ImplicitStep(field, z0, implicit, max_evaluations)
        self.rule = PassRule(
            method=method,
            control=StepControl(method.control_order, solver.controller or "i"),
            direction=1.0 if t1 >= t0 else -1.0,
            polynomial=step_polynomial(tableau) if interpolating else None,
            key=(solver.method, solver.controller or "i", t1 >= t0, interpolating),
        )
        snapped = None if times is None else snapped_to_ends(times.to(z0.device), t0, t1)
        self.history: StepHistory | None = None
        self._output_of: Tensor | None = None
        distinct = []
        if snapped is not None:
            # Equal output times are one stop.
            values, self._output_of = torch.unique_consecutive(snapped, return_inverse=True)
            self.history = StepHistory(values, t0, z0, self.rule.direction)
            distinct = [] if interpolating else [t for t in values.tolist() if t not in (t0, t1)]
        self.limits = _limits(solver, z0, [*distinct, t1], max_evaluations, self.interval)
        self.walk = _at_start(z0, t0)
        # Time and state that every sample has reached. With a graph the walk leaves ended samples elsewhere.
        self.reached = (self.walk.t, self.walk.z)

    def run(self) -> Solution:
        """Walk until every sample has arrived or failed."""
        if 2 + least_evaluations(self.rule) > int(self.limits.max_evaluations):
            self.walk = self.walk.ended(self.walk.running, SolveStatus.BUDGET_EXCEEDED)
        else:
            self._start()
            self._walk()
        walk = self.walk
        succeeded = broadcast_to_state(walk.status == SolveStatus.SUCCESS, walk.z)
        return Solution(
            final=torch.where(succeeded, self.reached[1], torch.nan),
            status=walk.status,
            evaluations=walk.evaluations,
            accepted=walk.accepted,
            rejected=walk.rejected,
            last_step=walk.last_step,
            times=self.times,
            trajectory=self._trajectory(),
            execution=self.execution,
        )

    def _walk(self) -> None:
        """Make passes until every sample has arrived or failed, compiled ones where that is possible and pays."""
        passes = None
        if self.walk.slope.requires_grad:
            reason = "gradients are wanted"
        elif self.record is not None:
            reason = "the steps are recorded for the gradient"
        elif not (is_plain(self.walk.z) and is_plain(self.walk.slope)):
            reason = "within a transform of torch.func or with tangents"
        elif isinstance(self.rule.method, ImplicitStep):
            reason = "an implicit step iterates as often as its samples need"
        elif self.compilation == "never":
            reason = "compilation is off"
        else:
            passes = compilable_passes(
                self.field, self.walk, self.limits, self.rule, remembered=self.history is not None
            )
            reason = "" if passes else "the field is not known to be a function of its tensors, or the batch is large"
        while bool(self.walk.running.any()):
            if passes is not None and passes.kind.is_due(self.compilation):
                self.walk = passes.run(self.walk, self.history)
                self.reached = (self.walk.t, self.walk.z)
                continue  # done, or the graph failed and the rest is made eagerly
            start = time.perf_counter()
            self._pass()
            if passes is not None:
                passes.kind.seconds += time.perf_counter() - start
        if passes is not None:
            reason = passes.kind.reason(self.compilation)
        stacked = getattr(self.field, "stacked", None) or 1
        path: ExecutionPath = "compiled" if passes is not None and passes.ran else "eager"
        self.execution = Execution(path, hasattr(type(self.field), "tape"), stacked, reason)

    def _start(self) -> None:
        """Evaluate the slope at the start and choose the first step; a sample without a finite slope fails there."""
        walk = self.walk
        slope = self._slope_at_start(walk.z)
        broken = ~(finite_samples(slope) & finite_samples(walk.z))
        z = walk.z
        if slope.requires_grad and bool(broken.any()):
            # Backwards, NaN times the zero that reaches it is NaN: a failed sample would spoil the gradient
            # of all. So another sample takes its place.
            good = z[~broken]
            if len(good) > 0:
                z = torch.where(broadcast_to_state(broken, z), good[0], z)
                slope = self._slope_at_start(z)
            else:
                z, slope = z.detach(), torch.zeros_like(slope)
        evaluations = torch.ones_like(walk.evaluations)
        walk = walk._replace(z=z, slope=slope, evaluations=evaluations).ended(broken, SolveStatus.NON_FINITE)
        h = initial_step(
            self.field,
            z.detach(),
            slope.detach(),
            walk.t,
            torch.full_like(walk.t, self.interval),
            direction=self.rule.direction,
            order=self.rule.method.control_order,
            rtol=self.rtol,
            atol=self.atol,
        )
        self.walk = walk._replace(h=h, evaluations=walk.evaluations + walk.running)

    def _slope_at_start(self, z: Tensor) -> Tensor:
        return self.field(broadcast_to_state(self.walk.t, z).to(z.dtype), z)

    def _pass(self) -> None:
        walk, rule = self.walk, self.rule
        plan = plan_step(walk, self.limits, rule.direction)
        attempt = rule.method.attempt(self.field, walk, plan, self.limits, rule.direction)
        broken = broken_samples(walk, attempt)
        if attempt.z_new.requires_grad:
            broken = broken | (walk.running & ~_finite_stages(attempt))
            if bool(broken.any()):
                attempt = self._attempt_without(broken, plan, attempt)
        new, moved = take_step(walk, plan, attempt, broken, self.limits, rule)
        if self.record is not None:
            self._record(self.record, plan, moved)
        new = self._with_slopes(walk, new, moved)
        with_graph = attempt.z_new.requires_grad
        self.reached = self._reached(walk, new) if with_graph else (new.t, new.z)
        if self.history is not None:
            self.history.append(pass_of(*self.reached, within_step(rule, walk, plan, attempt, new)))
        # With a graph, ended samples wait where the field is known to be finite; see _attempt_without.
        self.walk = parked(~new.running, walk, new) if with_graph else new

    def _with_slopes(self, walk: Walk, new: Walk, moved: Tensor) -> Walk:
        """Return the new walk with a slope at every state that a further step, or an output, starts from."""
        stale = stale_slopes(walk, new, moved, self.rule)
        if not bool(stale.any()):
            return new
        if not new.z.requires_grad:
            return with_renewed_slope(walk, new, slope_at(self.field, new), stale)
        fresh = slope_at(self.field, parked(~stale, walk, new))
        lost = stale & ~finite_samples(fresh)
        if bool(lost.any()):
            clean = slope_at(self.field, parked(~stale | lost, walk, new))
            fresh = torch.where(broadcast_to_state(lost, clean), torch.nan, clean)
        return with_renewed_slope(walk, new, fresh, stale)

    def _reached(self, walk: Walk, new: Walk) -> tuple[Tensor, Tensor]:
        t, z = self.reached
        moving = broadcast_to_state(walk.running, new.z)
        return torch.where(walk.running, new.t, t), torch.where(moving, new.z, z)

    def _attempt_without(self, broken: Tensor, plan: Plan, attempt: Attempt) -> Attempt:
        """Repeat a step with length 0 for samples that broke in it.

        Only where gradients are wanted: their inf and NaN must not be in the graph, where backwards they
        would turn the zero that reaches them into NaN. The others compute the same numbers again, which
        are not counted.
        """
        standing = Plan(
            torch.where(broken, 0.0, plan.length), torch.where(broken, self.walk.t, plan.target), plan.landing
        )
        method = self.rule.method
        if isinstance(method, ImplicitStep):
            return method.repeated(self.field, self.walk, standing, attempt, self.rule.direction)
        return method.attempt(self.field, self.walk, standing, self.limits, self.rule.direction)

    def _record(self, record: Record, plan: Plan, moved: Tensor) -> None:
        samples = torch.nonzero(moved).flatten()
        if samples.numel():
            walk, lengths = self.walk, self.rule.direction * plan.length
            record(AcceptedStep(walk.z[samples], samples, walk.t[samples], lengths[samples], plan.target[samples]))

    def _trajectory(self) -> Tensor | None:
        if self.history is None or self._output_of is None:
            return None
        outputs = self.history.trajectory()
        return outputs if len(outputs) == len(self._output_of) else outputs[self._output_of]


def _limits(solver: SolverSpec, z0: Tensor, stops: list[float], max_evaluations: int | None, interval: float) -> Limits:
    def number(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=z0.device)

    def count(value: int) -> Tensor:
        return torch.tensor(value, dtype=torch.int64, device=z0.device)

    return Limits(
        stops=torch.tensor(stops, dtype=torch.float64, device=z0.device),
        rtol=number(solver.rtol or 0.0),
        atol=number(solver.atol or 0.0),
        max_steps=count(solver.max_steps or DEFAULT_MAX_STEPS),
        max_evaluations=count(_NO_LIMIT if max_evaluations is None else max_evaluations),
        shortest=number(torch.finfo(z0.dtype).eps ** 2 * interval),
    )


def _at_start(z0: Tensor, t0: float) -> Walk:
    time = torch.full((z0.shape[0],), t0, dtype=torch.float64, device=z0.device)
    none = torch.zeros_like(time, dtype=torch.int64)
    return Walk(
        z=z0,
        slope=torch.zeros_like(z0),
        t=time,
        h=torch.zeros_like(time),
        history=ErrorHistory.none_yet(time),
        rejected_before=torch.zeros_like(none, dtype=torch.bool),
        stop=none,
        status=torch.full_like(none, RUNNING),
        evaluations=none,
        accepted=none,
        rejected=none,
        last_step=torch.zeros_like(time),
    )


def _finite_stages(attempt: Attempt) -> Tensor:
    """``(batch,)`` of bool: every slope is finite."""
    return torch.stack([finite_samples(slope) for slope in (*attempt.slopes, *attempt.extra)]).all(dim=0)
