"""Predictions of a classifier over many inputs, batch by batch, with exact denominators."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core.models.classifier import Classifier
from ode_core.solvers.status import SolveStatus
from ode_core.specs.solver import SolverSpec

BATCH = 512
NO_LABEL = -1


@dataclass(frozen=True)
class Predictions:
    """What a model answers for ``n`` inputs under one solver. All tensors are on the CPU.

    Attributes:
        logits: ``(n, classes)``, NaN where the solve failed.
        labels: ``(n,)`` int64, the predicted class; ``NO_LABEL`` where the solve failed.
        status: ``(n,)``, values of ``SolveStatus``.
        evaluations: ``(n,)``, evaluations of the field.
    """

    logits: Tensor
    labels: Tensor
    status: Tensor
    evaluations: Tensor

    @property
    def failures(self) -> int:
        """Number of inputs whose solve failed."""
        return int((self.status != SolveStatus.SUCCESS).sum())

    @property
    def mean_evaluations(self) -> float:
        """Evaluations of the field for one input, on average."""
        return float(self.evaluations.double().mean())

    def accuracy(self, labels: Tensor) -> float:
        """Return the share of right labels; a failed solve counts as wrong."""
        return float((self.labels == labels).double().mean())

    def flips(self, other: "Predictions") -> Tensor:
        """Return ``(n,)`` of bool: where the two predict differently. A failed solve in either counts."""
        return (self.labels != other.labels) | (self.labels == NO_LABEL)


OnBatch = Callable[[int], None]
"""Called before each batch with the number of samples left to solve; an exception it raises ends the solves."""


@torch.no_grad()
def predict(
    model: Classifier,
    inputs: Tensor,
    solver: SolverSpec,
    *,
    batch_size: int = BATCH,
    on_batch: OnBatch | None = None,
    max_evaluations: int | None = None,
) -> Predictions:
    """Return the model's predictions for ``inputs`` ``(n, *sample_shape)`` under ``solver``.

    ``batch_size`` bounds the memory; it does not change a prediction. A sample whose solve would take more than
    ``max_evaluations`` of the field fails.
    """
    device = next(model.parameters()).device
    parts = []
    for number, batch in enumerate(torch.split(inputs, batch_size)):
        if on_batch is not None:
            on_batch(len(inputs) - number * batch_size)
        parts.append(model.run(batch.to(device), solver, max_evaluations=max_evaluations))
    logits = torch.cat([part.logits for part in parts]).cpu()
    status = torch.cat([part.solution.status for part in parts]).cpu()
    # A diverged head must not pass as class 0, which is what argmax makes of NaN.
    readable = (status == SolveStatus.SUCCESS) & torch.isfinite(logits).all(dim=1)
    status = torch.where(
        readable | (status != SolveStatus.SUCCESS), status, torch.full_like(status, int(SolveStatus.NON_FINITE))
    )
    return Predictions(
        logits=logits,
        labels=torch.where(readable, logits.argmax(dim=1), NO_LABEL),
        status=status,
        evaluations=torch.cat([part.solution.evaluations for part in parts]).cpu(),
    )
