"""Does a repaired model give the predictions of the version it was made from?"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ode_core.models.classifier import Classifier
from ode_core.models.predictions import OnBatch, Predictions, predict
from ode_core.specs.solver import SolverSpec


@dataclass(frozen=True)
class ParentAgreement:
    """A repaired model's predictions beside those its parent was trained to give.

    Attributes:
        solver: what the parent was trained with.
        accuracy: the parent's under it.
        agreement: share of samples that the repaired model, with the solver it is served with, predicts as the parent.
        reference_agreement: the same of the repaired model's converged reference.
    """

    solver: SolverSpec
    accuracy: float
    agreement: float
    reference_agreement: float

    def to_json(self) -> dict[str, Any]:
        """Return the agreement as JSON values."""
        return {
            "solver": self.solver.document(),
            "accuracy": self.accuracy,
            "agreement": self.agreement,
            "reference_agreement": self.reference_agreement,
        }


def parent_agreement(
    parent: Classifier,
    inputs: Tensor,
    labels: Tensor,
    solver: SolverSpec,
    served: Predictions,
    reference: Predictions,
    *,
    on_batch: OnBatch | None = None,
    max_evaluations: int | None = None,
) -> ParentAgreement:
    """Compare an audited repair with its parent; a failed solve on either side is no agreement.

    Args:
        parent: the model without the modified field.
        inputs: of the audit, ``(n, *sample_shape)``.
        labels: ``(n,)``, the right classes.
        solver: what the parent was trained with.
        served: the repaired model's predictions with the solver it is served with.
        reference: its predictions under a converged solver.
        on_batch: called before each batch with the number of samples left.
        max_evaluations: bound on the evaluations of the field for one sample in one solve, or None.
    """
    before = predict(parent, inputs, solver, on_batch=on_batch, max_evaluations=max_evaluations)

    def agreeing(after: Predictions) -> float:
        return 1 - float((after.flips(before) | before.flips(after)).double().mean())

    return ParentAgreement(solver, before.accuracy(labels), agreeing(served), agreeing(reference))
