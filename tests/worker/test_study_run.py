"""Jobs of studies on the real store, with models of a few hundred parameters."""

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from sqlalchemy import update
from torch import Tensor

from ode_core.datasets.load import load_dataset
from ode_core.models.classifier import Classifier
from ode_core.specs import SolverSpec, StudyRunSpec, StudySpec
from ode_core.training.run import TrainingRun
from ode_core.training.stacked_run import StackedTrainingRun
from store.jobs import Job
from store.models import ModelVersion
from store.results import Result
from store.settings import Settings
from store.studies import Study
from store.tables import job as job_table
from store.unit_of_work import Store
from worker.executors import study_run
from worker.executors.study_run import run_of_study
from worker.executors.training import Pace
from worker.run_job import JobRunner, Outcome

ITERATIONS = 30
BASE: dict[str, Any] = {
    "dataset": {"kind": "concentric_spheres", "train_samples": 40, "test_samples": 20},
    "model": {"kind": "classifier", "field": {"kind": "conv1d", "channels": 4}},
    "training": {"iterations": ITERATIONS, "batch_size": 8, "checkpoint_interval": 10},
}
STUDY: dict[str, Any] = {
    "name": "study",
    "base": BASE,
    "train": {"methods": ["euler"], "steps": [2]},
    "seeds": [0, 3, 4],
    "sweep": {"methods": ["euler", "rk4"], "steps": [2, 8]},
}
TOLERANCES = {"methods": ["fehlberg2"], "tolerances": [1e-2]}


class Worker:
    """Runs jobs in this process; something can be made to happen at a given iteration of a stack."""

    def __init__(self, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self._store, self._settings, self._monkeypatch = store, settings, monkeypatch
        self._draining = threading.Event()
        self.rung: list[str] = []

    def run(self, job: Job) -> Outcome:
        self._draining.clear()
        return JobRunner(
            settings=self._settings,
            store=self._store,
            executors={"study_run": run_of_study},
            ring=self.rung.append,
            draining=self._draining.is_set,
        ).run(job.id)

    def run_until(self, job: Job, iteration: int, event: Callable[[StackedTrainingRun], None]) -> Outcome:
        """Run the job; after ``iteration`` let ``event`` happen and hold the job until its lease knows."""
        advance = StackedTrainingRun.advance
        noticed = threading.Event()

        def advance_with_event(stack: StackedTrainingRun) -> list[dict[str, float] | None]:
            rows = advance(stack)
            if stack.iteration == iteration:
                event(stack)
                noticed.wait(0.5)  # ten heartbeats
            return rows

        with self._monkeypatch.context() as patch:
            patch.setattr(StackedTrainingRun, "advance", advance_with_event)
            return self.run(job)

    def drain(self, _: StackedTrainingRun) -> None:
        self._draining.set()


@pytest.fixture
def worker(store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(store, settings, monkeypatch)


def submit(store: Store, **changes: Any) -> tuple[Study, list[Job]]:
    with store.transaction() as tx:
        return tx.studies.submit(StudySpec.model_validate(STUDY | changes))


def versions_of(store: Store, job: Job) -> list[ModelVersion]:
    with store.reading() as tx:
        return list(tx.models.versions_of_job(job.id))


def results_of(store: Store, study: Study) -> list[Result]:
    with store.reading() as tx:
        return tx.results.list(study=study.id, sort="created_at", limit=1000).items


def status_of(store: Store, study: Study) -> str:
    with store.reading() as tx:
        found = tx.studies.get(study.id)
    assert found is not None
    return found.status


def undisturbed_weights(job: Job) -> list[bytes]:
    spec = StudyRunSpec.model_validate(job.spec)
    stack = StackedTrainingRun(
        spec.training, spec.seeds, load_dataset(spec.training.dataset, None), torch.device("cpu")
    )
    while not stack.finished:
        stack.advance()
    return [stack.trained_model(number).weights for number in range(len(spec.seeds))]


def break_seed(number: int) -> Callable[[StackedTrainingRun], None]:
    def breaks(stack: StackedTrainingRun) -> None:
        with torch.no_grad():
            for weights in stack._weights.values():
                weights[number] = math.nan

    return breaks


def test_a_job_makes_a_version_and_its_test_results_for_every_seed(
    store: Store, worker: Worker, job: Callable[[str], Job]
) -> None:
    study, (submitted,) = submit(store)

    assert worker.run(submitted) is Outcome.SUCCEEDED

    ended = job(submitted.id)
    versions = versions_of(store, submitted)
    assert [(v.model, v.version, v.run, v.metadata["seed"]) for v in versions] == [
        ("study.euler-2", 1, 0, 0),
        ("study.euler-2", 2, 1, 3),
        ("study.euler-2", 3, 2, 4),
    ]
    assert [v.training_spec["training"]["seed"] for v in versions] == [0, 3, 4]
    assert all(v.training_spec["name"] == "study.euler-2" for v in versions)
    assert [store.read_blob(v.blob_id) for v in versions] == undisturbed_weights(submitted)
    rows = results_of(store, study)
    expected = [
        (version, seed, method, steps)
        for version, seed in ((1, 0), (2, 3), (3, 4))
        for method in ("euler", "rk4")
        for steps in (2, 8)
    ]
    assert [(row.version, row.seed, row.test_method, row.test_steps) for row in rows] == expected
    assert {(row.job_id, row.samples, row.train_steps) for row in rows} == {(submitted.id, 20, 2)}
    assert all(row.flip_rate == 0 for row in rows if (row.test_method, row.test_steps) == ("euler", 2))
    assert ended.result is not None
    assert [(run["seed"], run["version"]) for run in ended.result["runs"]] == [(0, 1), (3, 2), (4, 3)]
    assert ended.result["failed_seeds"] == []
    assert (ended.progress_step, ended.progress_total) == (ITERATIONS, ITERATIONS)
    assert status_of(store, study) == "succeeded"


@pytest.mark.parametrize("samples", [None, 7])
def test_a_model_is_tested_once_under_the_solver_of_its_training(
    store: Store, worker: Worker, job: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch, samples: int | None
) -> None:
    sweep = {"methods": ["euler"], "steps": [2, 8], "samples": samples}
    study, (submitted,) = submit(store, sweep={name: value for name, value in sweep.items() if value is not None})
    solved: list[SolverSpec] = []
    run_together = Classifier.run_together

    def counted(model: Classifier, inputs: Tensor, solvers: Sequence[SolverSpec], **options: Any) -> Any:
        solved.extend(solvers)
        return run_together(model, inputs, solvers, **options)

    monkeypatch.setattr(Classifier, "run_together", counted)

    assert worker.run(submitted) is Outcome.SUCCEEDED

    assert solved.count(SolverSpec(method="euler", steps=2)) == 3  # a seed each
    result = job(submitted.id).result
    assert result is not None
    own = [row for row in results_of(store, study) if row.test_steps == 2]
    assert [row.samples for row in own] == [samples or 20] * 3
    if samples is None:
        assert [row.accuracy for row in own] == [run["accuracy"] for run in result["runs"]]


def test_every_seed_has_series_of_its_own_with_a_point_an_iteration(store: Store, worker: Worker) -> None:
    _, (submitted,) = submit(store)

    worker.run(submitted)

    with store.reading() as tx:
        series = tx.metrics.read(submitted.id)
    assert set(series) == {
        f"seed{seed}.{name}" for seed in (0, 3, 4) for name in ("loss", "train_accuracy", "gradient_norm")
    }
    assert all([step for step, _ in points] == list(range(1, ITERATIONS + 1)) for points in series.values())


def test_a_drained_job_goes_on_where_it_stopped_and_ends_as_if_undisturbed(store: Store, worker: Worker) -> None:
    study, (submitted,) = submit(store)

    assert worker.run_until(submitted, 17, worker.drain) is Outcome.RELEASED
    checkpoint = store.latest_checkpoint(submitted.id)
    assert checkpoint is not None
    assert checkpoint.step == 17
    assert versions_of(store, submitted) == []
    assert worker.run(submitted) is Outcome.SUCCEEDED

    assert [store.read_blob(v.blob_id) for v in versions_of(store, submitted)] == undisturbed_weights(submitted)
    assert len(results_of(store, study)) == 12
    with store.reading() as tx:
        points = tx.metrics.read(submitted.id)["seed3.loss"]
    assert [step for step, _ in points] == list(range(1, ITERATIONS + 1))


def test_a_job_lost_with_all_tests_done_is_repeated_and_leaves_everything_once(
    store: Store, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its versions and results are written in the transaction that ends it: killed before, it has left none."""
    study, (submitted,) = submit(store)

    class PowerFails(BaseException):
        pass

    finish = study_run._finish

    def die_in_finish(*arguments: Any) -> Any:
        register = finish(*arguments)

        def register_and_die(tx: Any) -> Any:
            register(tx)
            raise PowerFails

        return register_and_die

    with monkeypatch.context() as patch:
        patch.setattr(study_run, "_finish", die_in_finish)
        with pytest.raises(PowerFails):
            worker.run(submitted)
    assert versions_of(store, submitted) == []
    with store.transaction() as tx:  # the lease runs out
        moment = tx.now()
        tx.jobs._scope.connection.execute(
            update(job_table).where(job_table.c.id == submitted.id).values(lease_expires_at=moment)
        )
        tx.jobs.expire_lease(submitted.id, max_failures=3)
    assert worker.run(submitted) is Outcome.SUCCEEDED

    assert [v.version for v in versions_of(store, submitted)] == [1, 2, 3]
    assert len(results_of(store, study)) == 12
    with store.transaction() as tx:
        assert tx.blobs.remove_orphans() == 3  # the weights saved before the power failed


def test_a_seed_that_diverges_is_told_with_its_reason_and_the_others_go_on(
    store: Store, worker: Worker, job: Callable[[str], Job]
) -> None:
    study, (submitted,) = submit(store)

    assert worker.run_until(submitted, 5, break_seed(1)) is Outcome.SUCCEEDED

    ended = job(submitted.id)
    assert ended.result is not None
    assert [run["seed"] for run in ended.result["runs"]] == [0, 4]
    (failed,) = ended.result["failed_seeds"]
    assert failed["seed"] == 3
    assert "in iteration 6 of 30" in failed["reason"]
    assert [(v.run, v.metadata["seed"]) for v in versions_of(store, submitted)] == [(0, 0), (2, 4)]
    assert {row.seed for row in results_of(store, study)} == {0, 4}
    assert status_of(store, study) == "succeeded"


def test_a_job_whose_every_seed_diverges_fails_with_all_the_reasons(
    store: Store, worker: Worker, job: Callable[[str], Job]
) -> None:
    study, (submitted,) = submit(store)

    def break_all(stack: StackedTrainingRun) -> None:
        for number in range(3):
            break_seed(number)(stack)

    assert worker.run_until(submitted, 5, break_all) is Outcome.FAILED

    error = job(submitted.id).error
    assert error is not None
    assert error["code"] == "training_diverged"
    assert [failed["seed"] for failed in error["failed_seeds"]] == [0, 3, 4]
    assert "seed 3: in iteration 6 of 30" in error["message"]
    assert status_of(store, study) == "succeeded"


def test_seeds_that_cannot_be_stacked_are_versions_of_the_same_model(store: Store, worker: Worker) -> None:
    study, jobs = submit(store, train=TOLERANCES, seeds=2)
    assert len(jobs) == 2

    for one in jobs:
        assert worker.run(one) is Outcome.SUCCEEDED

    with store.reading() as tx:
        versions = tx.models.versions("study.fehlberg2-rtol-0.01-atol-0.01")
        series = tx.metrics.read(jobs[1].id)
    assert [(v.version, v.metadata["seed"]) for v in versions] == [(2, 1), (1, 0)]
    for one, version in zip(jobs, reversed(versions), strict=True):
        spec = StudyRunSpec.model_validate(one.spec).training
        run = TrainingRun(spec, load_dataset(spec.dataset, None), torch.device("cpu"))
        while not run.finished:
            run.advance()
        assert store.read_blob(version.blob_id) == run.trained_model().weights
    assert "seed1.nfe" in series
    assert len(results_of(store, study)) == 8
    assert status_of(store, study) == "succeeded"


def test_a_resumed_study_goes_on_from_the_checkpoint_of_the_job_that_was_cancelled(
    store: Store, worker: Worker
) -> None:
    study, (submitted,) = submit(store)

    def cancel(_: StackedTrainingRun) -> None:
        with store.transaction() as tx:
            tx.studies.request_cancel(study.id)

    def run_paced() -> Outcome:
        return worker.run_until(submitted, 15, cancel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_run, "PACE", Pace())
        assert run_paced() is Outcome.CANCELLED
    assert status_of(store, study) == "cancelled"
    with store.transaction() as tx:
        _, (again,) = tx.studies.resume(study.id)

    assert worker.run(again) is Outcome.SUCCEEDED

    with store.reading() as tx:
        events = {event.kind: event.data for event in tx.events.list(again.id)}
        series = tx.metrics.read(again.id)
    assert events["resumed"] == {"step": 10}
    assert [store.read_blob(v.blob_id) for v in versions_of(store, again)] == undisturbed_weights(submitted)
    assert len(series) == 9
    assert all([step for step, _ in points] == list(range(1, ITERATIONS + 1)) for points in series.values())
    assert status_of(store, study) == "succeeded"


def test_a_study_cancelled_again_before_its_job_ran_still_goes_on_from_the_first_jobs_checkpoint(
    store: Store, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, (first,) = submit(store)
    monkeypatch.setattr(study_run, "PACE", Pace())

    def cancel(_: StackedTrainingRun) -> None:
        with store.transaction() as tx:
            tx.studies.request_cancel(study.id)

    assert worker.run_until(first, 15, cancel) is Outcome.CANCELLED
    for _ in range(2):
        with store.transaction() as tx:
            _, (again,) = tx.studies.resume(study.id)
        with store.transaction() as tx:
            tx.studies.request_cancel(study.id)
    with store.transaction() as tx:
        _, (last,) = tx.studies.resume(study.id)

    assert worker.run(last) is Outcome.SUCCEEDED

    with store.reading() as tx:
        assert [job.id for job in tx.studies.predecessors(last)][::2] == [again.id, first.id]
        events = {event.kind: event.data for event in tx.events.list(last.id)}
    assert events["resumed"] == {"step": 10}
    assert [store.read_blob(v.blob_id) for v in versions_of(store, last)] == undisturbed_weights(first)


def test_a_search_is_run_to_its_end_and_every_next_job_is_rung_for(store: Store, worker: Worker) -> None:
    study, jobs = submit(store, train=None, search={"lowest": 1, "highest": 8, "criterion": "flip_rate"})
    waiting = [job.id for job in jobs]
    while waiting:
        with store.reading() as tx:
            job = tx.jobs.require(waiting.pop())
        assert worker.run(job) is Outcome.SUCCEEDED
        waiting, worker.rung = worker.rung, []

    assert status_of(store, study) == "succeeded"
    with store.reading() as tx:
        done = tx.studies.jobs(study.id)
    assert len(done) in (2, 3)
    for job in done:
        assert job.result is not None
        rows = [row for row in results_of(store, study) if row.job_id == job.id]
        for run in job.result["runs"]:
            (fine,) = [row for row in rows if row.seed == run["seed"] and row.test_method == "dopri5"]
            assert run["search"]["test_accuracy"] == fine.accuracy
            assert run["search"]["flip_rate"] == fine.flip_rate
            assert run["search"]["train_accuracy"] == run["accuracy"]
