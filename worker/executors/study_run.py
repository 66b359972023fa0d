"""Runs one job of a study: trains a configuration with its seeds, then tests every model under the study's solvers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ode_core.audit.sweep import TestResult, sweep
from ode_core.datasets.load import Dataset
from ode_core.models.predictions import OnBatch
from ode_core.models.weights import load_classifier
from ode_core.specs import StudyRunSpec, check_study_run_budget
from ode_core.training.checkpoint import Checkpoint
from ode_core.training.run import TrainedModel, TrainingRun
from ode_core.training.stacked_run import StackedTrainingRun
from store.jobs import Job
from store.unit_of_work import Transaction
from worker.executors.job_data import load_job_data
from worker.executors.result_rows import rows_of_version
from worker.executors.stored_model import read_start_weights, start_version
from worker.executors.training import Iterations, Pace, iterate, resume
from worker.failures import EverySeedDiverged
from worker.running_job import FinishJob, RunningJob
from worker.torch_runtime import choose_device

# A stack has a few series for each seed and its iterations are short: written as often as those of a training job,
# they would take a good part of its time.
PACE = Pace(flush_seconds=2.0, checkpoint_seconds=2.0)


class SeedRuns(Iterations, Protocol):
    """The trainings of a job's seeds, side by side. Metrics are named by their seed: ``seed0.loss``."""

    @property
    def failures(self) -> list[str | None]:
        """For each seed why its training diverged, or None."""

    def trained_model(self, number: int, on_batch: OnBatch) -> TrainedModel:
        """Return what the training of a seed leaves."""


class StackedSeeds:
    """Trainings that share each iteration. Evaluations and steps, the same in all iterations, are no series."""

    SERIES = ("loss", "train_accuracy", "gradient_norm")

    def __init__(self, spec: StudyRunSpec, dataset: Dataset, device: torch.device) -> None:
        self._stack = StackedTrainingRun(spec.training, spec.seeds, dataset, device)
        self._names = [[(name, f"seed{seed}.{name}") for name in self.SERIES] for seed in spec.seeds]

    @property
    def iteration(self) -> int:
        """Finished iterations."""
        return self._stack.iteration

    @property
    def finished(self) -> bool:
        """Whether all iterations are done, or every training has diverged."""
        return self._stack.finished

    @property
    def failures(self) -> list[str | None]:
        """For each seed why its training diverged, or None."""
        return [None if failed is None else str(failed) for failed in self._stack.diverged]

    def advance(self) -> dict[str, float]:
        """Do one iteration of every training that has not diverged."""
        rows = zip(self._names, self._stack.advance(), strict=True)
        return {named: values[name] for names, values in rows if values is not None for name, named in names}

    def checkpoint(self) -> Checkpoint:
        """Return the state of all."""
        return self._stack.stacked_checkpoint()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same seeds."""
        self._stack.restore(checkpoint)

    def trained_model(self, number: int, on_batch: OnBatch) -> TrainedModel:
        """Return what the training of a seed leaves."""
        return self._stack.trained_model(number, on_batch=on_batch)


class SingleSeed:
    """One training by itself; if it diverges, ``advance`` raises ``TrainingDiverged``."""

    def __init__(
        self,
        spec: StudyRunSpec,
        dataset: Dataset,
        device: torch.device,
        max_evaluations: int,
        initial_weights: bytes | None,
    ) -> None:
        (seed,) = spec.seeds
        self._run = TrainingRun(
            spec.training, dataset, device, max_evaluations=max_evaluations, initial_weights=initial_weights
        )
        self._prefix = f"seed{seed}."
        self.failures: list[str | None] = [None]

    @property
    def iteration(self) -> int:
        """Finished iterations."""
        return self._run.iteration

    @property
    def finished(self) -> bool:
        """Whether all iterations are done."""
        return self._run.finished

    def advance(self) -> dict[str, float]:
        """Do one iteration."""
        return {self._prefix + name: value for name, value in self._run.advance().items()}

    def checkpoint(self) -> Checkpoint:
        """Return the state between two iterations."""
        return self._run.checkpoint()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self._run.restore(checkpoint)

    def trained_model(self, number: int, on_batch: OnBatch) -> TrainedModel:
        """Return what the training leaves."""
        return self._run.trained_model(on_batch=on_batch)


@dataclass(frozen=True)
class TestedSeed:
    """A trained model of one seed with its test results and the blob of its weights."""

    seed: int
    model: TrainedModel
    results: list[TestResult]
    blob_id: str


def run_of_study(running: RunningJob) -> FinishJob:
    """Run one job of a study to its end; versions and results are stored together, in the transaction that ends it.

    Raises:
        LeaseLost, JobCancelled, WorkerDraining: as in a training job; the tests begin anew when it goes on.
        TrainingDiverged, EverySeedDiverged, DatasetUnavailable, BudgetExceeded: the job fails.
    """
    spec = StudyRunSpec.model_validate(running.job.spec)
    check_study_run_budget(spec, running.settings.budget)
    dataset = load_job_data(running, spec.training.dataset)
    device = choose_device(running.settings.device)
    runs = _seed_runs(running, spec, dataset, device)
    _go_on(running, runs)
    iterate(running, runs, spec.training.training.checkpoint_interval, lambda: f"training {spec.label}", PACE)
    running.check()
    reasons = zip(spec.seeds, runs.failures, strict=True)
    failed = [{"seed": seed, "reason": reason} for seed, reason in reasons if reason is not None]
    if len(failed) == len(spec.seeds):
        raise EverySeedDiverged(failed)
    tested = [
        _test(running, spec, runs, number, dataset, device)
        for number, reason in enumerate(runs.failures)
        if reason is None
    ]
    return _finish(running, spec, tested, failed)


def _go_on(running: RunningJob, runs: SeedRuns) -> None:
    """Go on from the job's last checkpoint, else from the last one of the jobs whose place it has taken.

    The job before may have ended without a checkpoint of its own, and the one before that have hours of training. With
    the checkpoint come the series up to it, so that the curves of the training are whole.
    """
    if resume(running, runs, running.job.id):
        return

    def predecessors() -> Sequence[Job]:
        with running.store.reading() as tx:
            return tx.studies.predecessors(running.job)

    earlier = next((one.id for one in running.keep_trying(predecessors) if resume(running, runs, one.id)), None)
    if earlier is not None:
        running.write(lambda tx: tx.metrics.take_over(running.job.id, running.attempt, earlier, runs.iteration))


def _seed_runs(running: RunningJob, spec: StudyRunSpec, dataset: Dataset, device: torch.device) -> SeedRuns:
    # A grid of one seed that could be stacked is not: alone, it is the same training with less around it.
    if len(spec.seeds) > 1:
        return StackedSeeds(spec, dataset, device)
    start = spec.training.start_from
    weights = None if start is None else read_start_weights(running, start)
    return SingleSeed(spec, dataset, device, running.settings.budget.evaluations_per_solve, weights)


def _test(
    running: RunningJob, spec: StudyRunSpec, runs: SeedRuns, number: int, dataset: Dataset, device: torch.device
) -> TestedSeed:
    seed, total = spec.seeds[number], running.job.progress_total

    def report(left: int) -> None:
        running.report(total, total, f"testing {spec.label}, seed {seed}, {left:,} samples left under this solver")

    trained = runs.trained_model(number, report)
    results: list[TestResult] = []
    if spec.solvers:
        training = spec.training
        results = sweep(
            load_classifier(training.architecture, training.dataset, trained.weights, device=device),
            dataset.test_inputs[: spec.samples],
            dataset.test_labels[: spec.samples],
            trained.solver,
            spec.solvers,
            on_batch=report,
            max_evaluations=running.settings.budget.evaluations_per_solve,
            trained=trained.tested.of_first(spec.samples),
        )
    job, attempt = running.job, running.attempt
    blob_id = running.keep_trying(lambda: running.store.save_blob(trained.weights, job_id=job.id, attempt=attempt))
    return TestedSeed(seed, trained, results, blob_id)


def _finish(
    running: RunningJob, spec: StudyRunSpec, tested: list[TestedSeed], failed: list[dict[str, Any]]
) -> FinishJob:
    job, attempt = running.job, running.attempt
    name = spec.training.name

    def register(tx: Transaction) -> dict[str, Any]:
        tx.studies.hold_of_job(job.id)
        runs = []
        for one in tested:
            training = spec.training.with_seed(one.seed)
            version = tx.models.register_version(
                name,
                job.id,
                training_spec=training.document(),
                solver=one.model.solver.document(),
                blob_id=one.blob_id,
                metadata={**one.model.metadata, "seed": one.seed, "study": job.study_id, "label": spec.label},
                run=spec.seeds.index(one.seed),
                parent=start_version(training),
            )
            rows = rows_of_version(
                name, version.version, training, one.model.solver, one.results, study_id=job.study_id, seed=one.seed
            )
            tx.results.add(job.id, attempt, rows)
            runs.append(_run_document(spec, one, version.version))
        return {
            "model": name,
            "version": runs[-1]["version"],
            "label": spec.label,
            "runs": runs,
            "failed_seeds": failed,
        }

    return register


def _run_document(spec: StudyRunSpec, tested: TestedSeed, version: int) -> dict[str, Any]:
    document = {
        "seed": tested.seed,
        "version": version,
        "solver": tested.model.solver.document(),
        "accuracy": tested.model.metadata["test_accuracy"],
        **tested.model.metadata,
    }
    if spec.reference is not None:
        document["search"] = _search_facts(spec, tested.results)
    return document


def _search_facts(spec: StudyRunSpec, results: list[TestResult]) -> dict[str, float]:
    """Return what a search judges a model by: its answers under the solver of its training and under a fine one."""
    trained = next(result for result in results if result.solver == spec.training.solver)
    reference = next(result for result in results if result.solver == spec.reference)
    return {
        "train_accuracy": trained.accuracy,
        "test_accuracy": reference.accuracy,
        "flip_rate": reference.flip_rate,
    }
