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
    Walk,
    broken_samples,
    plan_step,
    renew_slope,
    take_step,
    within_step,
)
from ode_core.solvers.compilation import Compilation
from ode_core.solvers.compiled_passes import compilable_passes
from ode_core.solvers.explicit_methods import TABLEAUS
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
from ode_core.solvers.step_history import Pass, StepHistory
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
        tableau = TABLEAUS[solver.method]
        interpolating = times is not None and outputs == "interpolate"
        self.field, self.times = field, times
        self.rtol, self.atol, self.interval = solver.rtol, solver.atol, abs(t1 - t0)
        self.compilation, self.execution = compilation, Execution()
        self.record: Record | None = None
        method = ExplicitStep(tableau, with_extra_stages=interpolating)
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

    def run(self) -> Solution:
        """Walk until every sample has arrived or failed."""
        if 2 + self.rule.method.least_evaluations > int(self.limits.max_evaluations):
            self.walk = self.walk.ended(self.walk.running, SolveStatus.BUDGET_EXCEEDED)
        else:
            self._start()
            self._walk()
        walk = self.walk
        succeeded = broadcast_to_state(walk.status == SolveStatus.SUCCESS, walk.z)
        return Solution(
            final=torch.where(succeeded, walk.z, torch.nan),
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
            reason = "the steps are recorded"
        elif not is_plain(self.walk.z):
            reason = "within a transform of torch.func or with tangents"
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
                break
            start = time.perf_counter()
            self._pass()
            if passes is not None:
                passes.kind.seconds += time.perf_counter() - start
        compiled = passes is not None and passes.kind.graph is not None and passes.ran
        if passes is not None:
            reason = passes.kind.reason(self.compilation)
        stacked = getattr(self.field, "stacked", None) or 1
        path: ExecutionPath = "compiled" if compiled else "eager"
        self.execution = Execution(path, hasattr(type(self.field), "tape"), stacked, reason)

    def _start(self) -> None:
        """Evaluate the slope at the start and choose the first step; a sample without a finite slope fails there."""
        walk = self.walk
        slope = self._slope_at_start(walk.z)
        broken = ~(finite_samples(slope) & finite_samples(walk.z))
        z = walk.z
        if slope.requires_grad and bool(broken.any()):
            # Backwards, NaN times the zero that reaches it is NaN: a failed sample would spoil the gradient
            # of all. So it is put out of the way, where the field is most likely finite.
            z = torch.where(broadcast_to_state(broken, z), 0.0, z)
            slope = self._slope_at_start(z)
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
        if attempt.z_new.requires_grad or self.record is not None:
            broken = broken | (walk.running & ~_finite_stages(attempt))
            if attempt.z_new.requires_grad and bool(broken.any()):
                attempt = self._attempt_without(broken, plan)
        new, moved = take_step(walk, plan, attempt, broken, self.limits, rule.method, rule.control)
        if self.record is not None:
            self._record(moved, plan)
        if not rule.method.first_same_as_last:
            renewed = moved if rule.needs_end_slope else moved & new.running
            if bool(renewed.any()):
                new = renew_slope(self.field, new, renewed)
        if self.history is not None:
            self.history.append(Pass(new.t, new.z, within_step(rule, walk, plan, attempt, new)))
        self.walk = new

    def _record(self, moved: Tensor, plan: Plan) -> None:
        samples = torch.nonzero(moved).flatten()
        if self.record is not None and samples.numel():
            walk, signed = self.walk, self.rule.direction * plan.length[samples]
            self.record(AcceptedStep(walk.z[samples], samples, walk.t[samples], signed, plan.target[samples]))

    def _attempt_without(self, broken: Tensor, plan: Plan) -> Attempt:
        """Repeat a step with length 0 for samples that broke in it.

        Only where gradients are wanted: their inf and NaN must not be in the graph, where backwards they
        would turn the zero that reaches them into NaN. The others compute the same numbers again, which
        are not counted.
        """
        standing = Plan(
            torch.where(broken, 0.0, plan.length), torch.where(broken, self.walk.t, plan.target), plan.landing
        )
        return self.rule.method.attempt(self.field, self.walk, standing, self.limits, self.rule.direction)

    def _trajectory(self) -> Tensor | None:
        if self.history is None or self._output_of is None:
            return None
        return self.history.trajectory()[self._output_of]


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
