"""Predictions of a classifier over many inputs, batch by batch, with exact denominators."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core.models.audited_model import AuditedModel
from ode_core.models.classifier import ClassifierOutput
from ode_core.models.prediction_columns import Columns
from ode_core.solvers.solution import Execution
from ode_core.solvers.status import SolveStatus
from ode_core.specs.solver import SolverSpec

NO_LABEL = -1
# Numbers in a batch of states. More would leave the cache, or for images the memory.
_BATCH_NUMBERS, _SMALLEST_BATCH, _LARGEST_BATCH = 2**19, 64, 1024


@dataclass(frozen=True)
class Predictions:
    """What a model answers for ``n`` inputs under one solver. All tensors are on the CPU.

    Attributes:
        logits: ``(n, classes)``, NaN where the solve failed.
        labels: ``(n,)`` int64, the predicted class; ``NO_LABEL`` where the solve failed.
        status: ``(n,)``, values of ``SolveStatus``.
        evaluations: ``(n,)``, evaluations of the field.
        execution: how the numbers were computed; of several batches, the last.
    """

    logits: Tensor
    labels: Tensor
    status: Tensor
    evaluations: Tensor
    execution: Execution

    @property
    def failures(self) -> int:
        """Number of inputs whose solve failed."""
        return int((self.status != SolveStatus.SUCCESS).sum())

    @property
    def failure_reasons(self) -> dict[str, int]:
        """How many solves failed with which status, by the status's name."""
        failed = self.status[self.status != SolveStatus.SUCCESS]
        kinds, counts = torch.unique(failed, return_counts=True)
        return {SolveStatus(kind).text: count for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True)}

    @property
    def mean_evaluations(self) -> float:
        """Evaluations of the field for one input, on average."""
        return float(self.evaluations.double().mean())

    def accuracy(self, labels: Tensor) -> float:
        """Return the share of right labels; a failed solve counts as wrong."""
        return float((self.labels == labels).double().mean())

    def select(self, samples: Tensor) -> "Predictions":
        """Return the predictions of some samples."""
        return Predictions(
            self.logits[samples],
            self.labels[samples],
            self.status[samples],
            self.evaluations[samples],
            self.execution,
        )

    def flips(self, other: "Predictions") -> Tensor:
        """Return ``(n,)`` of bool: where the two predict differently. A failed solve in either counts."""
        return (self.labels != other.labels) | (self.labels == NO_LABEL)


OnBatch = Callable[[int], None]
"""Called before each batch with the number of samples left to solve; an exception it raises ends the solves."""


def batch_size_for(model: AuditedModel) -> int:
    """Return how many inputs are solved at once where nobody says: as many as a few large products are worth."""
    return max(_SMALLEST_BATCH, min(_LARGEST_BATCH, _BATCH_NUMBERS // math.prod(model.state_shape)))


def predict(
    model: AuditedModel,
    inputs: Tensor,
    solver: SolverSpec,
    *,
    batch_size: int | None = None,
    on_batch: OnBatch | None = None,
    max_evaluations: int | None = None,
) -> Predictions:
    """Return the model's predictions for ``inputs`` ``(n, *sample_shape)`` under ``solver``.

    ``batch_size`` bounds the memory; it does not change a prediction. A sample whose solve would take more than
    ``max_evaluations`` of the field fails.
    """
    (found,) = predict_together(
        model, inputs, [solver], batch_size=batch_size, on_batch=on_batch, max_evaluations=max_evaluations
    )
    return found


def predict_together(
    model: AuditedModel,
    inputs: Tensor,
    solvers: Sequence[SolverSpec],
    *,
    batch_size: int | None = None,
    on_batch: OnBatch | None = None,
    max_evaluations: int | None = None,
) -> list[Predictions]:
    """Return the model's predictions under each of ``solvers``; their solves are stacked where that can be done."""
    device = model.device
    size = batch_size_for(model) if batch_size is None else batch_size
    parts: list[list[ClassifierOutput]] = [[] for _ in solvers]
    for number, batch in enumerate(torch.split(inputs, size)):
        if on_batch is not None:
            on_batch(len(inputs) - number * size)
        outputs = model.run_together(batch.to(device), solvers, max_evaluations=max_evaluations)
        for own, output in zip(parts, outputs, strict=True):
            own.append(output)
    return [_joined(own) for own in parts]


def _joined(parts: Sequence[ClassifierOutput]) -> Predictions:
    logits = torch.cat([part.logits for part in parts]).cpu()
    status = status_of_answer(logits, torch.cat([part.solution.status for part in parts]).cpu())
    return Predictions(
        logits=logits,
        labels=labels_of(logits, status),
        status=status,
        evaluations=torch.cat([part.solution.evaluations for part in parts]).cpu(),
        execution=parts[-1].solution.execution,
    )


def status_of_answer(logits: Tensor, status: Tensor) -> Tensor:
    """Return ``(n,)`` statuses of solves, ``NON_FINITE`` where the solve succeeded and the head diverged."""
    unreadable = (status == SolveStatus.SUCCESS) & ~torch.isfinite(logits).all(dim=1)
    return status.masked_fill(unreadable, int(SolveStatus.NON_FINITE))


def labels_of(logits: Tensor, status: Tensor) -> Tensor:
    """Return ``(n,)`` predicted classes; ``NO_LABEL`` without success, where argmax would make class 0 of NaN."""
    return torch.where(status == SolveStatus.SUCCESS, logits.argmax(dim=1), NO_LABEL)


def prediction_columns(output: ClassifierOutput, truth: Tensor, *, logits: bool) -> Columns:
    """Return an output as columns to be stored.

    Args:
        output: of a batch.
        truth: ``(batch,)``, the data set's labels.
        logits: whether the logits are among the columns.
    """
    values, solution = output.logits.cpu(), output.solution
    status = status_of_answer(values, solution.status.cpu())
    failed = (status != SolveStatus.SUCCESS).unsqueeze(1)
    tensors = {
        "truth": truth,
        "label": labels_of(values, status),
        "status": status,
        "nfe": solution.evaluations,
        "accepted": solution.accepted,
        "rejected": solution.rejected,
        "probabilities": values.double().softmax(dim=1).masked_fill(failed, torch.nan).float(),
    }
    if logits:
        tensors["logits"] = values.masked_fill(failed, torch.nan).float()
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
