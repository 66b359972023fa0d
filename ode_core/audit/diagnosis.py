"""Why a model is no ODE and whether its field can be repaired: what an audit looks into after its verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from ode_core.audit import arnoldi
from ode_core.audit.audit import AuditReport
from ode_core.audit.looked_at import LookedAt, looked_at
from ode_core.audit.mechanism import STRETCHES, Mechanism, find_mechanism, obstacle
from ode_core.audit.progress import OnProgress, Progress
from ode_core.audit.rescue import MAX_EVALUATIONS, PILOT, Rescue, rescue
from ode_core.audit.verdict import Verdict
from ode_core.fields.modified_field import ModifiedField
from ode_core.models.audited_model import AuditedModel
from ode_core.solvers import krylov
from ode_core.solvers.status import SolveStatus
from ode_core.specs.methods import DENSE_JACOBIAN, NEWTON_EVALUATIONS
from ode_core.specs.modified_field import ModifiedFieldKind, ModifiedFieldSpec
from ode_core.specs.repair import affordable_evaluations
from ode_core.specs.solver import SolverSpec
from ode_core.specs.spec import first_reason

PARTS = 7  # four of the mechanism, and three trials

MOST_SAMPLES, FEWEST_SAMPLES = 200, 20
# Numbers in the states along all steps, in float64 half a GiB.
STATES_AT_ONCE = 2**26
# Multiplications of an analysis, one to two minutes on one core, which makes 10 to 15 in a nanosecond; an evaluation of
# a small field takes as long as one of a larger, for which it is counted.
MULTIPLICATIONS, SMALLEST_EVALUATION = 1.2e12, 2_000
# Those of trying one modified field of an implicit method, whose steps iterate.
TRIAL_MULTIPLICATIONS = 5e11
# Of a trial that explodes in every sample: one that may take more begins with a few, and is stopped if they fail.
PILOTED_TRIAL = 5e10
# Evaluations that exact flows take, over those of the reference: in the interventions and for the check of the fan, and
# for each of its stretches. For digits 7 with 2 Euler steps and 19 with 16; for images of 28 x 28 and 32 x 32 points 7.
FLOWS, FLOWS_OF_STRETCH = 7, 1
# An evaluation of the series takes about twenty times as long as one of the iterates, for its derivatives: it is tried
# for states of so many numbers, after iterates that took so many evaluations of a sample.
SERIES_STATE, CHEAP_EVALUATIONS = 16, 500
# Products with a step's derivative: its columns, or directions of Arnoldi's iteration.
MOST_PRODUCTS = 128
# Passes over an implicit solution: for its path, its derivatives, and the interventions.
PASSES = 3
# With as many terms as a method has order, iterates are no closer to its steps than the field itself. Of 400
# predictions by eight steps of the implicit midpoint rule 34 changed: six terms gave back all but 2, four all but 12,
# and the local error, in a fifth of the time, all but 10.
IMPLICIT_KINDS: list[tuple[ModifiedFieldKind, int | None]] = [("local_error", None), ("iterates", 6)]

NOTHING_CHANGES = "no prediction that was looked at changes, so there is nothing to give back"
EXCHANGED = "this version is itself a repair: its field has been exchanged already"


@dataclass(frozen=True)
class Diagnosis:
    """What was found out.

    Attributes:
        looked_at: which of the audit's samples were looked at; None where nothing was.
        mechanism: why predictions depend on the solver, or None.
        reason: why there is no mechanism, or None.
        rescues: modified fields that were tried.
        no_rescue: why none was, or None.
    """

    looked_at: LookedAt | None
    mechanism: Mechanism | None
    reason: str | None
    rescues: list[Rescue]
    no_rescue: str | None

    @property
    def samples(self) -> int:
        """How many samples were looked at."""
        return 0 if self.looked_at is None else len(self.looked_at.numbers)

    @property
    def turning_time_by_sample(self) -> dict[int, float]:
        """``Mechanism.turning_time_by_sample`` by the number of the sample in the audit."""
        if self.looked_at is None or self.mechanism is None:
            return {}
        numbers = self.looked_at.numbers.tolist()
        return {numbers[own]: time for own, time in self.mechanism.turning_time_by_sample.items()}

    @property
    def sentence(self) -> str | None:
        """The cause in words, and of which samples; None where there is no mechanism."""
        if self.mechanism is None or self.looked_at is None:
            return None
        if self.looked_at.choice == "first":
            return self.mechanism.sentence
        return f"{self.mechanism.sentence} Shares are of the samples looked at, among which more change than among all."

    def to_json(self) -> dict[str, Any]:
        """Return ``mechanism`` and ``mechanism_reason`` as JSON values."""
        mechanism = None
        if self.mechanism is not None and self.looked_at is not None:
            told = {"sentence": self.sentence, "samples_chosen": self.looked_at.choice}
            mechanism = self.mechanism.to_json() | told
        return {"mechanism": mechanism, "mechanism_reason": self.reason}


def no_diagnosis(reason: str) -> Diagnosis:
    """Return the diagnosis of a model that was not taken apart."""
    return Diagnosis(None, None, reason, [], reason)


def why_left_out(mechanism: bool | None, verdict: Verdict, *, ask: str) -> str | None:
    """Return why a model is not looked into, or None where it is.

    Args:
        mechanism: what was asked for; None: where the verdict is ``discrete``.
        verdict: the audit's.
        ask: how the caller's user asks for it in any case.
    """
    if mechanism is False:
        return "the audit was asked to leave it out"
    if mechanism is None and verdict != "discrete":
        return f"the verdict is not discrete; {ask} to look for it in any case"
    return None


def is_to_repair(report: AuditReport, diagnosis: Diagnosis) -> bool:
    """Whether repairs are to be told: of a model that is no ODE for sure, or was looked into and may be none."""
    looked_into = report.verdict == "discrete" or diagnosis.samples > 0
    return looked_into and report.verdict != "ode"


def diagnose(
    model: AuditedModel,
    inputs: Tensor,
    labels: Tensor,
    report: AuditReport,
    *,
    operations: int,
    on_progress: OnProgress | None = None,
    max_evaluations: int | None = None,
) -> Diagnosis:
    """Look into an audited model.

    Args:
        model: as it was audited.
        inputs: of the audit.
        labels: of the audit.
        report: what the audit found.
        operations: multiplications of one evaluation of the field for one sample.
        on_progress: called before each of the ``PARTS``, and before every evaluation of the field.
        max_evaluations: bound on the evaluations of the field for one sample in one solve, or None.
    """
    reason = obstacle(report.train_solver)
    if reason is not None:
        return no_diagnosis(reason)
    each = model.evaluations_in_field
    samples = affordable_samples(report, model.state_shape, model.end_time, operations, each)
    if samples == 0:
        return no_diagnosis(f"it would take too long, even for {FEWEST_SAMPLES} samples")
    progress = Progress(PARTS, on_progress)
    solved = report.trained.status == SolveStatus.SUCCESS
    chosen = looked_at(report.trained.flips(report.reference.predictions), solved, samples)
    trained, reference = (one.select(chosen.numbers) for one in (report.trained, report.reference.predictions))
    if trained.failures == samples:
        return no_diagnosis("no sample's training solve succeeds: there is nothing to take apart")
    inputs, labels = inputs[chosen.numbers.to(inputs.device)], labels[chosen.numbers.to(labels.device)]
    mechanism = find_mechanism(
        model,
        inputs,
        labels,
        report.train_solver,
        reference.labels,
        on_part=progress.next_part,
        on_evaluation=lambda: progress.again(),
        max_evaluations=affordable_evaluations(max_evaluations, each),
    )
    size = math.prod(model.state_shape)
    fields, no_rescue = modified_fields(report.train_solver, size)
    if isinstance(model.field, ModifiedField):
        fields, no_rescue = [], EXCHANGED
    elif fields and not trained.flips(reference).any():
        fields, no_rescue = [], NOTHING_CHANGES
    if fields and report.train_solver.facts.family == "implicit":
        cheap = [spec for spec in fields if _is_affordable(spec, size, samples, report, operations)]
        fields, no_rescue = cheap, no_rescue if cheap else no_rescue or "it would take too long"
    rescues: list[Rescue] = []
    for spec in fields:
        if not _is_worth_trying(spec, rescues):
            continue
        progress.next_part(f"modified field: {spec.label}")
        bound = affordable_evaluations(max_evaluations, spec.evaluations(size))
        found = rescue(
            model,
            inputs,
            labels,
            spec,
            trained,
            reference,
            weights=chosen.weights,
            pilot=PILOT if _may_be_dear(spec, size, samples, operations) else None,
            on_evaluation=lambda: progress.again(),
            max_evaluations=MAX_EVALUATIONS if bound is None else min(MAX_EVALUATIONS, bound),
        )
        rescues.append(found)
    return Diagnosis(chosen, mechanism, None, rescues, no_rescue)


def modified_fields(solver: SolverSpec, state_size: int) -> tuple[list[ModifiedFieldSpec], str | None]:
    """Return the modified fields to try for a training solver, in order until one is offered, or none and why.

    At the kinks of ReLU more terms are not always better.
    """
    kinds: list[tuple[ModifiedFieldKind, int | None]] = [("iterates", 4), ("iterates", 2)]
    if solver.facts.family == "implicit":
        kinds = IMPLICIT_KINDS
    if solver.method == "euler" and state_size <= SERIES_STATE:
        kinds.append(("series", 3))
    try:
        return [ModifiedFieldSpec(solver=solver, kind=kind, terms=terms) for kind, terms in kinds], None
    except ValidationError as error:
        return [], first_reason(error)


def _is_worth_trying(spec: ModifiedFieldSpec, before: Sequence[Rescue]) -> bool:
    """Whether a trial can change anything, at a price."""
    if any(trial.offered or not trial.enough_changed for trial in before):
        return False
    return spec.kind != "series" or all(trial.evaluations <= CHEAP_EVALUATIONS for trial in before)


def _may_be_dear(spec: ModifiedFieldSpec, state_size: int, samples: int, operations: int) -> bool:
    """Whether a trial that explodes would take long."""
    evaluations = samples * spec.evaluations(state_size) * MAX_EVALUATIONS
    return evaluations * max(operations, SMALLEST_EVALUATION) > PILOTED_TRIAL


def _is_affordable(
    spec: ModifiedFieldSpec, state_size: int, samples: int, report: AuditReport, operations: int
) -> bool:
    """Whether a trial takes minutes at most, where a converged solve is about as long as that of the field itself."""
    evaluations = samples * spec.evaluations(state_size) * report.reference.evaluations
    return evaluations * max(operations, SMALLEST_EVALUATION) <= TRIAL_MULTIPLICATIONS


def affordable_samples(
    report: AuditReport, state_shape: Sequence[int], end_time: float, operations: int, each: int = 1
) -> int:
    """Return how many samples can be looked into in minutes, at most ``MOST_SAMPLES``; 0 for fewer than ``FEWEST``.

    Args:
        report: what the audit found; it tells how dear solves are.
        state_shape: of the model.
        end_time: of its interval.
        operations: multiplications of one evaluation of the trained field for one sample.
        each: evaluations of that in one of the field, if it is modified.
    """
    solver, size = report.train_solver, math.prod(state_shape)
    if solver.adaptive:
        steps = int(report.trained.evaluations.max()) // each // max(1, solver.facts.stages - 1) + 1
    else:
        steps = solver.fixed_steps(0.0, end_time)
    flows = FLOWS + FLOWS_OF_STRETCH * min(steps, STRETCHES)
    evaluations = each * steps * _evaluations_of_step(solver, size) + flows * report.reference.evaluations
    dear = MULTIPLICATIONS / (evaluations * max(operations, SMALLEST_EVALUATION))
    large = STATES_AT_ONCE / ((steps + 1) * size)
    samples = min(MOST_SAMPLES, report.samples, int(min(dear, large)))
    return samples if samples >= min(FEWEST_SAMPLES, report.samples) else 0


def _evaluations_of_step(solver: SolverSpec, size: int) -> int:
    """Return about how many evaluations the analysis of one step takes, of which its derivative has most."""
    stages = solver.facts.stages
    if solver.facts.family == "explicit":
        return 2 * stages * min(size, MOST_PRODUCTS)
    if size <= DENSE_JACOBIAN:
        # Columns of the field's Jacobian at each stage, with derivatives, for the linear systems and for the tangents.
        return PASSES * (stages * NEWTON_EVALUATIONS + size) + 4 * stages * size
    # Each iteration, and each of Arnoldi's directions, solves a system for each stage by products.
    return 2 * stages * krylov.DIRECTIONS * (PASSES * NEWTON_EVALUATIONS + arnoldi.USUAL_DIRECTIONS)
