"""Does the modified field give, under a converged solver, what the training solver gave?

A score near 1 speaks for a flow, of another field than the model's own. A score near 0 proves only that
the series is outside of its range. There the field may explode, and a converged solve take thousands of evaluations:
where a trial would be dear a few samples are tried first, and it is stopped if they show that it comes to no offer.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core.audit.interventions import FEWEST_SAMPLES
from ode_core.audit.reference import Reference, converged_reference
from ode_core.audit.statistics import clopper_pearson
from ode_core.models.audited_model import AuditedModel
from ode_core.models.modified_classifier import with_modified_field
from ode_core.models.predictions import Predictions
from ode_core.specs.modified_field import ModifiedFieldSpec

OFFERED_FROM = 0.95
# Flips go both ways, and accuracy may be lost by few samples where many predictions change.
OFFERED_AGREEMENT = 0.99
OFFERED_UNSETTLED = 0.01
# A modified field that takes more is outside of its range, and no repair: some explode, and would go on for minutes.
MAX_EVALUATIONS = 3_000
# Samples tried first, and evaluations of one of them in a solve: fields that were a repair took 100 to 500.
PILOT, PILOT_EVALUATIONS = 20, 1_000
# A trial that might be offered is stopped once in a hundred times at most, over the draw of the first samples: each of
# two tests, of what agrees and of what settles, is wrong once in two hundred.
_CONFIDENCE = 0.99


@dataclass(frozen=True)
class Rescue:
    """A model with a modified field, under a converged solver.

    Attributes:
        spec: which modified field.
        samples: it was tried on so many: all of those given, or where it was stopped those of ``pilot_samples``.
        stopped: the trial ended before all of them, as it could no more come to an offer; the reason says more.
        accuracy: its accuracy on them; a failed solve counts as wrong.
        score: ``(accuracy - reference's) / (trained accuracy - reference's)``; None where too few samples were lost, or
            the trial was stopped.
        reason: why there is no score, or None.
        agreement: share of samples with the prediction of the training solver.
        changed: of all samples given, those whose prediction the field itself changes, under the converged reference.
        offered: at least 10 predictions changed, the score is at least 0.95 or the agreement at least 0.99, and the
            trial's solutions converged; where there is an ``agreement_of_all``, that is at least 0.99, too.
        unsettled: samples whose prediction did not settle under the converged solver.
        evaluations: evaluations of the modified field for one sample, on average.
        evaluations_in_field: evaluations of the trained field in each; with an implicit method a usual number.
        agreement_of_all: the agreement in the set that the samples were chosen from, estimated, where samples that
            change are more frequent among them; else None.
    """

    spec: ModifiedFieldSpec
    samples: int
    stopped: bool
    accuracy: float
    score: float | None
    reason: str | None
    agreement: float
    changed: int
    offered: bool
    unsettled: int
    evaluations: float
    evaluations_in_field: int
    agreement_of_all: float | None = None

    @property
    def enough_changed(self) -> bool:
        """Whether the field changes so many predictions that giving them back says something."""
        return self.changed >= FEWEST_SAMPLES

    @property
    def cost(self) -> float:
        """Evaluations of the trained field in one converged solve, on average."""
        return self.evaluations * self.evaluations_in_field

    def to_json(self) -> dict[str, Any]:
        """Return the rescue as JSON values."""
        return asdict(self) | {"spec": self.spec.model_dump(exclude_none=True)}


def rescue(
    model: AuditedModel,
    inputs: Tensor,
    labels: Tensor,
    spec: ModifiedFieldSpec,
    trained: Predictions,
    reference: Predictions,
    *,
    weights: Tensor | None = None,
    pilot: int | None = None,
    on_evaluation: Callable[[], None] | None = None,
    max_evaluations: int | None = MAX_EVALUATIONS,
    last_tolerance: float = 1e-7,
) -> Rescue:
    """Try a modified field on ``inputs`` ``(n, *sample_shape)``.

    Args:
        model: the classifier as it was trained.
        inputs: of the audit.
        labels: ``(n,)``, the right classes.
        spec: which modified field.
        trained: the model's predictions under its training solver.
        reference: its predictions under a converged one.
        weights: ``(n,)``, how many samples of a larger set each stands for; None: one. An offer takes an agreement of
            99 % in that set, too, where samples that change are more frequent among these.
        pilot: try so many samples first, those of ``pilot_samples``, with at most ``PILOT_EVALUATIONS``, and stop if
            that shows that the field will not be offered; None: try all in any case.
        on_evaluation: called before each evaluation of the model's field; an exception it raises ends the trial.
        max_evaluations: bound on the evaluations of the modified field for one sample in one solve, or None.
        last_tolerance: the tightest tolerance to try. With ReLU a series jumps at kinks, where tight ones are dear.
    """
    repaired = with_modified_field(model, spec)
    repaired.field.before_evaluation = on_evaluation
    goal = _Goal(labels, trained, reference)

    def solved(samples: Tensor, bound: int | None) -> _Trial:
        found = converged_reference(
            repaired,
            inputs[samples.to(inputs.device)],
            last_tolerance=last_tolerance,
            max_evaluations=None if bound is None else bound * repaired.evaluations_in_field,
        )
        return _Trial(found, goal, samples, None if weights is None else weights[samples])

    trial, stopped = None, None
    if pilot is not None and pilot < len(labels):
        bound = PILOT_EVALUATIONS if max_evaluations is None else min(PILOT_EVALUATIONS, max_evaluations)
        trial = solved(pilot_samples(len(labels), pilot), bound)
        stopped = trial.why_hopeless(bound)
    if trial is None or stopped is None:
        trial = solved(torch.arange(len(labels)), max_evaluations)
    score = goal.score(trial.accuracy) if stopped is None else None
    given_back = trial.agreement >= OFFERED_AGREEMENT or (score is not None and score >= OFFERED_FROM)
    in_all = trial.agreement_of_all is None or trial.agreement_of_all >= OFFERED_AGREEMENT
    settled = trial.found.unsettled <= OFFERED_UNSETTLED * trial.samples
    return Rescue(
        spec=spec,
        samples=trial.samples,
        stopped=stopped is not None,
        accuracy=trial.accuracy,
        score=score,
        reason=stopped or (goal.why_no_score if score is None else None),
        agreement=trial.agreement,
        changed=goal.changed,
        offered=stopped is None and goal.changed >= FEWEST_SAMPLES and given_back and in_all and settled,
        unsettled=trial.found.unsettled,
        evaluations=trial.found.predictions.mean_evaluations / repaired.evaluations_in_field,
        evaluations_in_field=repaired.evaluations_in_field,
        agreement_of_all=None if stopped is not None else trial.agreement_of_all,
    )


def pilot_samples(samples: int, pilot: int) -> Tensor:
    """Return ``(pilot,)``, which samples are tried first: drawn at random, always the same ones of as many samples.

    A test set may be sorted, by class or by how hard its samples are: its first samples are no draw from it.
    """
    return torch.randperm(samples, generator=torch.Generator().manual_seed(0))[:pilot].sort().values


class _Goal:
    """What a modified field has to give back, of all samples."""

    def __init__(self, labels: Tensor, trained: Predictions, reference: Predictions) -> None:
        self.labels, self.trained = labels, trained
        self._before, self._after = reference.accuracy(labels), trained.accuracy(labels)
        self._lost = round((self._after - self._before) * len(labels))
        self.changed = int(reference.flips(trained).sum())

    @property
    def accuracy(self) -> float | None:
        """The accuracy from which it is offered; None where too few samples are lost for a score."""
        return None if self._lost < FEWEST_SAMPLES else self._before + OFFERED_FROM * (self._after - self._before)

    @property
    def why_no_score(self) -> str:
        return f"only {self._lost} of {len(self.labels)} samples are lost, too few for a score"

    def score(self, accuracy: float) -> float | None:
        """Return the share of the lost accuracy that is won back."""
        return None if self._lost < FEWEST_SAMPLES else (accuracy - self._before) / (self._after - self._before)


class _Trial:
    """What became of some samples."""

    def __init__(self, found: Reference, goal: _Goal, samples: Tensor, weights: Tensor | None) -> None:
        self.found, self._goal, self.samples = found, goal, len(samples)
        self.accuracy = found.predictions.accuracy(goal.labels[samples])
        agreeing = ~found.predictions.flips(goal.trained.select(samples))
        self.agreeing = int(agreeing.sum())
        self.agreement_of_all = None if weights is None else float((weights * agreeing).sum() / weights.sum())

    @property
    def agreement(self) -> float:
        return self.agreeing / self.samples

    def why_hopeless(self, evaluations: int) -> str | None:
        """Return why all samples would not make an offer, or None where they may; each solve had so many evaluations.

        For samples drawn at random.
        """
        _, agreement = clopper_pearson(self.agreeing, self.samples, _CONFIDENCE)
        _, accuracy = clopper_pearson(round(self.accuracy * self.samples), self.samples, _CONFIDENCE)
        unsettled, _ = clopper_pearson(self.found.unsettled, self.samples, _CONFIDENCE)
        far = agreement < OFFERED_AGREEMENT and (self._goal.accuracy is None or accuracy < self._goal.accuracy)
        if not far and unsettled <= OFFERED_UNSETTLED:
            return None
        return (
            f"stopped after {self.samples} of {len(self._goal.labels)} samples, drawn at random: {self.agreeing} of "
            f"them have the trained prediction, and {self.found.unsettled} do not settle within {evaluations:,} "
            f"evaluations of the modified field"
        )
