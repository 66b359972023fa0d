"""Predictions with the time they took, batch by batch so that a long solve can report and be stopped."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core.models.classifier import Classifier
from ode_core.models.predictions import BATCH, OnBatch, Predictions, predict
from ode_core.specs.solver import SolverSpec


@dataclass(frozen=True)
class Measurement:
    """A model's predictions under one solver, and the wall time they took in seconds."""

    solver: SolverSpec
    predictions: Predictions
    seconds: float


def measure(
    model: Classifier, inputs: Tensor, solver: SolverSpec, *, on_batch: OnBatch | None = None, batch_size: int = BATCH
) -> Measurement:
    """Return the model's predictions for ``inputs`` ``(n, *sample_shape)`` under ``solver``.

    ``batch_size`` bounds the memory; it does not change a prediction.
    """
    parts: list[Predictions] = []
    seconds = 0.0
    for number, batch in enumerate(torch.split(inputs, batch_size)):
        if on_batch is not None:
            on_batch(len(inputs) - number * batch_size)
        start = time.perf_counter()
        parts.append(predict(model, batch, solver, batch_size=batch_size))
        seconds += time.perf_counter() - start
    predictions = Predictions(
        logits=torch.cat([part.logits for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        status=torch.cat([part.status for part in parts]),
        evaluations=torch.cat([part.evaluations for part in parts]),
    )
    return Measurement(solver, predictions, seconds)
