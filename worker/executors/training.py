"""Trains a model, from the last checkpoint if there is one."""

import logging
import time
from typing import Any

from ode_core.specs import TrainingJobSpec, check_training_budget
from ode_core.training.checkpoint import Checkpoint
from ode_core.training.run import TrainedModel, TrainingRun
from store.unit_of_work import Transaction
from worker.executors.job_data import load_job_data
from worker.lease import WorkerDraining
from worker.running_job import FinishJob, RunningJob
from worker.torch_runtime import choose_device

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
FLUSH_POINTS = 500  # iterations; about one chunk row a series


class MetricBuffer:
    """Collects metric points and writes them in batches, without a gap or a duplicate.

    Args:
        running: the job.
        step: the last iteration whose points are to stay; those after it are removed with the
            first write.
    """

    def __init__(self, running: RunningJob, step: int) -> None:
        self._running = running
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
        return self._step - self._written >= FLUSH_POINTS or time.monotonic() - self._flushed_at >= FLUSH_SECONDS

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
        TrainingDiverged, DatasetUnavailable, BudgetExceeded: the job fails.
    """
    spec = TrainingJobSpec.model_validate(running.job.spec)
    budget = running.settings.budget
    check_training_budget(spec, budget)
    dataset = load_job_data(running, spec.dataset)
    device = choose_device(running.settings.device)
    run = TrainingRun(spec, dataset, device, max_evaluations=budget.evaluations_per_solve)
    _resume(running, run)
    _iterate(running, spec, run)
    running.check()
    total = running.job.progress_total
    trained = run.trained_model(on_batch=lambda left: running.report(total, total, f"final test, {left:,} samples"))
    return _finish(running, spec, trained)


def _resume(running: RunningJob, run: TrainingRun) -> None:
    """Go on from the job's last checkpoint, if there is one that this program can read."""
    checkpoint = running.keep_trying(lambda: running.store.latest_checkpoint(running.job.id))
    if checkpoint is None:
        return
    try:
        run.restore(Checkpoint.from_bytes(checkpoint.data))
    except ValueError as error:
        # Of another version of the program, say. The spec says all: from the beginning it is the same training.
        log.warning("job %s: begins anew: %s", running.job.id, error)
        return
    running.write(lambda tx: tx.events.record(running.job.id, running.attempt, "resumed", {"step": run.iteration}))


def _iterate(running: RunningJob, spec: TrainingJobSpec, run: TrainingRun) -> None:
    metrics = MetricBuffer(running, run.iteration)
    metrics.flush(_progress(run))
    saved_at = run.iteration
    try:
        while not run.finished:
            running.check()
            values = run.advance()
            metrics.add(run.iteration, values)
            if run.iteration % spec.training.checkpoint_interval == 0:
                metrics.flush(_progress(run))
                _save(running, run)
                saved_at = run.iteration
            elif metrics.due:
                metrics.flush(_progress(run))
    except WorkerDraining:
        metrics.flush(_progress(run))
        if run.iteration > saved_at:
            _save(running, run)
        raise
    except Exception:
        metrics.flush(_progress(run))  # what led up to a cancel or a failure stays visible
        raise
    metrics.flush(_progress(run))
    if run.iteration > saved_at:
        _save(running, run)  # a drain during the final test must not cost the training


def _save(running: RunningJob, run: TrainingRun) -> None:
    checkpoint = run.checkpoint()
    data = checkpoint.to_bytes()
    running.keep_trying(
        lambda: running.store.save_checkpoint(
            running.job.id, running.attempt, checkpoint.iteration, data, checkpoint.metadata
        )
    )


def _progress(run: TrainingRun) -> str:
    return f"training with {run.solver.label}"


def _finish(running: RunningJob, spec: TrainingJobSpec, model: TrainedModel) -> FinishJob:
    solver = model.solver.model_dump(mode="json", exclude_none=True)
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
        )
        return {
            "model": spec.name,
            "version": version.version,
            "solver": solver,
            "accuracy": model.metadata["test_accuracy"],
            **model.metadata,
        }

    return register
