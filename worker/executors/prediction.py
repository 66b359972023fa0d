"""Predicts a whole data set with a stored model, from the last stored sample on if there is one."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ode_core.models.classifier import Classifier, ClassifierOutput
from ode_core.models.prediction_columns import Columns, Tally, pack, unpack
from ode_core.models.predictions import batch_size_for, prediction_columns
from ode_core.models.steady_classifier import SteadyClassifier, solved_one_by_one
from ode_core.specs import (
    DatasetSpec,
    PredictJobSpec,
    SolverSpec,
    check_prediction_budget,
    check_solve_budget,
    prediction_bytes,
    samples_to_predict,
)
from store.predictions import PredictionChunk
from store.unit_of_work import Transaction
from worker.executors.job_data import load_job_data
from worker.executors.stored_model import LoadedVersion, load_version
from worker.running_job import FinishJob, RunningJob

CHUNK_BYTES = 1 << 20  # of a row: written fast enough for other writers to get their turn
CHUNK_SECONDS = 5.0  # of work that a killed worker costs
ONE_BY_ONE = 64  # rows of a batch whose samples are solved by themselves


def run_prediction(running: RunningJob) -> FinishJob:
    """Run a job of the kind ``predict`` to its end.

    Raises:
        LeaseLost, JobCancelled, WorkerDraining: before the next evaluation of the field; whole batches stay.
        ModelUnavailable, DatasetUnavailable, PredictionImpossible, BudgetExceeded: the job fails.
    """
    spec = PredictJobSpec.model_validate(running.job.spec)
    loaded = load_version(running)
    assert not isinstance(spec.solver, str)  # who accepted the job has chosen
    dataset, solver = spec.dataset or loaded.spec.dataset, spec.solver or loaded.solver
    samples = samples_to_predict(spec, loaded.spec, dataset)
    _check_budget(running, spec, loaded, solver, samples)
    data = load_job_data(running, dataset)
    inputs, truth = (
        (data.train_inputs, data.train_labels) if spec.split == "train" else (data.test_inputs, data.test_labels)
    )
    most = CHUNK_BYTES // prediction_bytes(loaded.spec.dataset.classes, logits=spec.logits)
    _predict_rest(
        running,
        _predictor(running, loaded.model, dataset, solver),
        f"predicting with {solver.label}",
        inputs[:samples],
        truth[:samples],
        logits=spec.logits,
        # Every batch fits into a chunk, so chunks end where batches do, and batches are the same after a restart.
        rows=min(_rows_at_once(loaded.model, solver), most),
        most=most,
    )
    tally = _tally(running, samples)
    result = {
        "model": loaded.version.model,
        "version": loaded.version.version,
        "solver": solver.document(),
        "solver_reason": None if spec.chosen_by is None else spec.chosen_by.reason,
        "dataset": dataset.model_dump(mode="json"),
        "split": spec.split,
        "classes": loaded.spec.dataset.classes,
        "logits": spec.logits,
        "samples": tally.samples,
        "accuracy": tally.accuracy,
        "failures": sum(tally.failure_reasons.values()),
        "failure_reasons": tally.failure_reasons,
        "nfe": tally.mean_evaluations,
        "seconds": tally.seconds,
        "device": loaded.model.device.type,
        "precision": loaded.spec.training.precision,
    }

    def finish(tx: Transaction) -> dict[str, Any]:
        return result

    return finish


def _check_budget(
    running: RunningJob, spec: PredictJobSpec, loaded: LoadedVersion, solver: SolverSpec, samples: int
) -> None:
    budget, model = running.settings.budget, loaded.model
    check_solve_budget(
        solver, model.end_time, budget.evaluations_per_solve, _state_size(model), each=model.evaluations_in_field
    )
    check_prediction_budget(spec, loaded.spec, solver, samples, budget, each=model.evaluations_in_field)


def _state_size(model: Classifier) -> int:
    return math.prod(model.state_shape)


def _rows_at_once(model: Classifier, solver: SolverSpec) -> int:
    rows = batch_size_for(model)
    # Together they would only take longer until they are stored.
    return min(rows, ONE_BY_ONE) if model.device.type == "cpu" and solved_one_by_one(solver) else rows


Predict = Callable[[Tensor], ClassifierOutput]
"""Solves one batch of inputs in the data set's units."""


def _predictor(running: RunningJob, model: Classifier, dataset: DatasetSpec, solver: SolverSpec) -> Predict:
    """Return what predicts a batch, stopped between two evaluations when the job has to stop.

    On a CPU it is what answers requests, so that the bits are theirs. On a GPU nothing has the same bits in all
    batches: there steps are never compiled, so that what comes before and after a restart is computed in the same way.
    """
    prepared = model.uncompiled()
    prepared.input_scale = dataset.input_scale
    steady = SteadyClassifier(prepared) if model.device.type == "cpu" else None
    computing = prepared if steady is None else steady.model
    computing.field.before_evaluation = running.check
    run = prepared.run if steady is None else steady.run

    def predict(inputs: Tensor) -> ClassifierOutput:
        with torch.inference_mode():
            most = running.settings.budget.evaluations_per_solve
            return run(inputs.to(model.device), solver, max_evaluations=most)

    return predict


def _predict_rest(
    running: RunningJob,
    predict: Predict,
    message: str,
    inputs: Tensor,
    truth: Tensor,
    *,
    logits: bool,
    rows: int,
    most: int,
) -> None:
    """Predict and store what is not stored yet, ``rows`` at once, at most ``most`` samples in a chunk."""
    stored = running.keep_trying(lambda: _stored_samples(running))
    if stored:
        running.write(lambda tx: tx.events.record(running.job.id, running.attempt, "resumed", {"step": stored}))
    chunk = _Chunk(running, stored, most, len(inputs), message)
    try:
        for start in range(stored, len(inputs), rows):
            running.report(start, len(inputs), message)
            batch = slice(start, start + rows)
            began = time.monotonic()
            output = predict(inputs[batch])
            columns = prediction_columns(output, truth[batch], logits=logits)
            chunk.add(columns, len(inputs[batch]), time.monotonic() - began)
    finally:
        chunk.flush()  # also what led up to a cancel or a failure


def _stored_samples(running: RunningJob) -> int:
    with running.store.reading() as tx:
        return tx.predictions.stored_samples(running.job.id)


@dataclass
class _Chunk:
    """Collects batches and stores them together.

    Attributes:
        running: the job.
        first: the first sample not stored yet.
        most: samples in a row of the table.
        total: samples of the job.
        message: of its progress.
    """

    running: RunningJob
    first: int
    most: int
    total: int
    message: str
    _parts: list[Columns] = field(default_factory=list)
    _samples: int = 0
    _seconds: float = 0.0
    _begun: float = field(default_factory=time.monotonic)

    def add(self, columns: Columns, samples: int, seconds: float) -> None:
        """Add the next batch; store what is there when it is due."""
        if self._samples + samples > self.most:
            self.flush()
        self._parts.append(columns)
        self._samples += samples
        self._seconds += seconds
        if time.monotonic() - self._begun >= CHUNK_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Store what is there."""
        job, attempt = self.running.job, self.running.attempt
        if self._parts:
            chunk = PredictionChunk(self.first, self._samples, self._seconds, pack(self._parts))

            def write(tx: Transaction) -> None:
                tx.predictions.append(job.id, attempt, chunk)
                tx.jobs.report_progress(job.id, attempt, chunk.stop, self.total, self.message)

            self.running.write(write)
            self.first = chunk.stop
        self._parts, self._samples, self._seconds, self._begun = [], 0, 0.0, time.monotonic()


def _tally(running: RunningJob, samples: int) -> Tally:
    """Put together what is stored, of all attempts."""

    def read() -> Tally:
        tally = Tally()
        for chunk in running.store.prediction_chunks(running.job.id, Tally.COLUMNS, samples):
            tally.add(unpack(chunk.columns, chunk.samples), chunk.seconds)
        return tally

    return running.keep_trying(read)
