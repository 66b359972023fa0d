import threading
from collections.abc import Callable

import pytest

from store.idempotency import KEPT
from store.jobs import Job
from store.reconciliation import Reconciled, reconcile
from store.settings import Settings
from store.unit_of_work import Store
from tests.store.conftest import Clock

Running = tuple[str, int]
SETTINGS = Settings(
    lease_seconds=30, requeue_after_seconds=15, max_failures=3, no_progress_seconds=900, heartbeat_seconds=5
)


def read(store: Store, job_id: str) -> Job:
    with store.reading() as tx:
        return tx.jobs.require(job_id)


def event_kinds(store: Store, job_id: str) -> list[str]:
    with store.reading() as tx:
        return [event.kind for event in tx.events.list(job_id)]


def quiet(_: str) -> None:
    """A doorbell nobody listens to."""


def submit(store: Store) -> str:
    with store.transaction() as tx:
        return tx.jobs.submit("training", {}).id


def claim(store: Store, job_id: str) -> int:
    with store.transaction() as tx:
        claimed = tx.jobs.claim(job_id, "worker", 30)
    assert claimed is not None
    return claimed.attempt


def test_a_pass_over_healthy_jobs_does_nothing(store: Store, running: Running) -> None:
    submit(store)

    assert reconcile(store, SETTINGS, quiet) == Reconciled()


def test_a_job_of_a_lost_worker_is_queued_again_and_rung_for(store: Store, running: Running, clock: Clock) -> None:
    clock.forward(29)
    assert reconcile(store, SETTINGS, quiet) == Reconciled()
    clock.forward(1)
    rung: list[str] = []

    assert reconcile(store, SETTINGS, rung.append) == Reconciled(requeued=[running[0]], rung=[running[0]])

    job = read(store, running[0])
    assert rung == [job.id]
    assert (job.status, job.failures, job.worker, job.lease_expires_at) == ("queued", 1, None, None)
    assert event_kinds(store, job.id) == ["queued", "started", "lease_expired"]
    assert reconcile(store, SETTINGS, quiet) == Reconciled()
    assert claim(store, job.id) == 2


def test_a_job_that_loses_its_worker_again_and_again_fails_with_the_reason(store: Store, clock: Clock) -> None:
    job_id = submit(store)
    for failures in (1, 2):
        claim(store, job_id)
        clock.forward(30)
        assert reconcile(store, SETTINGS, quiet).requeued == [job_id]
        assert read(store, job_id).failures == failures
    claim(store, job_id)
    clock.forward(30)

    assert reconcile(store, SETTINGS, quiet).failed == [job_id]

    job = read(store, job_id)
    assert job.error is not None
    assert (job.status, job.failures, job.error["code"]) == ("failed", 3, "worker_lost")
    assert "lost 3 times" in job.error["message"]
    assert event_kinds(store, job_id)[-2:] == ["lease_expired", "failed"]


def test_a_drained_worker_costs_no_failure(store: Store, clock: Clock) -> None:
    job_id = submit(store)
    for _ in range(5):
        attempt = claim(store, job_id)
        with store.transaction() as tx:
            tx.jobs.release(job_id, attempt)

    assert (read(store, job_id).status, read(store, job_id).failures) == ("queued", 0)


def test_a_job_being_cancelled_whose_worker_is_lost_is_cancelled(store: Store, running: Running, clock: Clock) -> None:
    with store.transaction() as tx:
        tx.jobs.request_cancel(running[0])
    clock.forward(30)

    assert reconcile(store, SETTINGS, quiet) == Reconciled(cancelled=[running[0]])
    assert event_kinds(store, running[0])[2:] == ["cancel_requested", "lease_expired", "cancelled"]


def keep_alive(store: Store, running: Running, clock: Clock, seconds: int) -> None:
    for _ in range(seconds // 20):
        clock.forward(20)
        with store.transaction() as tx:
            tx.jobs.heartbeat(*running, lease_seconds=30)


def test_a_job_that_is_alive_but_hangs_is_ended(store: Store, running: Running, clock: Clock) -> None:
    keep_alive(store, running, clock, 880)
    assert reconcile(store, SETTINGS, quiet) == Reconciled()
    keep_alive(store, running, clock, 20)

    assert reconcile(store, SETTINGS, quiet) == Reconciled(failed=[running[0]])

    job = read(store, running[0])
    assert job.error is not None
    assert job.error["code"] == "no_progress"
    assert "ODENESS_NO_PROGRESS_SECONDS" in job.error["message"]
    assert event_kinds(store, job.id)[-1] == "failed"


def test_a_slow_job_that_gets_on_is_left_alone(store: Store, running: Running, clock: Clock) -> None:
    for step in range(3):
        keep_alive(store, running, clock, 600)
        with store.transaction() as tx:
            tx.jobs.report_progress(*running, step, 3)
        assert reconcile(store, SETTINGS, quiet) == Reconciled()


def test_a_hanging_job_to_be_cancelled_is_cancelled(store: Store, running: Running, clock: Clock) -> None:
    with store.transaction() as tx:
        tx.jobs.request_cancel(running[0])
    keep_alive(store, running, clock, 900)

    assert reconcile(store, SETTINGS, quiet) == Reconciled(cancelled=[running[0]])


def test_a_job_whose_message_was_lost_is_rung_for_again(store: Store, clock: Clock) -> None:
    job_id = submit(store)
    with store.transaction() as tx:
        tx.jobs.mark_rung(job_id)
    clock.forward(14)
    assert reconcile(store, SETTINGS, quiet).rung == []
    clock.forward(16)
    assert reconcile(store, SETTINGS, quiet).rung == [job_id]
    assert read(store, job_id).rung_at == clock.now


def test_a_job_never_rung_for_is_so_after_the_interval(store: Store, clock: Clock) -> None:
    job_id = submit(store)
    clock.forward(15)

    assert reconcile(store, SETTINGS, quiet).rung == [job_id]


def test_a_job_that_waits_long_is_rung_for_ever_more_rarely(store: Store, clock: Clock) -> None:
    submit(store)
    times = []
    for second in range(0, 1000, 15):
        if reconcile(store, SETTINGS, quiet).rung:
            times.append(second)
        clock.forward(15)
    gaps = [later - earlier for earlier, later in zip([0, *times], times, strict=False)]

    assert gaps == [15, 30, 60, 120, 240, 240, 240]


def test_a_broker_that_is_down_is_tried_again_without_delaying_anything_else(
    store: Store, running: Running, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = [submit(store) for _ in range(3)]

    def broken(_: str) -> None:
        raise ConnectionError("refused")

    for _ in range(10):
        clock.forward(15)
        with store.transaction() as tx:
            tx.jobs.heartbeat(*running, lease_seconds=30)
        assert reconcile(store, SETTINGS, broken) == Reconciled()
    assert "cannot reach the broker, 3 jobs wait: refused" in caplog.text

    clock.forward(15)
    assert reconcile(store, SETTINGS, quiet).rung == waiting


def test_leases_are_taken_back_while_the_broker_is_down(store: Store, running: Running, clock: Clock) -> None:
    def broken(_: str) -> None:
        raise ConnectionError("refused")

    clock.forward(30)
    assert reconcile(store, SETTINGS, broken) == Reconciled(requeued=[running[0]])


def test_only_queued_jobs_are_rung_for(store: Store, running: Running, clock: Clock) -> None:
    cancelled = submit(store)
    with store.transaction() as tx:
        tx.jobs.request_cancel(cancelled)
    clock.forward(20)

    assert reconcile(store, SETTINGS, quiet) == Reconciled()


def at_once(count: int, action: Callable[[], None]) -> None:
    barrier = threading.Barrier(count)
    failures: list[BaseException] = []

    def run() -> None:
        barrier.wait()
        try:
            action()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_many_reconcilers_at_once_do_each_thing_once(store: Store, clock: Clock) -> None:
    lost, last_chance, cancelling, waiting = ([submit(store) for _ in range(5)] for _ in range(4))
    for job_id in last_chance:
        for _ in range(2):
            claim(store, job_id)
            clock.forward(30)
            with store.transaction() as tx:
                tx.jobs.expire_lease(job_id, 3)
    for job_id in [*lost, *last_chance, *cancelling]:
        claim(store, job_id)
    with store.transaction() as tx:
        for job_id in cancelling:
            tx.jobs.request_cancel(job_id)
    clock.forward(30)
    rung: list[str] = []
    passes: list[Reconciled] = []

    at_once(4, lambda: passes.append(reconcile(store, SETTINGS, rung.append)))

    assert sorted(job_id for each in passes for job_id in each.requeued) == sorted(lost)
    assert sorted(job_id for each in passes for job_id in each.failed) == sorted(last_chance)
    assert sorted(job_id for each in passes for job_id in each.cancelled) == sorted(cancelling)
    assert set(waiting) <= set(rung) <= {*waiting, *lost}
    assert len(set(rung)) == len(rung)
    for job_id in lost:
        assert event_kinds(store, job_id) == ["queued", "started", "lease_expired"]
        assert read(store, job_id).failures == 1


def test_a_worker_that_was_only_slow_finds_its_lease_lost_or_keeps_it(
    store: Store, running: Running, clock: Clock
) -> None:
    clock.forward(31)  # expired, but nobody has taken it
    with store.transaction() as tx:
        tx.jobs.heartbeat(*running, lease_seconds=30)

    assert reconcile(store, SETTINGS, quiet) == Reconciled()
    assert read(store, running[0]).status == "running"


def test_old_answers_and_orphans_are_cleared_away(store: Store, running: Running, clock: Clock) -> None:
    with store.transaction() as tx:
        tx.idempotency.begin("key", "a" * 64)
        tx.idempotency.finish("key", "a" * 64, status=202, body={})
    store.save_blob(b"x", job_id=running[0], attempt=running[1])
    clock.forward(KEPT.total_seconds() + 1)

    assert reconcile(store, SETTINGS, quiet).removed_blobs == 1
    with store.transaction() as tx:
        assert tx.idempotency.begin("key", "b" * 64) is None
