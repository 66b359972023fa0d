"""Jobs survive what kills processes and brokers, and run once whatever messages arrive."""

import os
import signal
import time

import pytest
import torch

from ode_core.datasets.load import load_dataset
from ode_core.specs import ConcentricSpheresSpec, PresetSpec, SolverSpec, TrainingJobSpec, TrainingSpec
from ode_core.training.run import TrainingRun
from tests.reliability.service import Service, process_runs, wait_until, worker_pid

ITERATIONS = 320


def spheres_job(name: str, iterations: int = ITERATIONS) -> TrainingJobSpec:
    """A job of some seconds with a checkpoint every few iterations."""
    return TrainingJobSpec(
        name=name,
        dataset=ConcentricSpheresSpec(train_samples=500, test_samples=200),
        model=PresetSpec(name="sphere2"),
        solver=SolverSpec(method="rk4", steps=4),
        training=TrainingSpec(iterations=iterations, batch_size=128, checkpoint_interval=20),
    )


@pytest.fixture(scope="module")
def undisturbed_weights() -> bytes:
    """The weights of ``spheres_job`` trained in one go, computed as a worker with one thread does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        spec = spheres_job("undisturbed")
        run = TrainingRun(spec, load_dataset(spec.dataset, None), torch.device("cpu"))
        while not run.finished:
            run.advance()
        return run.trained_model().weights
    finally:
        torch.set_num_threads(threads)


def assert_finished_once(service: Service, job_id: str, iterations: int = ITERATIONS) -> None:
    """One version, one end, and one point for each iteration in each series that has one."""
    job = service.job(job_id)
    with service.store.reading() as tx:
        versions = tx.models.versions(str(job.model))
    assert [version.job_id for version in versions] == [job_id]
    assert service.events(job_id).count("succeeded") == 1
    for name in ("loss", "train_accuracy", "steps", "gradient_norm"):
        assert service.steps(job_id, name) == list(range(1, iterations + 1)), name


def stored_weights(service: Service, job_id: str) -> bytes:
    with service.store.reading() as tx:
        (version,) = tx.models.versions(str(service.job(job_id).model))
    return service.store.read_blob(version.blob_id)


def test_a_job_killed_twice_ends_once_with_the_weights_of_an_undisturbed_run(
    service: Service, undisturbed_weights: bytes
) -> None:
    service.start_worker()
    service.start_worker()
    job_id = service.submit(spheres_job("killed"))

    os.kill(worker_pid(service.wait_for_step(job_id, 50)), signal.SIGKILL)  # Celery replaces the child
    wait_until("the job is taken up again", lambda: service.job(job_id).attempt == 2)
    service.worker_of(service.wait_for_step(job_id, 130)).kill_group()  # as a power cut does
    interrupted_at = service.last_step(job_id)
    job = service.wait_for_status(job_id, "succeeded")

    assert interrupted_at < ITERATIONS, "the test killed too late to prove anything"
    assert (job.attempt, job.failures) == (3, 2)
    assert_finished_once(service, job_id)
    assert stored_weights(service, job_id) == undisturbed_weights


@pytest.mark.parametrize("everyone", [False, True], ids=["parent", "every process"])
def test_sigterm_drains_a_worker_and_another_one_goes_on(
    sqlite_service: Service, undisturbed_weights: bytes, everyone: bool
) -> None:
    service = sqlite_service
    service.start_worker()
    service.start_worker()
    job_id = service.submit(spheres_job("drained"))
    first = service.worker_of(service.wait_for_step(job_id, 30))

    if everyone:  # as systemd does
        os.killpg(first.process.pid, signal.SIGTERM)
    else:
        first.terminate()
    exit_code = first.process.wait(timeout=60)
    job = service.wait_for_status(job_id, "succeeded")

    assert exit_code == 0, service.logs()
    assert service.worker_of(job) is not first
    assert (job.attempt, job.failures) == (2, 0)
    assert "released" in service.events(job_id)
    assert_finished_once(service, job_id)
    assert stored_weights(service, job_id) == undisturbed_weights


def test_jobs_finish_once_though_the_broker_stops_while_they_run_wait_or_are_accepted(
    sqlite_service: Service,
) -> None:
    service = sqlite_service
    service.start_worker()
    running = service.submit(spheres_job("running"))
    service.wait_for_step(running, 20)

    service.broker.kill()
    accepted = service.submit(spheres_job("accepted", iterations=30), ring=False)
    service.wait_for_status(running, "succeeded")  # training does not need the broker
    service.broker.start()
    service.wait_for_status(accepted, "succeeded")
    service.broker.kill()  # now under an idle worker
    service.broker.start()
    later = service.submit(spheres_job("later", iterations=30), ring=False)
    service.wait_for_status(later, "succeeded")

    assert [service.job(job_id).attempt for job_id in (running, accepted, later)] == [1, 1, 1]
    assert_finished_once(service, running)
    assert_finished_once(service, accepted, iterations=30)
    assert_finished_once(service, later, iterations=30)


def test_a_job_that_kills_its_worker_every_time_ends_failed(sqlite_service: Service) -> None:
    service = sqlite_service
    service.environment["ODENESS_MAX_FAILURES"] = "2"
    service.start_worker()
    job_id = service.submit(spheres_job("deadly", iterations=100_000))

    for attempt in (1, 2):

        def running_again(attempt: int = attempt) -> bool:
            job = service.job(job_id)
            return job.status == "running" and job.attempt == attempt

        wait_until(f"attempt {attempt}", running_again)
        os.kill(worker_pid(service.job(job_id)), signal.SIGKILL)
    job = wait_until("the job is given up", lambda: (job := service.job(job_id)).status == "failed" and job)

    assert job.error["code"] == "worker_lost"
    assert job.failures == 2


def test_a_child_does_not_outlive_its_killed_parent(sqlite_service: Service) -> None:
    service = sqlite_service
    worker = service.start_worker()
    job_id = service.submit(spheres_job("orphan", iterations=100_000))
    child = worker_pid(service.wait_for_step(job_id, 1))

    os.kill(worker.process.pid, signal.SIGKILL)

    wait_until("the child is gone", lambda: not process_runs(child), seconds=15)


class TestWithOneWorker:
    """Faults that leave the worker alone: these share one."""

    def test_a_job_whose_message_was_lost_is_rung_for_by_the_reconciler(self, lasting_service: Service) -> None:
        job_id = lasting_service.submit(spheres_job("unheard", iterations=30), ring=False)

        lasting_service.wait_for_status(job_id, "succeeded")

        assert_finished_once(lasting_service, job_id, iterations=30)

    def test_a_message_delivered_ten_times_runs_its_job_once(self, lasting_service: Service) -> None:
        job_id = lasting_service.submit(spheres_job("repeated", iterations=60), ring=False)

        lasting_service.ring(job_id, times=10)
        lasting_service.wait_for_status(job_id, "succeeded")
        # Behind the ten messages in the queue: when it is done, they were all looked at.
        last = lasting_service.submit(spheres_job("behind", iterations=10))
        lasting_service.wait_for_status(last, "succeeded")

        assert lasting_service.job(job_id).attempt == 1
        assert lasting_service.events(job_id).count("started") == 1
        assert_finished_once(lasting_service, job_id, iterations=60)

    def test_cancel_stops_a_training_within_seconds_and_keeps_its_metrics(self, lasting_service: Service) -> None:
        job_id = lasting_service.submit(spheres_job("cancelled", iterations=100_000))
        lasting_service.wait_for_step(job_id, 20)

        with lasting_service.store.transaction() as tx:
            tx.jobs.request_cancel(job_id)
        asked = time.monotonic()
        lasting_service.wait_for_status(job_id, "cancelled")

        assert time.monotonic() - asked < 5
        steps = lasting_service.steps(job_id)
        assert len(steps) >= 20
        assert steps == list(range(1, len(steps) + 1))
        checkpoint = lasting_service.store.latest_checkpoint(job_id)
        assert checkpoint is not None
        assert checkpoint.step >= 20
        with lasting_service.store.reading() as tx:
            assert tx.models.versions("cancelled") == []
