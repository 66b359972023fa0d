"""The lease's thread: heartbeats, and the reasons to stop."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from store.errors import LeaseLost
from store.unit_of_work import Store
from worker.lease import JobCancelled, Lease, StopReason, WorkerDraining


def wait_until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class UnreachableStore(Store):
    """A store whose database can be taken away."""

    away = False

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        if self.away:
            raise OperationalError("", {}, ConnectionError("gone"))
        with super().transaction() as tx:
            yield tx


@pytest.fixture
def store(settings: Any) -> Iterator[UnreachableStore]:
    store = UnreachableStore.connect(settings.database)
    assert isinstance(store, UnreachableStore)
    yield store
    store.close()


@pytest.fixture
def claimed(store: Store) -> tuple[str, int]:
    """A running job: its id and attempt."""
    with store.transaction() as tx:
        job = tx.jobs.submit("training", {})
        claim = tx.jobs.claim(job.id, "test", lease_seconds=30)
    assert claim is not None
    return job.id, claim.attempt


def make_lease(store: Store, claimed: tuple[str, int], **changes: Any) -> Lease:
    options: dict[str, Any] = {
        "lease_seconds": 30,
        "heartbeat_seconds": 0.02,
        "draining": lambda: False,
        "grace_seconds": 30,
        "on_unheeded": lambda reason: None,
    }
    return Lease(store, *claimed, **(options | changes))


def stop_of(lease: Lease, seconds: float = 10.0) -> Exception:
    """Return the exception with which the lease ends the job."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            lease.check()
        except (LeaseLost, JobCancelled, WorkerDraining) as stop:
            return stop
        time.sleep(0.005)
    raise AssertionError("the lease went on")


def test_heartbeats_extend_the_lease(store: Store, claimed: tuple[str, int]) -> None:
    def expiry() -> Any:
        with store.reading() as tx:
            return tx.jobs.require(claimed[0]).lease_expires_at

    before = expiry()
    with make_lease(store, claimed, lease_seconds=300) as lease:
        wait_until(lambda: expiry() > before)
        lease.check()


def test_a_cancel_arrives_with_a_heartbeat(store: Store, claimed: tuple[str, int]) -> None:
    with make_lease(store, claimed) as lease:
        lease.check()
        with store.transaction() as tx:
            tx.jobs.request_cancel(claimed[0])
        assert isinstance(stop_of(lease), JobCancelled)


def test_a_job_taken_over_by_another_worker_is_lost(store: Store, claimed: tuple[str, int]) -> None:
    with make_lease(store, claimed) as lease:
        with store.transaction() as tx:
            tx.jobs.release(*claimed)
            tx.jobs.claim(claimed[0], "another", lease_seconds=30)
        assert isinstance(stop_of(lease), LeaseLost)
        with pytest.raises(LeaseLost):
            lease.check_held()


def test_a_draining_worker_stops_its_job(store: Store, claimed: tuple[str, int]) -> None:
    draining = threading.Event()
    with make_lease(store, claimed, draining=draining.is_set) as lease:
        lease.check()
        draining.set()
        assert isinstance(stop_of(lease), WorkerDraining)
        lease.check_held()  # still ours, so that a checkpoint can be written


def test_a_loss_outweighs_a_drain(store: Store, claimed: tuple[str, int]) -> None:
    with make_lease(store, claimed, draining=lambda: True) as lease:
        assert isinstance(stop_of(lease), WorkerDraining)
        with store.transaction() as tx:
            tx.jobs.release(*claimed)
        wait_until(lambda: isinstance(stop_of(lease), LeaseLost))


def test_a_database_away_for_less_than_the_lease_does_no_harm(
    store: UnreachableStore, claimed: tuple[str, int]
) -> None:
    def heartbeat() -> Any:
        with store.reading() as tx:
            return tx.jobs.require(claimed[0]).heartbeat_at

    with make_lease(store, claimed) as lease:
        store.away = True
        wait_until(lambda: not lease_renews(heartbeat))
        store.away = False
        away = heartbeat()
        wait_until(lambda: heartbeat() > away)
        lease.check()


def lease_renews(heartbeat: Callable[[], Any]) -> bool:
    """Return whether a heartbeat falls into the next tenth of a second."""
    before, deadline = heartbeat(), time.monotonic() + 0.1
    while time.monotonic() < deadline:
        if heartbeat() != before:
            return True
        time.sleep(0.005)
    return False


def test_a_database_away_for_longer_than_the_lease_means_it_is_lost(
    store: UnreachableStore, claimed: tuple[str, int]
) -> None:
    store.away = True
    with make_lease(store, claimed, lease_seconds=0.3) as lease:
        lease.check()
        assert isinstance(stop_of(lease), LeaseLost)


def test_a_lease_that_ran_out_is_lost_even_if_its_thread_hangs(store: Store, claimed: tuple[str, int]) -> None:
    lease = make_lease(store, claimed, lease_seconds=0.05)  # its thread never starts
    assert isinstance(stop_of(lease), LeaseLost)


@pytest.mark.parametrize("heeded", [True, False])
def test_a_job_that_does_not_stop_is_ended_from_outside(store: Store, claimed: tuple[str, int], heeded: bool) -> None:
    ended: list[StopReason] = []
    with make_lease(store, claimed, draining=lambda: True, grace_seconds=0.2, on_unheeded=ended.append) as lease:
        if heeded:
            assert isinstance(stop_of(lease), WorkerDraining)
            time.sleep(0.5)  # what is shown is that nothing happens, for longer than the grace
            assert ended == []
        else:
            wait_until(lambda: ended)
            assert ended[0] is StopReason.DRAIN
