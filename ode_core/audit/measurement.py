"""Predictions with the time they took, batch by batch so that a long solve can report and be stopped."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core.models.audited_model import AuditedModel
from ode_core.models.predictions import OnBatch, Predictions, predict_together
from ode_core.specs.solver import SolverSpec


@dataclass(frozen=True)
class Measurement:
    """A model's predictions under one solver, and the wall time they took in seconds, reporting left out."""

    solver: SolverSpec
    predictions: Predictions
    seconds: float

    def of_first(self, samples: int | None) -> "Measurement":
        """Return it for the first ``samples``, or all, with the share of the time that is theirs by evaluations."""
        if samples is None or samples >= len(self.predictions.labels):
            return self
        first = self.predictions.select(torch.arange(samples))
        whole = float(self.predictions.evaluations.sum())
        share = float(first.evaluations.sum()) / whole if whole else samples / len(self.predictions.labels)
        return Measurement(self.solver, first, self.seconds * share)


def measure(
    model: AuditedModel,
    inputs: Tensor,
    solver: SolverSpec,
    *,
    on_batch: OnBatch | None = None,
    batch_size: int | None = None,
    max_evaluations: int | None = None,
) -> Measurement:
    """Return the model's predictions for ``inputs`` ``(n, *sample_shape)`` under ``solver``.

    ``batch_size`` bounds the memory; it does not change a prediction. A sample whose solve would take more than
    ``max_evaluations`` of the field fails.
    """
    (found,) = measure_together(
        model, inputs, [solver], on_batch=on_batch, batch_size=batch_size, max_evaluations=max_evaluations
    )
    return found


def measure_together(
    model: AuditedModel,
    inputs: Tensor,
    solvers: Sequence[SolverSpec],
    *,
    on_batch: OnBatch | None = None,
    batch_size: int | None = None,
    max_evaluations: int | None = None,
) -> list[Measurement]:
    """Return the same for several solvers, whose solves are stacked where that can be done.

    Of the time they took together, each gets the share of its evaluations.
    """
    reporting = 0.0

    def report(left: int) -> None:
        nonlocal reporting
        start = time.perf_counter()
        if on_batch is not None:
            on_batch(left)
        reporting += time.perf_counter() - start

    start = time.perf_counter()
    found = predict_together(
        model, inputs, solvers, batch_size=batch_size, on_batch=report, max_evaluations=max_evaluations
    )
    seconds = time.perf_counter() - start - reporting
    evaluations = [float(predictions.evaluations.sum()) for predictions in found]
    whole = sum(evaluations)
    shares = [own / whole if whole else 1 / len(found) for own in evaluations]
    return [
        Measurement(solver, predictions, seconds * share)
        for solver, predictions, share in zip(solvers, found, shares, strict=True)
    ]
