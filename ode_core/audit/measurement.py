"""Predictions with the time they took, batch by batch so that a long solve can report and be stopped."""

import time
from dataclasses import dataclass

from torch import Tensor

from ode_core.models.classifier import Classifier
from ode_core.models.predictions import BATCH, OnBatch, Predictions, predict
from ode_core.specs.solver import SolverSpec


@dataclass(frozen=True)
class Measurement:
    """A model's predictions under one solver, and the wall time they took in seconds, reporting left out."""

    solver: SolverSpec
    predictions: Predictions
    seconds: float


def measure(
    model: Classifier,
    inputs: Tensor,
    solver: SolverSpec,
    *,
    on_batch: OnBatch | None = None,
    batch_size: int = BATCH,
    max_evaluations: int | None = None,
) -> Measurement:
    """Return the model's predictions for ``inputs`` ``(n, *sample_shape)`` under ``solver``.

    ``batch_size`` bounds the memory; it does not change a prediction. A sample whose solve would take more than
    ``max_evaluations`` of the field fails.
    """
    reporting = 0.0

    def report(left: int) -> None:
        nonlocal reporting
        start = time.perf_counter()
        if on_batch is not None:
            on_batch(left)
        reporting += time.perf_counter() - start

    start = time.perf_counter()
    predictions = predict(
        model, inputs, solver, batch_size=batch_size, on_batch=report, max_evaluations=max_evaluations
    )
    return Measurement(solver, predictions, time.perf_counter() - start - reporting)
