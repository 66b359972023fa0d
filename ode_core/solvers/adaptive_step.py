"""One pass of an adaptive solve: plan a step for every sample, try it, take it or not. Pure functions of tensors.

All bookkeeping is ``(batch,)`` and every sample's numbers depend on that sample alone. There is no branch on a
value, so that a pass compiles to one graph.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ode_core.solvers.solution import Field, broadcast_to_state, finite_samples
from ode_core.solvers.status import SolveStatus
from ode_core.solvers.step_control import ErrorHistory, StepControl, combined_ratio, error_ratio
from ode_core.solvers.step_polynomial import StepPolynomial, combine
from ode_core.solvers.tableaus import ButcherTableau

RUNNING = -1

# A step that would end this close before a stop is stretched to it: the sliver left over would cost a whole
# step. As in Hairer's DOPRI5.
_STRETCH = 1.01


class Walk(NamedTuple):
    """Where every sample stands. ``z`` and ``slope`` are ``(batch, *state)``, the rest ``(batch,)``.

    Attributes:
        z: the state.
        slope: the field at the state.
        t: the time, in float64.
        h: the length the next step should have, in float64.
        history: the error ratios of the steps before.
        rejected_before: whether the last step was rejected.
        stop: which of the stops comes next.
        status: ``RUNNING`` or a ``SolveStatus``.
        evaluations: evaluations of the field so far.
        accepted: accepted steps so far.
        rejected: rejected steps so far.
        last_step: length of the last accepted step, in float64.
    """

    z: Tensor
    slope: Tensor
    t: Tensor
    h: Tensor
    history: ErrorHistory
    rejected_before: Tensor
    stop: Tensor
    status: Tensor
    evaluations: Tensor
    accepted: Tensor
    rejected: Tensor
    last_step: Tensor

    @property
    def running(self) -> Tensor:
        """``(batch,)`` of bool: which samples are still on their way."""
        return self.status == RUNNING

    def ended(self, which: Tensor, status: SolveStatus) -> "Walk":
        """Return the walk with those of ``which`` that still run ended with ``status``."""
        return self._replace(status=torch.where(which & self.running, int(status), self.status))


class Limits(NamedTuple):
    """What bounds a solve. Tensors, so that a compiled pass serves every tolerance and interval.

    Attributes:
        stops: ``(stops,)`` in float64, the times to land on in the order of the walk, the last one the end. The end
            may stand there several times.
        rtol: 0-d, relative tolerance.
        atol: 0-d, absolute tolerance.
        max_steps: 0-d int64, accepted plus rejected steps a sample may take.
        max_evaluations: 0-d int64, evaluations of the field a sample may take.
        shortest: 0-d, a step below this is an underflow wherever t is.
    """

    stops: Tensor
    rtol: Tensor
    atol: Tensor
    max_steps: Tensor
    max_evaluations: Tensor
    shortest: Tensor


class Plan(NamedTuple):
    """The step every sample tries next, ``(batch,)``; samples that have ended try one of length 0.

    Attributes:
        length: its positive length, in float64.
        target: the time it ends at, in float64.
        landing: whether it ends on a stop.
    """

    length: Tensor
    target: Tensor
    landing: Tensor


class Attempt(NamedTuple):
    """What trying a step gave.

    Attributes:
        slopes: the field at the stages, each ``(batch, *state)``.
        z_new: ``(batch, *state)``, the state at the end of the step.
        ratio: ``(batch,)`` in float64, estimated error over tolerance; not finite where the step failed.
        evaluations: evaluations of the field it took: a number, or ``(batch,)`` where samples differ.
        extra: slopes of further stages that only the interpolant needs.
        diverged: ``(batch,)`` of bool, steps that failed among finite numbers, or None.
        exhausted: ``(batch,)`` of bool, samples that could not pay for the step to its end, or None.
    """

    slopes: tuple[Tensor, ...]
    z_new: Tensor
    ratio: Tensor
    evaluations: int | Tensor
    extra: tuple[Tensor, ...] = ()
    diverged: Tensor | None = None
    exhausted: Tensor | None = None


class StepMethod(Protocol):
    """A kind of step with an error estimate."""

    @property
    def control_order(self) -> int:
        """Order of the error estimate, for the step control."""
        ...

    @property
    def first_same_as_last(self) -> bool:
        """Whether the last slope is the first of the next step."""
        ...

    @property
    def least_evaluations(self) -> int:
        """Fewest evaluations an attempt takes."""
        ...

    def attempt(self, field: Field, walk: Walk, plan: Plan, limits: Limits, direction: float) -> Attempt:
        """Try the planned step of every sample."""
        ...


@dataclass(frozen=True)
class PassRule:
    """What is the same in every pass of a solve, and in every solve of its kind.

    Attributes:
        method: the kind of step.
        control: chooses the length of the next step.
        direction: 1 or -1.
        polynomial: makes the solution within a step; None where no output lies there.
        key: equal for rules that are the same.
    """

    method: StepMethod
    control: StepControl
    direction: float
    polynomial: StepPolynomial | None
    key: Hashable

    @property
    def needs_end_slope(self) -> bool:
        """Whether the slope at the end of the last step is needed too."""
        return self.polynomial is not None and self.polynomial.needs_end_slope


class ExplicitStep:
    """A step of an explicit method with an embedded error estimate."""

    def __init__(self, tableau: ButcherTableau, *, with_extra_stages: bool = False) -> None:
        self._a = [[float(w) for w in row] for row in tableau.a]
        self._b, self._error = [float(w) for w in tableau.b], [float(w) for w in tableau.error]
        self._error_low = None if tableau.error_low is None else [float(w) for w in tableau.error_low]
        self._c = [float(c) for c in tableau.c]
        self.first_same_as_last = tableau.first_same_as_last
        self.control_order = tableau.error_order
        self._extra: list[list[float]] = []
        if with_extra_stages and tableau.interpolant is not None:
            self._extra = [[float(w) for w in row] for row in tableau.interpolant.extra]
            self._c += [sum(row) for row in self._extra]
        self.least_evaluations = tableau.stages - 1 + len(self._extra)

    def attempt(self, field: Field, walk: Walk, plan: Plan, limits: Limits, direction: float) -> Attempt:
        """Try the planned step of every sample."""
        z = walk.z
        signed = broadcast_to_state(direction * plan.length, z).to(z.dtype)
        slopes = [walk.slope]
        z_stage = z
        for c, row in zip(self._c[1:], [*self._a[1:], *self._extra], strict=True):
            # By formula where the stage is at the end: t + length need not round to it.
            t = plan.target if c == 1.0 else walk.t + c * (direction * plan.length)
            combined = z + signed * combine(slopes, row)
            slopes.append(field(broadcast_to_state(t, z).to(z.dtype), combined))
            if len(slopes) == len(self._a):
                z_stage = combined
        stages = len(self._a)
        z_new = z_stage if self.first_same_as_last else z + signed * combine(slopes, self._b)
        with torch.no_grad():
            ratio = self._ratio(slopes, signed, z, z_new, limits)
        return Attempt(tuple(slopes[:stages]), z_new, ratio, self.least_evaluations, tuple(slopes[stages:]))

    def _ratio(self, slopes: Sequence[Tensor], signed: Tensor, z: Tensor, z_new: Tensor, limits: Limits) -> Tensor:
        ratio = error_ratio(signed * combine(slopes, self._error), z, z_new, limits.rtol, limits.atol)
        if self._error_low is None:
            return ratio
        low = error_ratio(signed * combine(slopes, self._error_low), z, z_new, limits.rtol, limits.atol)
        return combined_ratio(ratio, low)


def plan_step(walk: Walk, limits: Limits, direction: float) -> Plan:
    """Return the step every sample tries next."""
    stop = limits.stops[walk.stop]
    to_stop = (stop - walk.t).abs()
    landing = walk.h * _STRETCH >= to_stop
    # A sample that has ended takes steps of length 0: the field is asked only where it was before.
    length = torch.where(landing, to_stop, walk.h) * walk.running
    target = torch.where(landing & walk.running, stop, walk.t + direction * length)
    return Plan(length, target, landing)


def broken_samples(walk: Walk, attempt: Attempt) -> Tensor:
    """``(batch,)`` of bool: whose step gave something that is not a number."""
    finite = finite_samples(attempt.ratio) & finite_samples(attempt.z_new)
    for slope in attempt.extra:
        finite = finite & finite_samples(slope)
    return walk.running & ~finite


def take_step(
    walk: Walk, plan: Plan, attempt: Attempt, broken: Tensor, limits: Limits, rule: PassRule
) -> tuple[Walk, Tensor]:
    """Accept or reject the attempt of every sample; return the new walk, and which samples moved.

    Where the method's last stage is not the next first one, the slope of the samples that moved is stale afterwards.
    """
    method, control, running = rule.method, rule.control, walk.running
    ratio = torch.where(broken, torch.inf, attempt.ratio)
    accept = running & (ratio <= 1)
    reject = running & ~accept
    factor = control.factor(ratio, walk.history, accept, walk.rejected_before)
    # A step cut short by a stop says nothing against the longer one the controller had in mind.
    proposed = plan.length * factor
    h = torch.where(accept & plan.landing, torch.maximum(walk.h, proposed), proposed)
    moved = broadcast_to_state(accept, walk.z)
    last = attempt.slopes[-1]
    new = walk._replace(
        z=torch.where(moved, attempt.z_new, walk.z),
        slope=torch.where(moved, last, walk.slope) if method.first_same_as_last else walk.slope,
        t=torch.where(accept, plan.target, walk.t),
        h=torch.where(running, h, walk.h),
        history=walk.history if control.name == "i" else walk.history.after(ratio, accept),
        rejected_before=reject,
        evaluations=walk.evaluations + attempt.evaluations * running,
        accepted=walk.accepted + accept,
        rejected=walk.rejected + reject,
        last_step=torch.where(accept, plan.length, walk.last_step),
    )
    if attempt.exhausted is not None:
        new = new.ended(attempt.exhausted, SolveStatus.BUDGET_EXCEEDED)
    if attempt.diverged is not None:
        broken = broken & ~attempt.diverged
    new = _fail_underflow(new, reject, broken, limits)
    new = _pass_stop(new, accept & plan.landing, limits)
    return _fail_exhausted(new, accept, limits, rule), accept


def stale_slopes(walk: Walk, new: Walk, moved: Tensor, rule: PassRule) -> Tensor:
    """``(batch,)`` of bool: whose slope has to be evaluated anew after a step."""
    if rule.method.first_same_as_last:
        return torch.zeros_like(moved)
    return moved if rule.needs_end_slope else moved & new.running


def slope_at(field: Field, walk: Walk) -> Tensor:
    """Return the field at every sample's time and state."""
    return field(broadcast_to_state(walk.t, walk.z).to(walk.z.dtype), walk.z)


def parked(which: Tensor, walk: Walk, new: Walk) -> Walk:
    """Return ``new`` with some samples back where they stood in ``walk``, where their slope is known."""
    mask = broadcast_to_state(which, walk.z)
    return new._replace(
        z=torch.where(mask, walk.z, new.z),
        slope=torch.where(mask, walk.slope, new.slope),
        t=torch.where(which, walk.t, new.t),
    )


def with_renewed_slope(walk: Walk, new: Walk, fresh: Tensor, stale: Tensor) -> Walk:
    """Return ``new`` with the fresh slopes of the stale samples; one evaluation for each.

    A sample whose fresh slope is not a number could not be anywhere there: it fails, where it stood before.
    """
    lost = stale & ~finite_samples(fresh)
    new = new._replace(
        slope=torch.where(broadcast_to_state(stale, new.z), fresh, new.slope),
        evaluations=new.evaluations + stale,
        status=torch.where(lost, int(SolveStatus.NON_FINITE), new.status),
    )
    return parked(lost, walk, new)


def within_step(rule: PassRule, walk: Walk, plan: Plan, attempt: Attempt, new: Walk) -> list[Tensor]:
    """Return the coefficients of the solution within the step, or none where no output lies there."""
    if rule.polynomial is None:
        return []
    h = broadcast_to_state(rule.direction * plan.length, walk.z).to(walk.z.dtype)
    slopes = (*attempt.slopes, *attempt.extra)
    return rule.polynomial.coefficients(h, walk.z, slopes, attempt.z_new, new.slope)


def _pass_stop(walk: Walk, landed: Tensor, limits: Limits) -> Walk:
    """Let samples that stand on a stop look for the next one, and end those that stand on the last."""
    arrived = landed & (limits.stops[walk.stop] == limits.stops[-1])
    walk = walk.ended(arrived, SolveStatus.SUCCESS)
    return walk._replace(stop=walk.stop + (landed & ~arrived))


def _fail_underflow(walk: Walk, rejected: Tensor, broken: Tensor, limits: Limits) -> Walk:
    """Give up samples whose next try would be too short to move ``t`` in the state's precision."""
    eps = torch.finfo(walk.z.dtype).eps
    # Around t = 0 floating point resolves far shorter steps than anything on the interval is worth.
    too_small = rejected & (walk.h < 10 * eps * walk.t.abs() + limits.shortest)
    return walk.ended(too_small & broken, SolveStatus.NON_FINITE).ended(too_small, SolveStatus.STEP_UNDERFLOW)


def _fail_exhausted(walk: Walk, accepted: Tensor, limits: Limits, rule: PassRule) -> Walk:
    walk = walk.ended(walk.accepted + walk.rejected >= limits.max_steps, SolveStatus.MAX_STEPS_REACHED)
    next_step = walk.evaluations + least_evaluations(rule)
    if not rule.method.first_same_as_last:
        next_step = next_step + accepted
    return walk.ended(next_step > limits.max_evaluations, SolveStatus.BUDGET_EXCEEDED)


def least_evaluations(rule: PassRule) -> int:
    """Return the evaluations that a step takes at least, with the slope at its end where that is needed."""
    end_slope = rule.needs_end_slope and not rule.method.first_same_as_last
    return rule.method.least_evaluations + int(end_slope)
