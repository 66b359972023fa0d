"""What an audit found, field by field.

Every model refuses unknown fields, so that a result and its description cannot part. A new part of the result is a
model here and a field of ``AuditResult``.
"""

from typing import Any, Literal

from pydantic import Field

from api.schemas.answer import Answer, JsonObject
from api.schemas.solver_choice import CandidateAnswer, TimingAnswer, UsualChoice
from api.schemas.solvers import SolverAnswer
from ode_core.audit.solver_choice import AgreementWith
from ode_core.specs import DatasetSpec

SCHEMA_ID = "urn:odeness:schema:audit-result"

_SHARE_OF_SAMPLES = "share of the samples, 0 to 1"


class AuditRule(Answer):
    """What a simpler rule says, which compares accuracies and not predictions."""

    passed: bool | None = Field(description="whether it takes the model for an ODE; null: it names no test solver")
    test_solver: SolverAnswer | None = Field(description="what it tests with; null: none is known or affordable")
    accuracy: float | None = Field(description="under that solver, 0 to 1; null: not tested")
    difference: float | None = Field(description="absolute, to the training solver's accuracy; null: not tested")
    threshold: float = Field(description="largest difference it accepts")


class AuditReference(Answer):
    """The converged solution that the verdict is measured against."""

    converged: bool = Field(description="whether the prediction of every sample is settled")
    method: str = Field(description="with error control, each sample by itself")
    precision: str = Field(description="of the arithmetic")
    tolerance: float = Field(description="the tightest relative tolerance that a sample took")
    nfe: float = Field(description="evaluations of the field at the last tolerance, mean over the samples")
    unsettled: int = Field(description="samples whose prediction did not settle, failed solves included")
    failures: int = Field(description="samples whose solve failed")
    reason: str = Field(description="how it ended, in words")


class DriftOverMargin(Answer):
    """Largest change of a logit over the margin between the two largest: quantiles over the samples.

    Below 1/2 a prediction cannot have changed. Samples whose solve failed are left out; null: no finite number.
    """

    median: float | None = Field(description="half of the samples lie below; null: not finite")
    p90: float | None = Field(description="nine tenths lie below; null: not finite")
    p99: float | None = Field(description="99 of 100 lie below; null: not finite")
    max: float | None = Field(description="the largest; null: not finite")


class LadderExecution(Answer):
    """Which of the equivalent ways of computing a solve was taken."""

    path: Literal["eager", "taped", "compiled"] = Field(description="of the program")
    lowered: bool = Field(description="the field was run as matrix products")
    stacked: int = Field(description="solves that were run as one")
    reason: str = Field(description="why it was this path, in words")


class LadderRung(Answer):
    """The model under one test solver."""

    solver: SolverAnswer = Field(description="the test solver")
    steps: int | None = Field(description="of its grid; null: it has tolerances")
    nfe: float = Field(description="evaluations of the field for one sample, on average")
    accuracy: float = Field(description="share of right labels, 0 to 1; a failed solve counts as wrong")
    flip_rate: float = Field(description=f"whose prediction is not that under the training solver: {_SHARE_OF_SAMPLES}")
    reference_flip_rate: float | None = Field(
        description=f"whose prediction is not that of the converged reference: {_SHARE_OF_SAMPLES}; null: not compared"
    )
    samples: int = Field(description="tested")
    failures: int = Field(description="samples whose solve failed")
    failure_reasons: dict[str, int] = Field(description="how many of them with which status")
    seconds: float = Field(description="wall time of the solves")
    execution: LadderExecution = Field(description="how the numbers were computed")


class Quantiles(Answer):
    """Quantiles over samples or steps, each a number that occurs."""

    p10: float = Field(description="a tenth is at most this")
    median: float = Field(description="half is at most this")
    p90: float = Field(description="nine tenths are at most this")


class MechanismTimes(Answer):
    """When along the way it happens, in units of t."""

    end_time: float = Field(description="where the solve ends; it begins at 0")
    turned: Quantiles | None = Field(
        description="by when changed predictions are turned for good; null: none, or errors were not carried to the end"
    )
    flagged: Quantiles | None = Field(description="where the flagged steps begin; null: there are none")


class CrossingMap(Answer):
    """Shares of the steps of all samples by stretches of the grid, at most 64.

    Stretch i holds the steps number bounds[i] to bounds[i + 1] - 1, counted from 0. In stretches of one step the shares
    are shares of the samples.
    """

    bounds: list[int] = Field(description="the number of each stretch's first step, and last the number of steps")
    times: list[float] = Field(description="at which they begin, median over the samples, and last the end; units of t")
    steps: list[int] = Field(description="that all samples together make in each stretch")
    flagged: list[float] = Field(description="share of them with a negative real eigenvalue of the derivative, 0 to 1")
    certified: list[float] | None = Field(
        description="share of them with a negative determinant, 0 to 1; null: not looked at (method arnoldi)"
    )
    undecided: list[float] = Field(description="share of them of which nothing is known, 0 to 1")


class MechanismCrossing(Answer):
    """Steps that no flow can make, as their derivative has a negative real eigenvalue oddly often (flagged)."""

    method: Literal["dense", "arnoldi"] = Field(
        description="all eigenvalues, or products, and all eigenvalues of some steps that these leave undecided"
    )
    flagged_share: float = Field(
        description="share of the steps of all samples, 0 to 1; with arnoldi, which sees an eigenvalue once however "
        "often it comes, steps count whose negative eigenvalues come an even number of times"
    )
    certified_share: float | None = Field(
        description="share of the steps whose derivative has a negative determinant, 0 to 1; null with arnoldi"
    )
    paired_share: float | None = Field(
        description="share of the steps whose negative real eigenvalues all come an even number of times, as those of "
        "a half turn do: they are not flagged; null with arnoldi"
    )
    undecided_share: float = Field(description="share of the steps of which nothing is known, 0 to 1")
    samples_with_a_flag: int = Field(description="samples with at least one flagged step")
    map: CrossingMap = Field(description="the same over the depth, in a bounded number of stretches")


class InterventionOutcome(Answer):
    """Predictions of one run."""

    accuracy: float = Field(description="share of right labels, 0 to 1")
    flip_rate: float = Field(description=f"whose prediction is not the trained one: {_SHARE_OF_SAMPLES}")


class MechanismShares(Answer):
    """Parts of what changes under a converged solver. They may be below 0 or above 1."""

    crossing: float | None = Field(description="that changes when the flagged steps are made exact; null: see reason")
    accumulation: float | None = Field(description="that changes when all others are; null: see reason")
    interaction: float | None = Field(description="1 minus both; null: see reason")
    reason: str | None = Field(description="why there are none; null: there are")


class MechanismSplit(Answer):
    """The interventions: the model run again with some steps replaced by the exact flow."""

    samples: int = Field(description="looked at")
    trained: InterventionOutcome = Field(description="as it is")
    reference: InterventionOutcome = Field(description="under a converged solver: all steps replaced")
    without_crossing: InterventionOutcome = Field(description="flagged steps replaced")
    without_accumulation: InterventionOutcome = Field(description="all other steps replaced")
    by_accuracy: MechanismShares = Field(description="of the accuracy that is lost; saturates at chance")
    by_flips: MechanismShares = Field(description="of the predictions that change; the cause goes by these")
    unconverged: int = Field(description="predictions of the samples run again that did not settle, of both runs")


class MarginByStretch(Answer):
    """What each stretch of steps adds to the margin of the trained class over its rival, in logits."""

    samples: int = Field(description="with finite numbers")
    flipped: int = Field(description="samples of which the converged solver predicts another class")
    mean_by_step: list[float] = Field(description="mean over the samples, by stretch")
    mean_size_by_step: list[float] = Field(description="mean absolute value, by stretch")
    turned_by_step: list[int] = Field(description="flipped samples that each stretch turned for good")
    in_top_tenth_of_steps: float | None = Field(
        description="share of all sizes in the tenth of the stretches with the most; null: all are 0"
    )
    in_top_tenth_of_samples: float | None = Field(description="the same over samples; null: all are 0")


class FanQuantiles(Answer):
    """Lady Windermere's fan over the samples whose errors were carried to the end accurately, by stretches of steps."""

    samples: int = Field(description="how many those are; 0: the lists of quantiles are empty")
    flipped: int = Field(description="how many of them flip; 0: the lists of the flipped are empty")
    times: list[float] = Field(
        description="at which the stretches begin, median over the samples, and last the end; in units of t"
    )
    end: list[Quantiles] = Field(
        description="Euclidean size of a stretch's error as it arrives at the end, in units of the state"
    )
    margin: list[Quantiles] = Field(
        description="what a stretch adds to the margin of the trained class over its rival, in logits"
    )
    margin_of_flipped: list[Quantiles] = Field(description="the same of the flipped samples alone, in logits")
    path_of_flipped: list[Quantiles] = Field(
        description="margin of the flipped samples, in logits, when the exact flow goes on from the start of each "
        "stretch: first the exact solution's (negative), last, one entry more, the numerical one's (positive)"
    )


class MechanismTransport(Answer):
    """The errors of the steps, carried to the end by the exact flow."""

    step_bounds: list[int] = Field(description="the number of each stretch's first step, and last the number of steps")
    converged: int = Field(description="samples whose errors were carried accurately")
    largest_residual: float = Field(description="by which the contributions miss the whole error, relative: round-off")
    margin: MarginByStretch = Field(description="sums over the samples")
    fan: FanQuantiles = Field(description="quantiles over the samples")


class AuditMechanism(Answer):
    """Why predictions depend on the solver."""

    cause: Literal["crossing", "accumulation", "either", "together", "unknown"] = Field(
        description="crossing: steps that no flow can make; accumulation: the sum of small errors; either: each alone "
        "changes half of the predictions or more; together: neither alone does; unknown: too few change"
    )
    sentence: str = Field(description="the same in words, with the shares and the time")
    samples: int = Field(description="looked at, whose training solve succeeded")
    samples_chosen: Literal["first", "changed_and_others"] = Field(
        description="first: the first of the audit; changed_and_others: as few of these change, all that do, half of "
        "the samples at most, and others drawn at random, so that shares are of these samples and not of all"
    )
    steps: int = Field(description="the most that one of them makes")
    when: MechanismTimes = Field(description="when along the way")
    crossing: MechanismCrossing = Field(description="which steps no flow can make")
    split: MechanismSplit = Field(description="what the interventions did")
    transport: MechanismTransport | None = Field(description="what each stretch adds to the end; null: not asked for")


class ModifiedFieldTrial(Answer):
    """A modified field under a converged solver."""

    spec: JsonObject = Field(description="which: solver, kind and terms")
    samples: int = Field(description="tried on: all looked at, or if stopped some of them drawn at random")
    stopped: bool = Field(description="whether it ended before all of them, as it could no more come to an offer")
    accuracy: float = Field(description="share of right labels on them, 0 to 1; a failed solve is wrong")
    score: float | None = Field(
        description="share of the lost accuracy that it wins back, 1: all of it; null: too few are lost, or the "
        "trial was stopped"
    )
    reason: str | None = Field(description="why there is no score; null: there is")
    agreement: float = Field(description="share of the samples with the prediction under the training solver, 0 to 1")
    changed: int = Field(
        description="of all looked at: whose prediction the field itself changes under the converged reference"
    )
    offered: bool = Field(
        description="at least 10 predictions changed, the score is at least 0.95 or the agreement at least 0.99, and "
        "the trial converged"
    )
    unsettled: int = Field(description="samples whose prediction did not settle")
    evaluations: float = Field(description="of the modified field for one sample, on average")
    evaluations_in_field: int = Field(
        description="of the trained field in one of the modified field; with an implicit method a usual number"
    )
    agreement_of_all: float | None = Field(
        description="agreement of all audited samples, 0 to 1, estimated, where samples_chosen of the mechanism is "
        "changed_and_others; an offer takes 0.99 of this, too; null: the samples are the first"
    )


class RequestToSend(Answer):
    """A request to this API that takes the option."""

    method: str = Field(description="of HTTP")
    path: str = Field(description="on this server", examples=["/v1/training-jobs"])
    body: JsonObject = Field(description="JSON to send")


class RepairOptionAnswer(Answer):
    """One way to make the predictions independent of the solver, or of who chooses it."""

    kind: Literal["pin_solver", "modified_field", "fine_tune", "retrain"] = Field(description="which")
    offered: bool = Field(description="whether it can be taken")
    sentence: str = Field(description="what it does, or why it cannot be taken")
    solver: SolverAnswer | None = Field(description="of pin_solver: what to predict with; null: of another kind")
    modified_field: JsonObject | None = Field(description="solver, kind and terms of the field to put in; null: none")
    training_job: JsonObject | None = Field(description="a body for POST /v1/training-jobs; null: none")
    request: RequestToSend | None = Field(
        description="to send; of pin_solver it lacks the inputs, which are the caller's; null: it is not offered"
    )


class AuditRepair(Answer):
    """What to do, in order."""

    samples: int = Field(description="that modified fields were tried on")
    recommendation: str = Field(description="what to do, in words")
    options: list[RepairOptionAnswer] = Field(description="in order, offered or not")
    tried: list[ModifiedFieldTrial] = Field(description="the modified fields that were tried")


class FlippingSampleAnswer(Answer):
    """A sample whose prediction is another one under a converged solver."""

    sample: int = Field(description="its number in the test split, from 0")
    label: int = Field(description="the right class")
    trained: int | None = Field(description="class predicted under the training solver; null: the solve failed")
    reference: int | None = Field(description="class predicted under the converged one; null: the solve failed")
    trained_margin: float | None = Field(
        description="logit of the trained class minus the next; null: the solve failed"
    )
    reference_margin: float | None = Field(description="the same of the reference; null: the solve failed")
    settled: bool = Field(description="whether the reference's prediction is settled")
    turning_time: float | None = Field(
        description="end of the stretch of steps that turned the prediction for good, in units of t; null: not looked "
        "into, or not found accurately"
    )
    picture: str | None = Field(
        description="of an image: a PNG in base64, at most 32 pixels a side; null: the input is no image"
    )
    coordinates: list[float] | None = Field(
        description="the input, where it has at most 3 numbers, in the data set's own units; null: it has more"
    )


class FlippingSamplesAnswer(Answer):
    """The samples whose prediction changes."""

    count: int = Field(description="how many there are")
    listed: list[FlippingSampleAnswer] = Field(description="the first of them, at most 24, in the test split's order")


class MeasuredWith(Answer):
    """On what and by what it was measured."""

    dataset: DatasetSpec = Field(description="whose test split, from its beginning")
    classes: int = Field(description="number of classes")
    device: str = Field(description="cpu or cuda")
    precision: str = Field(description="of the model; the reference is float64")
    versions: dict[str, str] = Field(description="of the programs, by name")


class ParentAgreementAnswer(Answer):
    """How a repaired version's predictions compare with those of the version it was made from."""

    model: str = Field(description="of the parent")
    version: int = Field(description="of the parent")
    solver: SolverAnswer = Field(description="what the parent was trained with")
    accuracy: float = Field(description="the parent's under it, 0 to 1")
    agreement: float = Field(
        description=f"on which the repair, with the solver it is served with, predicts as the parent: "
        f"{_SHARE_OF_SAMPLES}"
    )
    reference_agreement: float = Field(description="the same of the repair under the converged reference")


class TriedSolver(CandidateAnswer):
    """A solver that was tried to serve the model with."""

    agreeing: int = Field(description="samples on which it agrees")
    on_front: bool = Field(description="none beats it in evaluations, time and agreement at once")


class SolverChoiceResult(Answer):
    """The solvers to serve the model with: those tried, and the cheapest for usual agreements."""

    verdict: Literal["ode", "discrete", "inconclusive", "unresolved"] = Field(description="the audit's")
    agreement_with: AgreementWith = Field(
        description="what predictions are held against: reference of an ODE, reference_and_training where that is "
        "inconclusive, training else"
    )
    train_solver: SolverAnswer = Field(description="what the model was trained with at the end")
    samples: int = Field(description="audited samples")
    timing: TimingAnswer = Field(description="how times were measured")
    candidates: list[TriedSolver] = Field(description="by evaluations")
    choices: list[UsualChoice] = Field(description="the cheapest for agreements that are often asked for")


class AuditResult(Answer):
    """What an audit found. Shares are 0 to 1, times in units of t of the ODE, margins in logits.

    With the verdict unresolved the numbers about the reference are of the finest solution tried, and prove nothing.
    """

    model: str = Field(description="name of the model")
    version: int = Field(description="its version")
    verdict: Literal["ode", "discrete", "inconclusive", "unresolved"] = Field(
        description="ode: the interval of the flip rate ends at epsilon or below; discrete: it begins above; "
        "inconclusive: neither; unresolved: no converged reference was found"
    )
    sentence: str = Field(description="the verdict in words")
    epsilon: float = Field(description="largest flip rate at which a model counts as an ODE")
    samples: int = Field(description="audited, the first of the test split")
    samples_asked: int | None = Field(description="how many the request asked for; null: all of the test split")
    test_samples: int = Field(description="how many the test split has; where more are asked for, all are audited")
    samples_needed: int | None = Field(
        description="of inconclusive: about how many would decide it; null: of other verdicts, or no number would"
    )
    train_solver: SolverAnswer = Field(description="what the model was trained with at the end")
    train_accuracy: float = Field(description="share of right labels under it, 0 to 1")
    reference_accuracy: float = Field(description="share of right labels under the converged reference, 0 to 1")
    flip_rate: float = Field(description=f"whose prediction differs between the two: {_SHARE_OF_SAMPLES}")
    flip_interval: tuple[float, float] = Field(description="its exact 95 % interval (Clopper and Pearson)")
    mcnemar_p: float = Field(description="p-value of McNemar's exact test that both accuracies are equal")
    drift_over_margin: DriftOverMargin = Field(description="how far logits move")
    reference: AuditReference = Field(description="how the reference was found")
    paper_rule: AuditRule = Field(description="of the paper: accuracies differ by at most the threshold")
    half_step_rule: AuditRule = Field(description="the same against twice the steps")
    ladder: list[LadderRung] = Field(description="coarser and finer test solvers")
    solver_choice: SolverChoiceResult = Field(description="which solvers to serve the model with")
    mechanism: AuditMechanism | None = Field(description="why it depends on the solver; null: see mechanism_reason")
    mechanism_reason: str | None = Field(description="why there is no mechanism; null: there is")
    parent: ParentAgreementAnswer | None = Field(description="of a repaired version; null: it is none")
    repair: AuditRepair | None = Field(description="what to do; null: it is an ODE, or nothing was looked into")
    flipping_samples: FlippingSamplesAnswer = Field(description="whose predictions change")
    measured: MeasuredWith = Field(description="on what and by what it was measured")


def audit_result_schema() -> dict[str, Any]:
    """Return the JSON schema of an audit's result (draft 2020-12), complete in itself."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID}
    return dialect | AuditResult.model_json_schema()
