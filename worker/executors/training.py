"""Trains a model, from the last checkpoint if there is one."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ode_core.specs import TrainingJobSpec, check_training_budget
from ode_core.training.checkpoint import Checkpoint
from ode_core.training.run import TrainedModel, TrainingRun
from store.unit_of_work import Transaction
from worker.executors.job_data import load_job_data
from worker.executors.stored_model import read_start_weights, start_version
from worker.lease import WorkerDraining
from worker.running_job import FinishJob, RunningJob
from worker.torch_runtime import choose_device

log = logging.getLogger(__name__)

FLUSH_POINTS = 500  # iterations; about one chunk row a series


@dataclass(frozen=True)
class Pace:
    """How often an iterated job writes.

    Attributes:
        flush_seconds: after which metrics and progress are written.
        checkpoint_seconds: that pass between two checkpoints, at least.
    """

    flush_seconds: float = 1.0
    checkpoint_seconds: float = 0.0


class Iterations(Protocol):
    """What is trained iteration by iteration, and can go on from a checkpoint."""

    @property
    def iteration(self) -> int:
        """Finished iterations."""

    @property
    def finished(self) -> bool:
        """Whether all iterations are done."""

    def advance(self) -> dict[str, float]:
        """Do one iteration; return its metrics by name."""

    def checkpoint(self) -> Checkpoint:
        """Return the state between two iterations."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint; ``ValueError`` if it is of something else."""


class MetricBuffer:
    """Collects metric points and writes them in batches, without a gap or a duplicate.

    Args:
        running: the job.
        step: the last iteration whose points are to stay; those after it are removed with the
            first write.
        seconds: after which the points are written.
    """

    def __init__(self, running: RunningJob, step: int, seconds: float) -> None:
        self._running = running
        self._seconds = seconds
        self._written = step
        self._pending: dict[str, list[tuple[int, float]]] = {}
        self._step = step
        self._flushed_at = time.monotonic()
        # Whether points beyond ``_written`` may be there: of an earlier attempt, or of a commit whose
        # answer was lost.
        self._doubtful = True

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add the values of iteration ``step``."""
        for name, value in values.items():
            self._pending.setdefault(name, []).append((step, value))
        self._step = step

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return self._step - self._written >= FLUSH_POINTS or time.monotonic() - self._flushed_at >= self._seconds

    def flush(self, message: str) -> None:
        """Write the points and the progress in one transaction."""
        job, attempt = self._running.job, self._running.attempt

        def write(tx: Transaction) -> None:
            if self._doubtful:
                tx.metrics.truncate_after(job.id, attempt, self._written)
            self._doubtful = True
            if self._pending:
                tx.metrics.append(job.id, attempt, self._pending)
            tx.jobs.report_progress(job.id, attempt, self._step, job.progress_total, message)

        self._running.write(write)
        self._doubtful = False
        self._pending = {}
        self._written = self._step
        self._flushed_at = time.monotonic()


def train(running: RunningJob) -> FinishJob:
    """Run a training job to its end.

    Raises:
        LeaseLost, JobCancelled: at once; the points so far and the last checkpoint stay.
        WorkerDraining: after a checkpoint.
        TrainingDiverged, DatasetUnavailable, ModelUnavailable, BudgetExceeded: the job fails.
    """
    spec = TrainingJobSpec.model_validate(running.job.spec)
    budget = running.settings.budget
    check_training_budget(spec, budget)
    dataset = load_job_data(running, spec.dataset)
    device = choose_device(running.settings.device)
    run = TrainingRun(
        spec,
        dataset,
        device,
        max_evaluations=budget.evaluations_per_solve,
        initial_weights=None if spec.start_from is None else read_start_weights(running, spec.start_from),
    )
    resume(running, run, running.job.id)
    iterate(running, run, spec.training.checkpoint_interval, lambda: f"training with {run.solver.label}")
    running.check()
    total = running.job.progress_total
    trained = run.trained_model(on_batch=lambda left: running.report(total, total, f"final test, {left:,} samples"))
    return _finish(running, spec, trained)


def resume(running: RunningJob, run: Iterations, job_id: str) -> bool:
    """Go on from the last checkpoint of ``job_id``, if there is one that this program can read; return whether."""
    checkpoint = running.keep_trying(lambda: running.store.latest_checkpoint(job_id))
    if checkpoint is None:
        return False
    try:
        run.restore(Checkpoint.from_bytes(checkpoint.data))
    except ValueError as error:
        # Of another version of the program, say. The spec says all: from the beginning it is the same training.
        log.warning("job %s: begins anew: %s", running.job.id, error)
        return False
    running.write(lambda tx: tx.events.record(running.job.id, running.attempt, "resumed", {"step": run.iteration}))
    return True


def iterate(
    running: RunningJob,
    run: Iterations,
    checkpoint_interval: int,
    message: Callable[[], str],
    pace: Pace = Pace(),
) -> None:
    """Do the remaining iterations; store metrics, progress with its message, and checkpoints on the way.

    Raises:
        LeaseLost, JobCancelled: at once; the points so far and the last checkpoint stay.
        WorkerDraining: after a checkpoint.
    """
    metrics = MetricBuffer(running, run.iteration, pace.flush_seconds)
    metrics.flush(message())
    saved_at, saved_time = run.iteration, time.monotonic()
    try:
        while not run.finished:
            running.check()
            values = run.advance()
            metrics.add(run.iteration, values)
            waited = time.monotonic() - saved_time >= pace.checkpoint_seconds
            if run.iteration % checkpoint_interval == 0 and waited:
                metrics.flush(message())
                _save(running, run)
                saved_at, saved_time = run.iteration, time.monotonic()
            elif metrics.due:
                metrics.flush(message())
    except WorkerDraining:
        metrics.flush(message())
        if run.iteration > saved_at:
            _save(running, run)
        raise
    except Exception:
        metrics.flush(message())  # what led up to a cancel or a failure stays visible
        raise
    metrics.flush(message())
    if run.iteration > saved_at:
        _save(running, run)  # a drain during the final test must not cost the training


def _save(running: RunningJob, run: Iterations) -> None:
    checkpoint = run.checkpoint()
    data = checkpoint.to_bytes()
    running.keep_trying(
        lambda: running.store.save_checkpoint(
            running.job.id, running.attempt, checkpoint.iteration, data, checkpoint.metadata
        )
    )


def _finish(running: RunningJob, spec: TrainingJobSpec, model: TrainedModel) -> FinishJob:
    solver = model.solver.document()
    job, attempt = running.job, running.attempt
    blob_id = running.keep_trying(lambda: running.store.save_blob(model.weights, job_id=job.id, attempt=attempt))

    def register(tx: Transaction) -> dict[str, Any]:
        version = tx.models.register_version(
            spec.name,
            job.id,
            training_spec=job.spec,
            solver=solver,
            blob_id=blob_id,
            metadata=model.metadata,
            parent=start_version(spec),
        )
        return {
            "model": spec.name,
            "version": version.version,
            "solver": solver,
            "accuracy": model.metadata["test_accuracy"],
            **model.metadata,
        }

    return register
