"""Claim, run, finish, with executors that do next to nothing."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from ode_core.datasets.files import DatasetUnavailable
from ode_core.specs import BudgetExceeded
from store.errors import LeaseLost
from store.jobs import Job
from store.settings import Settings
from store.unit_of_work import Store, Transaction
from worker.lease import StopReason
from worker.run_job import Executor, FinishJob, JobRunner, Outcome, RunningJob

ReadJob = Callable[[str], Job]


def succeed(running: RunningJob) -> FinishJob:
    return lambda tx: {"answer": 42}


def runs_until_stopped(running: RunningJob) -> FinishJob:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        running.check()
        time.sleep(0.005)
    raise AssertionError("nothing stopped this job")


def raises(error: Exception) -> Executor:
    def fail(running: RunningJob) -> FinishJob:
        raise error

    return fail


@pytest.fixture
def runner(store: Store, settings: Settings) -> Callable[..., JobRunner]:
    def make(executor: Executor, **changes: Any) -> JobRunner:
        options: dict[str, Any] = {"ring": lambda job_id: None, "draining": lambda: False}
        return JobRunner(settings=settings, store=store, executors={"training": executor}, **(options | changes))

    return make


@pytest.fixture
def job_id(store: Store) -> str:
    with store.transaction() as tx:
        return tx.jobs.submit("training", {}).id


def test_a_job_that_succeeds_keeps_its_result(runner: Any, job_id: str, job: ReadJob) -> None:
    assert runner(succeed).run(job_id) is Outcome.SUCCEEDED

    assert job(job_id).status == "succeeded"
    assert job(job_id).result == {"answer": 42}
    assert job(job_id).worker == job(job_id).worker
    assert str(os.getpid()) in str(job(job_id).worker)


def test_a_second_message_for_the_same_job_is_dropped(runner: Any, job_id: str, job: ReadJob) -> None:
    assert [runner(succeed).run(job_id) for _ in range(3)] == [
        Outcome.SUCCEEDED,
        Outcome.NOT_CLAIMED,
        Outcome.NOT_CLAIMED,
    ]
    assert job(job_id).attempt == 1


def test_of_ten_simultaneous_messages_one_runs_the_job(runner: Any, job_id: str) -> None:
    runs: list[str] = []
    outcomes: list[Outcome] = []

    def count(running: RunningJob) -> FinishJob:
        runs.append(running.job.id)
        return succeed(running)

    threads = [threading.Thread(target=lambda: outcomes.append(runner(count).run(job_id))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert runs == [job_id]
    assert sorted(outcomes) == [Outcome.NOT_CLAIMED] * 9 + [Outcome.SUCCEEDED]


@pytest.mark.parametrize("message", [None, 7, "", "no-uuid", "x" * 10_000, ["a"], {"id": 1}, "\x00"])
def test_a_message_that_names_no_job_is_dropped(runner: Any, message: object) -> None:
    assert runner(succeed).run(message) is Outcome.NOT_CLAIMED


def test_a_message_for_a_job_that_does_not_exist_is_dropped(runner: Any) -> None:
    assert runner(succeed).run("01890000-0000-7000-8000-000000000000") is Outcome.NOT_CLAIMED


def test_a_job_cancelled_while_it_runs_ends_cancelled(runner: Any, store: Store, job_id: str, job: ReadJob) -> None:
    def cancelled_midway(running: RunningJob) -> FinishJob:
        with store.transaction() as tx:
            tx.jobs.request_cancel(job_id)
        return runs_until_stopped(running)

    assert runner(cancelled_midway).run(job_id) is Outcome.CANCELLED
    assert job(job_id).status == "cancelled"


def test_a_draining_worker_gives_its_job_back_and_rings_for_it(runner: Any, job_id: str, job: ReadJob) -> None:
    draining = threading.Event()
    rung: list[str] = []

    def drained_midway(running: RunningJob) -> FinishJob:
        draining.set()
        return runs_until_stopped(running)

    outcome = runner(drained_midway, draining=draining.is_set, ring=rung.append).run(job_id)

    assert outcome is Outcome.RELEASED
    assert rung == [job_id]
    assert (job(job_id).status, job(job_id).failures) == ("queued", 0)


def test_a_draining_worker_claims_nothing_and_passes_the_message_on(runner: Any, job_id: str, job: ReadJob) -> None:
    rung: list[str] = []

    assert runner(succeed, draining=lambda: True, ring=rung.append).run(job_id) is Outcome.NOT_CLAIMED

    assert rung == [job_id]
    assert job(job_id).status == "queued"


def test_sigterm_to_the_process_itself_drains_its_job_first(
    runner: Any, job_id: str, job: ReadJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: ended.set())

    def terminated_midway(running: RunningJob) -> FinishJob:
        os.kill(os.getpid(), signal.SIGTERM)
        return runs_until_stopped(running)

    try:
        assert runner(terminated_midway).run(job_id) is Outcome.RELEASED
        assert job(job_id).status == "queued"
        assert ended.wait(10), "the signal was swallowed"  # and ends the process a moment later
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_a_job_whose_lease_is_lost_stops_and_writes_nothing(
    runner: Any, store: Store, job_id: str, job: ReadJob
) -> None:
    def taken_over_midway(running: RunningJob) -> FinishJob:
        with store.transaction() as tx:
            tx.jobs.release(job_id, running.attempt)
            assert tx.jobs.claim(job_id, "another", lease_seconds=30)
        return runs_until_stopped(running)

    assert runner(taken_over_midway).run(job_id) is Outcome.LOST
    assert (job(job_id).status, job(job_id).attempt, job(job_id).worker) == ("running", 2, "another")


def test_a_job_taken_over_while_it_finishes_leaves_nothing_behind(
    runner: Any, store: Store, job_id: str, job: ReadJob
) -> None:
    written: list[Transaction] = []

    def taken_over_at_the_end(running: RunningJob) -> FinishJob:
        with store.transaction() as tx:
            tx.jobs.release(job_id, running.attempt)
            assert tx.jobs.claim(job_id, "another", lease_seconds=30)

        def finish(tx: Transaction) -> dict[str, Any]:
            written.append(tx)
            tx.jobs.submit("audit", {}, name="left behind")
            return {}

        return finish

    assert runner(taken_over_at_the_end).run(job_id) is Outcome.LOST
    assert written
    with store.reading() as tx:
        assert tx.jobs.list(name="left behind").items == []
    assert job(job_id).worker == "another"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DatasetUnavailable("mnist is not there"), "dataset_unavailable"),
        (BudgetExceeded("too many steps"), "budget_exceeded"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (ZeroDivisionError("secret detail"), "internal_error"),
    ],
)
def test_a_job_that_raises_fails_with_a_code_and_a_plain_message(
    runner: Any, job_id: str, job: ReadJob, error: Exception, code: str
) -> None:
    assert runner(raises(error)).run(job_id) is Outcome.FAILED

    failure = job(job_id).error
    assert failure is not None
    assert failure["code"] == code
    assert "Traceback" not in failure["message"]
    assert "secret detail" not in failure["message"]


def test_an_invalid_spec_is_named_in_the_failure(runner: Any, job_id: str, job: ReadJob) -> None:
    from ode_core.specs import TrainingJobSpec

    def validate(running: RunningJob) -> FinishJob:
        TrainingJobSpec.model_validate({"name": "x", "dataset": {"kind": "digits"}})
        raise AssertionError

    assert runner(validate).run(job_id) is Outcome.FAILED
    failure = job(job_id).error
    assert failure is not None
    assert failure["code"] == "invalid_spec"
    assert "model" in failure["message"]


def test_a_write_is_repeated_while_the_database_is_away(runner: Any, job_id: str, job: ReadJob) -> None:
    tries: list[int] = []

    def finish_at_third_try(tx: Transaction) -> dict[str, Any]:
        tries.append(1)
        if len(tries) < 3:
            raise OperationalError("", {}, ConnectionError("gone"))
        return {}

    assert runner(lambda running: finish_at_third_try).run(job_id) is Outcome.SUCCEEDED
    assert job(job_id).status == "succeeded"


def test_a_database_away_for_good_leaves_the_job_to_its_lease(
    runner: Any, store: Store, job_id: str, job: ReadJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> Any:
        raise OperationalError("", {}, ConnectionError("gone"))

    def database_leaves(running: RunningJob) -> FinishJob:
        running.lease._ends = time.monotonic() + 0.3  # do not wait for a whole lease
        monkeypatch.setattr(store, "transaction", gone)
        return succeed(running)

    assert runner(database_leaves).run(job_id) is Outcome.LOST
    assert job(job_id).status == "running"


def test_a_database_away_when_the_message_comes_leaves_the_job_queued(
    runner: Any, store: Store, job_id: str, job: ReadJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> Any:
        raise OperationalError("", {}, ConnectionError("gone"))

    with monkeypatch.context() as patch:
        patch.setattr(store, "transaction", gone)
        assert runner(succeed).run(job_id) is Outcome.NOT_CLAIMED
    assert job(job_id).status == "queued"


@pytest.mark.parametrize("reason", [StopReason.CANCEL, StopReason.DRAIN])
def test_a_stuck_job_is_ended_with_its_process(
    runner: Any, store: Store, job_id: str, job: ReadJob, reason: StopReason
) -> None:
    draining, ended = threading.Event(), threading.Event()
    codes: list[int] = []

    def end_process(code: int) -> None:
        codes.append(code)
        ended.set()

    def stuck(running: RunningJob) -> FinishJob:
        if reason is StopReason.DRAIN:
            draining.set()
        else:
            with store.transaction() as tx:
                tx.jobs.request_cancel(job_id)
        assert ended.wait(20)  # never looks at the lease
        raise LeaseLost

    runner(stuck, draining=draining.is_set, end_process=end_process, grace_seconds=0.2).run(job_id)

    assert codes[0] != 0
    assert job(job_id).status == ("queued" if reason is StopReason.DRAIN else "cancelled")


def test_a_failure_that_spoils_its_process_ends_it(runner: Any, job_id: str) -> None:
    ended = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        assert runner(raises(RuntimeError()), spoiled=lambda: True).run(job_id) is Outcome.FAILED
        assert ended.wait(10)
    finally:
        signal.signal(signal.SIGTERM, previous)
