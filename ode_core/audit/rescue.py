"""Does the modified field give, under a converged solver, what the training solver gave?

A score near 1 proves that the trained model is a flow, of another field than its own. A score near 0 proves only that
the series is outside of its range.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ode_core.audit.interventions import FEWEST_SAMPLES
from ode_core.audit.reference import converged_reference
from ode_core.models.audited_model import AuditedModel
from ode_core.models.modified_classifier import with_modified_field
from ode_core.models.predictions import Predictions
from ode_core.specs.modified_field import ModifiedFieldSpec

OFFERED_FROM = 0.95
# Flips go both ways, and accuracy may be lost by few samples where many predictions change.
OFFERED_AGREEMENT = 0.99
# A modified field that takes more is outside of its range, and no repair: some explode, and would go on for minutes.
MAX_EVALUATIONS = 3_000


@dataclass(frozen=True)
class Rescue:
    """A model with a modified field, under a converged solver.

    Attributes:
        spec: which modified field.
        accuracy: its accuracy; a failed solve counts as wrong.
        score: ``(accuracy - reference's) / (trained accuracy - reference's)``; None where too few samples were lost.
        reason: why there is no score, or None.
        agreement: share of samples with the prediction of the training solver.
        changed: samples whose prediction the field itself changes, under the converged reference.
        offered: at least 10 predictions changed, the score is at least 0.95 or the agreement at least 0.99, and the
            trial's solutions converged.
        unsettled: samples whose prediction did not settle under the converged solver.
        evaluations: evaluations of the modified field for one sample, on average.
        evaluations_in_field: evaluations of the trained field in each; with an implicit method a usual number.
    """

    spec: ModifiedFieldSpec
    accuracy: float
    score: float | None
    reason: str | None
    agreement: float
    changed: int
    offered: bool
    unsettled: int
    evaluations: float
    evaluations_in_field: int

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
        on_evaluation: called before each evaluation of the model's field; an exception it raises ends the trial.
        max_evaluations: bound on the evaluations of the modified field for one sample in one solve, or None.
        last_tolerance: the tightest tolerance to try. With ReLU a series jumps at kinks, where tight ones are dear.
    """
    repaired = with_modified_field(model, spec)
    repaired.field.before_evaluation = on_evaluation
    found = converged_reference(
        repaired,
        inputs,
        last_tolerance=last_tolerance,
        max_evaluations=None if max_evaluations is None else max_evaluations * repaired.evaluations_in_field,
    )
    accuracy, before, after = (one.accuracy(labels) for one in (found.predictions, reference, trained))
    lost = round((after - before) * len(labels))
    score = (accuracy - before) / (after - before) if lost >= FEWEST_SAMPLES else None
    agreement = 1 - float(found.predictions.flips(trained).double().mean())
    changed = int(reference.flips(trained).sum())
    given_back = agreement >= OFFERED_AGREEMENT or (score is not None and score >= OFFERED_FROM)
    return Rescue(
        spec=spec,
        accuracy=accuracy,
        score=score,
        reason=None if score is not None else f"only {lost} of {len(labels)} samples are lost, too few for a score",
        agreement=agreement,
        changed=changed,
        offered=changed >= FEWEST_SAMPLES and given_back and found.unsettled <= 0.01 * len(labels),
        unsettled=found.unsettled,
        evaluations=found.predictions.mean_evaluations / repaired.evaluations_in_field,
        evaluations_in_field=repaired.evaluations_in_field,
    )
