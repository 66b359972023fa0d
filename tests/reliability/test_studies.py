"""A study survives the death of its workers: every run complete, each version and each result there once."""

import os
import signal
from collections import Counter
from typing import Any

import torch

from ode_core.datasets.load import load_dataset
from ode_core.specs import StudyRunSpec, StudySpec
from ode_core.training.stacked_run import StackedTrainingRun
from store.jobs import Job
from store.studies import Study
from tests.reliability.service import Service, wait_until, worker_pid

STEPS, SEEDS, ITERATIONS = [2, 32], [0, 1, 2], 600
BASE: dict[str, Any] = {
    "dataset": {"kind": "concentric_spheres", "train_samples": 500, "test_samples": 200},
    "model": {"kind": "preset", "name": "sphere2"},
    "training": {"iterations": ITERATIONS, "batch_size": 128, "checkpoint_interval": 20},
}
GRID: dict[str, Any] = {
    "name": "killed",
    "base": BASE,
    "train": {"methods": ["euler"], "steps": STEPS},
    "seeds": SEEDS,
    "sweep": {"methods": ["euler", "rk4"], "steps": [2, 16]},
}


def submit(service: Service, document: dict[str, Any]) -> Study:
    """Accept a study as the API does."""
    with service.store.transaction() as tx:
        study, jobs = tx.studies.submit(StudySpec.model_validate(document))
    for job in jobs:
        service.ring(job.id)
    return study


def read(service: Service, study: Study) -> tuple[Study, list[Job]]:
    with service.store.reading() as tx:
        found = tx.studies.get(study.id)
        assert found is not None
        return found, list(tx.studies.jobs(study.id))


def wait_for_end(service: Service, study: Study) -> list[Job]:
    def ended() -> bool:
        found, jobs = read(service, study)
        lost = [job.error for job in jobs if job.status == "failed"]
        assert not lost, f"{lost}\n{service.logs()}"
        return found.finished

    wait_until("the study ends", ended, seconds=240)
    return read(service, study)[1]


def with_checkpoint(service: Service, study: Study, attempt: int) -> Job | None:
    """A running job of the study that has a checkpoint to go on from."""
    for job in read(service, study)[1]:
        if job.status == "running" and job.attempt >= attempt and "checkpoint" in service.events(job.id):
            return job
    return None


def assert_everything_is_there_once(service: Service, study: Study, jobs: list[Job]) -> None:
    solvers = 4
    with service.store.reading() as tx:
        rows = tx.results.list(study=study.id, limit=1000).items
        versions = {job.id: tx.models.versions_of_job(job.id) for job in jobs}
        models = {str(job.model): tx.models.versions(str(job.model)) for job in jobs}
    for job in jobs:
        assert job.status == "succeeded"
        assert [version.metadata["seed"] for version in versions[job.id]] == SEEDS
        assert [version.version for version in models[str(job.model)]] == [3, 2, 1]
        assert service.events(job.id).count("succeeded") == 1
        for seed in SEEDS:
            assert service.steps(job.id, f"seed{seed}.loss") == list(range(1, ITERATIONS + 1))
    counted = Counter((row.model, row.seed, row.test_method, row.test_steps) for row in rows)
    assert len(counted) == len(jobs) * len(SEEDS) * solvers
    assert set(counted.values()) == {1}
    assert {(row.model, row.version, row.seed) for row in rows} == {
        (version.model, version.version, version.metadata["seed"]) for made in versions.values() for version in made
    }


def undisturbed_weights(job: Job) -> list[bytes]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        spec = StudyRunSpec.model_validate(job.spec)
        stack = StackedTrainingRun(
            spec.training, spec.seeds, load_dataset(spec.training.dataset, None), torch.device("cpu")
        )
        while not stack.finished:
            stack.advance()
        return [stack.trained_model(number).weights for number in range(len(spec.seeds))]
    finally:
        torch.set_num_threads(threads)


def test_a_study_whose_workers_are_killed_ends_complete_with_everything_once(service: Service) -> None:
    service.start_worker()
    service.start_worker()
    study = submit(service, GRID)

    victim = wait_until("a job has a checkpoint", lambda: with_checkpoint(service, study, 1))
    os.kill(worker_pid(victim), signal.SIGKILL)  # Celery replaces the child
    wait_until("the job is taken up again", lambda: service.job(victim.id).attempt == 2)
    second = wait_until("a job runs", lambda: next((j for j in read(service, study)[1] if j.status == "running"), None))
    service.worker_of(second).kill_group()  # as a power cut does
    jobs = wait_for_end(service, study)

    assert read(service, study)[0].status == "succeeded"
    assert sum(job.failures for job in jobs) >= 2
    assert "resumed" in service.events(victim.id)
    assert_everything_is_there_once(service, study, jobs)
    killed = service.job(victim.id)
    with service.store.reading() as tx:
        versions = tx.models.versions_of_job(killed.id)
    assert [service.store.read_blob(version.blob_id) for version in versions] == undisturbed_weights(killed)


def test_a_search_goes_on_though_its_worker_is_killed_between_two_step_counts(sqlite_service: Service) -> None:
    service = sqlite_service
    service.start_worker()
    training = BASE["training"] | {"iterations": 200}
    document = GRID | {"train": None, "sweep": None, "base": BASE | {"training": training}}
    study = submit(service, document | {"search": {"lowest": 1, "highest": 16}})

    wait_until("the second step count is submitted", lambda: len(read(service, study)[1]) == 2)
    service.workers[0].kill_group()
    service.start_worker()
    jobs = wait_for_end(service, study)

    assert read(service, study)[0].status == "succeeded"
    steps = [job.spec["training"]["solver"]["steps"] for job in jobs]
    assert len(set(steps)) == len(steps)
    for job in jobs:
        assert job.result is not None
        assert [run["seed"] for run in job.result["runs"]] == SEEDS


def test_a_cancelled_study_stops_within_seconds_and_goes_on_when_it_is_resumed(sqlite_service: Service) -> None:
    service = sqlite_service
    service.start_worker()
    study = submit(service, GRID)
    running = wait_until("a job has a checkpoint", lambda: with_checkpoint(service, study, 1))

    with service.store.transaction() as tx:
        tx.studies.request_cancel(study.id)
    wait_until("the study is cancelled", lambda: read(service, study)[0].status == "cancelled", seconds=15)
    assert service.job(running.id).status == "cancelled"
    with service.store.reading() as tx:
        assert tx.results.list(study=study.id).items == []
    with service.store.transaction() as tx:
        _, again = tx.studies.resume(study.id)
    for job in again:
        service.ring(job.id)
    jobs = wait_for_end(service, study)

    with service.store.reading() as tx:
        rows = tx.results.list(study=study.id, limit=1000).items
        versions = [tx.models.versions_of_job(job.id) for job in jobs]
    assert [len(made) for made in versions] == [3, 3]
    assert len(rows) == 24
    continued = next(job for job in jobs if job.spec["continues"] == running.id)
    with service.store.reading() as tx:
        (event,) = [event for event in tx.events.list(continued.id) if event.kind == "resumed"]
    assert event.data["step"] >= 20
