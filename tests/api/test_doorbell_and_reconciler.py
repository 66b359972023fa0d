"""What runs beside the requests."""

import threading

from sqlalchemy.exc import OperationalError

from api.doorbell import Doorbell
from api.reconciler_thread import ReconcilerThread
from tests.conftest import wait_until


def test_rings_are_sent_in_order_and_noted() -> None:
    sent: list[str] = []
    noted: list[str] = []
    doorbell = Doorbell(sent.append, noted.append)
    doorbell.start()
    for job_id in "abc":
        doorbell.ring(job_id)
    doorbell.close()
    assert sent == noted == ["a", "b", "c"]


def test_a_ring_that_fails_is_not_noted_and_the_next_is_sent() -> None:
    noted: list[str] = []

    def send(job_id: str) -> None:
        if job_id == "a":
            raise ConnectionError("the broker is away")

    doorbell = Doorbell(send, noted.append)
    doorbell.start()
    doorbell.ring("a")
    doorbell.ring("b")
    doorbell.close()
    assert noted == ["b"]


def test_a_database_that_is_away_does_not_end_the_doorbell() -> None:
    sent: list[str] = []

    def note(job_id: str) -> None:
        raise OperationalError("UPDATE", {}, Exception("away"))

    doorbell = Doorbell(sent.append, note)
    doorbell.start()
    doorbell.ring("a")
    doorbell.ring("b")
    doorbell.close()
    assert sent == ["a", "b"]


def test_ringing_returns_at_once_though_the_broker_hangs_and_the_line_is_full() -> None:
    go_on = threading.Event()

    def hang(job_id: str) -> None:
        go_on.wait(30)

    doorbell = Doorbell(hang, lambda job_id: None)
    doorbell.start()
    for number in range(2000):
        doorbell.ring(str(number))
    doorbell.close()  # gives up at once
    go_on.set()


def test_the_reconciler_goes_on_after_a_pass_that_failed() -> None:
    passes = []

    def reconcile() -> None:
        passes.append(None)
        if len(passes) == 1:
            raise OperationalError("SELECT", {}, Exception("away"))

    thread = ReconcilerThread(reconcile, 0.001)
    thread.start()
    wait_until(lambda: len(passes) >= 3, "three passes")
    thread.stop()
    count = len(passes)
    assert "reconciler" not in {thread.name for thread in threading.enumerate()}
    assert len(passes) == count
