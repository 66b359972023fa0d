import threading
from datetime import timedelta
from typing import get_args

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from store.engine import writing
from store.errors import IllegalTransition, LeaseLost, NotFound
from store.job_lifecycle import LEGAL, Claim, Jobs
from store.jobs import Job, JobStatus
from store.tables import job as job_table
from store.unit_of_work import Store, Transaction
from tests.store.conftest import Clock

Running = tuple[str, int]


def read(store: Store, job_id: str) -> Job:
    with store.reading() as tx:
        return tx.jobs.require(job_id)


def event_kinds(store: Store, job_id: str) -> list[str]:
    with store.reading() as tx:
        return [event.kind for event in tx.events.list(job_id)]


def submit(store: Store) -> str:
    with store.transaction() as tx:
        return tx.jobs.submit("training", {"seed": 1}).id


def test_a_submitted_job_is_queued(store: Store, clock: Clock) -> None:
    with store.transaction() as tx:
        job = tx.jobs.submit("sweep", {"solvers": []}, name="n", model="digits", model_version=3, total=10)

    assert read(store, job.id) == job
    assert (job.kind, job.status, job.name, job.model, job.model_version) == ("sweep", "queued", "n", "digits", 3)
    assert (job.attempt, job.failures, job.progress_step, job.progress_total) == (0, 0, 0, 10)
    assert job.created_at == clock.now
    assert event_kinds(store, job.id) == ["queued"]


def test_a_claim_starts_the_job(store: Store, running: Running, clock: Clock) -> None:
    job = read(store, running[0])

    assert (job.status, job.attempt, job.worker) == ("running", 1, "worker-1")
    assert job.started_at == job.heartbeat_at == job.progressed_at == clock.now
    assert job.lease_expires_at == clock.now + timedelta(seconds=30)
    assert event_kinds(store, job.id) == ["queued", "started"]


def test_a_job_is_claimed_once(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        assert tx.jobs.claim(running[0], "worker-2", 30) is None


def test_of_many_workers_exactly_one_gets_the_job(database_url: str) -> None:
    stores = [Store.connect(database_url) for _ in range(4)]  # as if each were a process
    for _ in range(5):
        job_id = submit(stores[0])
        claims = claim_at_once(stores, job_id)

        assert len(claims) == len(stores)
        assert sum(each is not None for each in claims) == 1
        assert read(stores[0], job_id).attempt == 1
        assert event_kinds(stores[0], job_id) == ["queued", "started"]
    for store in stores:
        store.close()


def claim_at_once(stores: list[Store], job_id: str) -> list[Claim | None]:
    barrier = threading.Barrier(len(stores))
    claims: list[Claim | None] = []

    def claim(store: Store) -> None:
        barrier.wait()
        with store.transaction() as tx:
            claims.append(tx.jobs.claim(job_id, "w", 30))

    threads = [threading.Thread(target=claim, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return claims


def test_a_claim_of_an_unknown_job_gets_nothing(store: Store) -> None:
    with store.transaction() as tx:
        assert tx.jobs.claim("no such job", "w", 30) is None


def test_a_heartbeat_extends_the_lease(store: Store, running: Running, clock: Clock) -> None:
    clock.forward(20)
    with store.transaction() as tx:
        assert tx.jobs.heartbeat(*running, lease_seconds=30) is False

    job = read(store, running[0])
    assert job.heartbeat_at == clock.now
    assert job.lease_expires_at == clock.now + timedelta(seconds=30)
    assert job.progressed_at == clock.now - timedelta(seconds=20)


def test_progress_is_stored(store: Store, running: Running, clock: Clock) -> None:
    clock.forward(5)
    with store.transaction() as tx:
        tx.jobs.report_progress(*running, step=120, total=600, message="loss 0.3")

    job = read(store, running[0])
    assert (job.progress_step, job.progress_total, job.progress_message) == (120, 600, "loss 0.3")
    assert job.progressed_at == clock.now


def test_a_job_succeeds_with_its_result(store: Store, running: Running, clock: Clock) -> None:
    with store.transaction() as tx:
        tx.jobs.succeed(*running, result={"accuracy": 0.95})

    job = read(store, running[0])
    assert (job.status, job.result, job.finished_at) == ("succeeded", {"accuracy": 0.95}, clock.now)
    assert job.lease_expires_at is None
    assert job.finished
    assert event_kinds(store, job.id) == ["queued", "started", "succeeded"]


def test_a_job_fails_with_its_error(store: Store, running: Running) -> None:
    error = {"code": "diverged", "message": "the loss is NaN", "iteration": 7}
    with store.transaction() as tx:
        tx.jobs.fail(*running, error=error)

    job = read(store, running[0])
    assert (job.status, job.error, job.result) == ("failed", error, None)
    with store.reading() as tx:
        assert tx.events.list(job.id)[-1].data == {"error": error}


def test_an_error_needs_a_code_and_a_message(store: Store, running: Running) -> None:
    with pytest.raises(ValueError, match="code and a message"), store.transaction() as tx:
        tx.jobs.fail(*running, error={"message": "x"})


def test_a_queued_job_is_cancelled_at_once(store: Store, clock: Clock) -> None:
    job_id = submit(store)
    with store.transaction() as tx:
        job = tx.jobs.request_cancel(job_id)

    assert job.status == "cancelled"
    assert job.cancel_requested_at == job.finished_at == clock.now
    assert event_kinds(store, job_id) == ["queued", "cancel_requested", "cancelled"]
    with store.transaction() as tx:
        assert tx.jobs.claim(job_id, "w", 30) is None


def test_a_running_job_hears_of_its_cancellation_at_the_next_heartbeat(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        assert tx.jobs.request_cancel(running[0]).status == "cancelling"
    with store.transaction() as tx:
        assert tx.jobs.heartbeat(*running, lease_seconds=30) is True
    with store.transaction() as tx:
        tx.jobs.finish_cancelled(*running)

    assert read(store, running[0]).status == "cancelled"
    assert event_kinds(store, running[0])[2:] == ["cancel_requested", "cancelled"]


def test_asking_twice_to_cancel_changes_nothing(store: Store, running: Running, clock: Clock) -> None:
    with store.transaction() as tx:
        first = tx.jobs.request_cancel(running[0])
    clock.forward(1)
    with store.transaction() as tx:
        assert tx.jobs.request_cancel(running[0]) == first


def test_a_job_that_finishes_before_it_hears_of_its_cancellation_succeeds(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        tx.jobs.request_cancel(running[0])
        tx.jobs.succeed(*running, result={})

    assert read(store, running[0]).status == "succeeded"


def test_cancelling_an_ended_job_changes_nothing(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        ended = tx.jobs.succeed(*running, result={})
        assert tx.jobs.request_cancel(running[0]) == ended


def test_cancelling_an_unknown_job_says_so(store: Store) -> None:
    with pytest.raises(NotFound), store.transaction() as tx:
        tx.jobs.request_cancel("no such job")


def test_a_worker_cannot_cancel_a_job_unasked(store: Store, running: Running) -> None:
    with pytest.raises(IllegalTransition, match="nobody asked"), store.transaction() as tx:
        tx.jobs.finish_cancelled(*running)


def test_a_released_job_is_queued_again_without_a_failure(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        tx.jobs.release(*running)

    job = read(store, running[0])
    assert (job.status, job.attempt, job.failures, job.worker) == ("queued", 1, 0, None)
    with store.transaction() as tx:
        claim = tx.jobs.claim(job.id, "worker-2", 30)
    assert claim is not None
    assert claim.attempt == 2
    assert claim.job.started_at == job.started_at
    assert event_kinds(store, job.id) == ["queued", "started", "released", "started"]


def test_a_job_released_while_being_cancelled_is_cancelled(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        tx.jobs.request_cancel(running[0])
        tx.jobs.release(*running)

    assert read(store, running[0]).status == "cancelled"


WRITES_OF_A_WORKER = {
    "heartbeat": lambda tx, *held: tx.jobs.heartbeat(*held, 30),
    "progress": lambda tx, *held: tx.jobs.report_progress(*held, 1, 2, ""),
    "succeed": lambda tx, *held: tx.jobs.succeed(*held, {}),
    "fail": lambda tx, *held: tx.jobs.fail(*held, {"code": "c", "message": "m"}),
    "finish_cancelled": lambda tx, *held: tx.jobs.finish_cancelled(*held),
    "release": lambda tx, *held: tx.jobs.release(*held),
    "event": lambda tx, *held: tx.events.record(*held, "resumed", {"step": 1}),
    "metrics": lambda tx, *held: tx.metrics.append(*held, {"loss": [(1, 0.5)]}),
    "truncate metrics": lambda tx, *held: tx.metrics.truncate_after(*held, 0),
    "results": lambda tx, *held: tx.results.add(*held, []),
    "replace results": lambda tx, *held: tx.results.replace_for_job(*held, []),
    "blob": lambda tx, job_id, attempt: tx.blobs.begin(1, "0" * 64, job_id=job_id, attempt=attempt),
    "checkpoint": lambda tx, *held: tx.checkpoints.complete(*held, 1, {}, "no such blob", 2),
}


@pytest.mark.parametrize("write", WRITES_OF_A_WORKER.values(), ids=WRITES_OF_A_WORKER.keys())
def test_a_stale_attempt_writes_nothing(store: Store, running: Running, write: object) -> None:
    assert callable(write)
    with store.transaction() as tx:
        tx.jobs.release(*running)
        again = tx.jobs.claim(running[0], "worker-2", 30)
    assert again is not None
    before, events = read(store, running[0]), event_kinds(store, running[0])

    with pytest.raises(LeaseLost), store.transaction() as tx:
        write(tx, *running)

    assert read(store, running[0]) == before
    assert event_kinds(store, running[0]) == events


@pytest.mark.parametrize("write", WRITES_OF_A_WORKER.values(), ids=WRITES_OF_A_WORKER.keys())
def test_an_ended_job_is_written_no_more(store: Store, running: Running, write: object) -> None:
    assert callable(write)
    with store.transaction() as tx:
        ended = tx.jobs.succeed(*running, result={})

    with pytest.raises(LeaseLost), store.transaction() as tx:
        write(tx, *running)

    assert read(store, running[0]) == ended


def test_a_worker_that_comes_first_keeps_its_successor_waiting(database_url: str) -> None:
    """The fence is held until the commit: no one takes the job in between."""
    store = Store.connect(database_url)
    job_id = submit(store)
    with store.transaction() as tx:
        assert tx.jobs.claim(job_id, "w", 0) is not None  # the lease has expired already
    order: list[str] = []

    def expire() -> None:
        with store.transaction() as tx:
            tx.jobs.expire_lease(job_id, 3)
        order.append("expired")

    with store.transaction() as tx:
        tx.metrics.append(job_id, 1, {"loss": [(1, 0.5)]})
        other = threading.Thread(target=expire)
        other.start()
        other.join(timeout=0.2)  # long enough for it to get through if nothing held it
        order.append("written")
    other.join()
    store.close()

    assert order == ["written", "expired"]


def test_no_change_leads_out_of_an_ended_status() -> None:
    assert set(LEGAL) == set(get_args(JobStatus))
    assert all(LEGAL[status] == frozenset() for status in ("succeeded", "failed", "cancelled"))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (source, target)
        for source in get_args(JobStatus)
        for target in get_args(JobStatus)
        if target not in LEGAL[source]
    ],
)
def test_the_one_statement_that_changes_a_status_refuses_an_illegal_change(
    source: JobStatus, target: JobStatus
) -> None:
    untouched = Jobs(None)  # type: ignore[arg-type]
    with pytest.raises(IllegalTransition):
        untouched._change("any", (source,), target, values={})


@pytest.mark.parametrize(
    "values",
    [
        {"status": "done"},
        {"status": "queued"},  # with a lease
        {"status": "succeeded", "lease_expires_at": None},  # without finished_at
        {"lease_expires_at": None},
        {"kind": "cooking"},
        {"failures": 5},
        {"result": {}},
        {"attempt": -1},
    ],
)
def test_the_database_refuses_rows_that_make_no_sense(
    store: Store, running: Running, values: dict[str, object]
) -> None:
    with pytest.raises(IntegrityError), writing(store.engine) as connection, connection.begin():
        connection.execute(update(job_table).where(job_table.c.id == running[0]).values(values))


def test_events_are_numbered_and_can_be_read_from_any_number(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        tx.events.record(*running, "resumed", {"step": 7})
        tx.jobs.succeed(*running, result={})
    with store.reading() as tx:
        events = tx.events.list(running[0])
        later = tx.events.list(running[0], after=2)
        one = tx.events.list(running[0], after=2, limit=1)

    assert [event.sequence for event in events] == [1, 2, 3, 4]
    assert later == events[2:]
    assert one == [events[2]]
    assert one[0].data == {"step": 7}
    assert read(store, running[0]).event_count == 4


def test_jobs_are_listed_newest_first_a_page_at_a_time(store: Store) -> None:
    ids = [submit(store) for _ in range(7)]
    seen: list[str] = []
    after: str | None = None
    while True:
        with store.reading() as tx:
            page = tx.jobs.list(limit=3, after=after)
        seen += [job.id for job in page.items]
        submit(store)  # newer ones do not disturb the pages
        if not page.has_more:
            break
        after = page.next_cursor

    assert seen == ids[::-1]


def _filtered(tx: Transaction, **filters: object) -> list[str | None]:
    return [job.name for job in tx.jobs.list(**filters).items]  # type: ignore[arg-type]


def test_jobs_can_be_filtered(store: Store) -> None:
    with store.transaction() as tx:
        tx.jobs.submit("training", {}, name="a", model="m")
        tx.jobs.submit("sweep", {}, name="b", model="m")
        done = tx.jobs.submit("sweep", {}, name="c", model="n")
        tx.jobs.request_cancel(done.id)
    with store.reading() as tx:
        assert _filtered(tx, kind="sweep") == ["c", "b"]
        assert _filtered(tx, model="m") == ["b", "a"]
        assert _filtered(tx, name="a") == ["a"]
        assert _filtered(tx, status="cancelled") == ["c"]
        assert _filtered(tx, status=["cancelled", "queued"], kind="sweep") == ["c", "b"]
        assert _filtered(tx, status=[]) == []
        assert tx.jobs.count_by_status() == {
            "queued": 2,
            "running": 0,
            "cancelling": 0,
            "succeeded": 0,
            "failed": 0,
            "cancelled": 1,
        }


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_limit_is_bounded(store: Store, limit: int) -> None:
    with store.reading() as tx, pytest.raises(ValueError, match="between 1 and 1000"):
        tx.jobs.list(limit=limit)
