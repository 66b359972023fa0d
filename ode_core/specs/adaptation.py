"""How the solver is adapted during training so that the model stays an ODE.

Each rule is a spec of its own ``kind``; ``docs/adaptation.md`` says which to take.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ode_core.specs.methods import MethodName
from ode_core.specs.solver import MAX_FIXED_STEPS, SolverSpec
from ode_core.specs.spec import Spec

Interval = Annotated[int, Field(ge=1, le=100_000, description="iterations between two checks")]
Share = Annotated[float, Field(gt=0, lt=1)]
Growth = Annotated[float, Field(gt=1, le=2)]
LastPart = Annotated[float, Field(ge=0, le=0.5)]

# Methods the paper names a more accurate test solver for.
STEP_METHODS: tuple[MethodName, ...] = ("euler", "midpoint")
# With tolerances the test solver is always dopri5, its first tolerance that of the training over this.
TEST_TOLERANCE_DIVISORS: dict[MethodName, float] = {"fehlberg2": 5.0, "dopri5": 10.0}

CONFIDENCE = 0.95


class StepAdaptation(Spec):
    """Adapt the step size during training so that the model stays an ODE (Ott et al. 2021).

    Every ``interval`` iterations the batch's accuracy under the training solver is held against a
    more accurate test solver. A difference above ``threshold`` halves the step. Otherwise ``talk``
    makes it ``growth`` times larger; ``look_ahead`` does so only if the larger step still agrees.
    In the last ``settle_fraction`` of the training the step only gets smaller.
    """

    kind: Literal["step"] = "step"
    rule: Literal["talk", "look_ahead"] = "talk"
    interval: Interval = 50
    threshold: Share = 0.1
    growth: Growth = 1.1
    max_steps: Annotated[int, Field(ge=1, le=MAX_FIXED_STEPS)] = 500
    settle_fraction: LastPart = 0.0
    ceiling: Literal["clamp", "average"] = Field(
        default="clamp",
        description="what a halving beyond max_steps becomes: max_steps (clamp), or the mean of the number of steps "
        "and max_steps (average, as in the paper's code)",
    )


class ToleranceAdaptation(Spec):
    """Adapt the tolerance of an adaptive solver (Ott et al. 2021), which begins with the solver's own.

    The test solver is dopri5 in float64. Its tolerance is divided by ten, at most ``test_divisions`` times, until it
    takes more evaluations than the training solver. A difference of the accuracies above ``threshold`` halves the
    tolerance, down to 50 rounding errors; otherwise it grows if the larger one would still agree. It does not grow
    when the evaluations of the training solver were the same in the last ``plateau_checks`` checks: then the
    tolerance has no influence.
    """

    kind: Literal["tolerance"] = "tolerance"
    interval: Interval = 50
    threshold: Share = 0.1
    growth: Growth = 1.1
    max_tolerance: Annotated[float, Field(gt=0, le=1)] = 1.0
    test_divisions: Annotated[int, Field(ge=0, le=15)] = 6
    plateau_checks: Annotated[int, Field(ge=2, le=100)] = 5
    settle_fraction: LastPart = 0.0


class CertifiedAdaptation(Spec):
    """Keep the flip rate against a converged solution small, with confidence, on data that is not trained on.

    ``audit_samples`` of the training split are held out. A check counts on them the predictions that differ between
    the training solver and a converged reference. A rate above ``epsilon`` makes the solver finer. It gets coarser
    only where the upper end of the rate's 95 % interval is at most ``climb_threshold`` and the coarser solver would
    be certified, too; in the last ``certify_fraction`` of the training it never does, and gets finer until certified.
    Weights whose interval ends at or below ``epsilon`` are certified; the last such weights, with their solver, are
    the model.
    """

    kind: Literal["certified"] = "certified"
    interval: Interval = 50
    epsilon: Share = Field(default=0.02, description="largest flip rate, as in an audit")
    climb_threshold: Share = 0.0075
    audit_samples: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    audit_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    growth: Growth = 1.1
    min_steps: Annotated[int, Field(ge=1, le=MAX_FIXED_STEPS)] = Field(default=1, description="of a fixed grid")
    max_steps: Annotated[int, Field(ge=1, le=MAX_FIXED_STEPS)] = Field(default=500, description="of a fixed grid")
    max_tolerance: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1, description="largest rtol and atol of an adaptive solver"
    )
    certify_fraction: LastPart = 0.1
    begin_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="first part of the training, without checks: for a model that is no ODE yet",
    )

    @model_validator(mode="after")
    def _thresholds_can_be_met(self) -> Self:
        if self.begin_fraction > 1 - self.certify_fraction:
            raise ValueError(
                f"begin_fraction {self.begin_fraction:g} leaves nothing before the last certify_fraction "
                f"{self.certify_fraction:g} of the training: lower one of them"
            )
        if self.min_steps > self.max_steps:
            raise ValueError(f"min_steps {self.min_steps} is above max_steps {self.max_steps}: lower it")
        if self.climb_threshold >= self.epsilon:
            raise ValueError(
                f"climb_threshold {self.climb_threshold:g} must be well below epsilon {self.epsilon:g}, or the solver "
                f"gets coarser at one check and finer at the next"
            )
        needed = samples_without_flips(self.climb_threshold)
        if self.audit_samples < needed:
            raise ValueError(
                f"even without a flip {self.audit_samples} audit_samples cannot show a flip rate of at most "
                f"climb_threshold {self.climb_threshold:g}: take at least {needed} audit_samples, or a larger threshold"
            )
        return self


AdaptationSpec = Annotated[StepAdaptation | ToleranceAdaptation | CertifiedAdaptation, Field(discriminator="kind")]


def samples_without_flips(share: float) -> int:
    """Return how many samples without a flip show with confidence that the flip rate is at most ``share``.

    The upper end of the Clopper-Pearson interval of no hits in n is ``1 - tail^(1/n)``.
    """
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log1p(-share) - 1e-9)


def check_adaptation(adaptation: AdaptationSpec, solver: SolverSpec, end_time: float) -> None:
    """Raise ``ValueError`` with what to do instead when a rule cannot adapt ``solver`` on ``[0, end_time]``."""
    match adaptation:
        case StepAdaptation():
            _check_step_adaptation(solver)
        case ToleranceAdaptation():
            _check_tolerance_adaptation(adaptation, solver)
        case CertifiedAdaptation():
            _check_certified_adaptation(adaptation, solver, end_time)


def _check_step_adaptation(solver: SolverSpec) -> None:
    if solver.adaptive:
        raise ValueError(
            "step adaptation needs a fixed-step solver: give steps, take adaptation of kind tolerance or certified, or "
            "set adaptation to null"
        )
    if solver.method not in STEP_METHODS:
        raise ValueError(
            f"step adaptation knows a more accurate test solver for {' and '.join(STEP_METHODS)}, not for "
            f"{solver.method}: train with one of these, take adaptation of kind certified, or set adaptation to null"
        )
    if solver.grid == "truncate" or solver.runs_on != "odeness":
        raise ValueError(
            "step adaptation chooses equal steps of its own methods: leave out grid truncate and "
            "backend torchdiffeq, or set adaptation to null"
        )


def _check_tolerance_adaptation(adaptation: ToleranceAdaptation, solver: SolverSpec) -> None:
    methods = " and ".join(TEST_TOLERANCE_DIVISORS)
    if not solver.adaptive:
        raise ValueError(
            f"tolerance adaptation needs a solver with tolerances: give rtol and atol with {methods}, or take "
            f"adaptation of kind step or certified for a fixed number of steps"
        )
    if solver.method not in TEST_TOLERANCE_DIVISORS:
        raise ValueError(
            f"tolerance adaptation knows a more accurate test solver for {methods}, not for {solver.method}: train "
            f"with one of these, take adaptation of kind certified, or set adaptation to null"
        )
    if solver.runs_on != "odeness":
        raise ValueError("tolerance adaptation takes the steps of each sample by itself: leave out backend torchdiffeq")
    if solver.rtol != solver.atol:
        raise ValueError(
            "tolerance adaptation has one tolerance: give rtol and atol the same value, the one to begin with "
            "(the paper's is 1e-6)"
        )
    _refuse_start_above(solver, adaptation.max_tolerance)


def _check_certified_adaptation(adaptation: CertifiedAdaptation, solver: SolverSpec, end_time: float) -> None:
    if solver.runs_on != "odeness" or solver.grid == "truncate":
        raise ValueError(
            "certified adaptation chooses equal steps, or those of each sample by itself: leave out grid truncate and "
            "backend torchdiffeq, or set adaptation to null"
        )
    if solver.facts.family == "implicit":
        raise ValueError(
            f"certified adaptation is for explicit methods, not for {solver.method}: its reference is an explicit "
            f"solver, which a stiff field makes too dear; set adaptation to null and audit the model afterwards"
        )
    if solver.adaptive:
        _refuse_start_above(solver, adaptation.max_tolerance)
        return
    steps = solver.fixed_steps(0.0, end_time)
    if not adaptation.min_steps <= steps <= adaptation.max_steps:
        raise ValueError(
            f"certified adaptation begins with the solver's {steps} steps, but min_steps is {adaptation.min_steps} and "
            f"max_steps {adaptation.max_steps}: begin between them, or move them"
        )


def _refuse_start_above(solver: SolverSpec, max_tolerance: float) -> None:
    if max(solver.rtol or 0.0, solver.atol or 0.0) > max_tolerance:
        raise ValueError(
            f"the adaptation begins with the solver's tolerances, and these are above max_tolerance "
            f"{max_tolerance:g}: begin with smaller ones, or raise it"
        )


class AuditBatchTooLarge(ValueError):
    """The samples to be held out for the adaptation are too many of the training split."""


def check_audit_batch(adaptation: AdaptationSpec, train_samples: int | None) -> None:
    """Raise ``AuditBatchTooLarge`` when a certified adaptation holds out more than half of the training split.

    ``train_samples`` is its size; None where it is not known yet.
    """
    if not isinstance(adaptation, CertifiedAdaptation) or train_samples is None:
        return
    if 2 * adaptation.audit_samples > train_samples:
        raise AuditBatchTooLarge(
            f"audit_samples {adaptation.audit_samples} are held out of the training split, which has {train_samples} "
            f"samples: take at most {train_samples // 2}, with a climb_threshold and an epsilon they can show, or more "
            f"training data"
        )


def ceiling_steps(adaptation: AdaptationSpec, solver: SolverSpec) -> int | None:
    """Return the largest number of steps a rule may come to; None with tolerances, where no rule bounds it."""
    if solver.adaptive or isinstance(adaptation, ToleranceAdaptation):
        return None
    return adaptation.max_steps
