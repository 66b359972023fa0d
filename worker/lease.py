"""The lease on a claimed job: renewed by a thread, watched by the thread that runs the job.

The job's thread asks :meth:`Lease.check` between two pieces of work. It answers with an exception
when the job has to stop: cancelled, drained or lost.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType
from typing import Self

from store.errors import LeaseLost
from store.unit_of_work import Store

log = logging.getLogger(__name__)

LONGEST_TICK_SECONDS = 0.25  # how late a drain may be noticed


class JobCancelled(Exception):
    """The user asked for the job to stop."""


class WorkerDraining(Exception):
    """The worker stops; the job goes back to the queue and on from here elsewhere."""


class StopReason(IntEnum):
    """Why a job has to stop; the larger wins."""

    DRAIN = 1
    CANCEL = 2
    LOST = 3


_EXCEPTIONS: dict[StopReason, Callable[[str], Exception]] = {
    StopReason.DRAIN: WorkerDraining,
    StopReason.CANCEL: JobCancelled,
    StopReason.LOST: LeaseLost,
}


class Lease:
    """Keeps one attempt at a job alive while its block runs (``with Lease(...) as lease:``).

    Args:
        store: used from a thread of its own, hence with a database connection of its own.
        job_id: the job.
        attempt: the attempt, as ``claim`` gave it.
        lease_seconds: how long the job stays ours without a heartbeat.
        heartbeat_seconds: time between heartbeats.
        draining: says whether the worker wants to stop; called several times a second.
        grace_seconds: how long the job's thread may take to heed a stop.
        on_unheeded: called, from the lease's thread, when it did not; ends the process.
    """

    def __init__(
        self,
        store: Store,
        job_id: str,
        attempt: int,
        *,
        lease_seconds: float,
        heartbeat_seconds: float,
        draining: Callable[[], bool],
        grace_seconds: float,
        on_unheeded: Callable[[StopReason], None],
    ) -> None:
        self._store = store
        self._job_id = job_id
        self._attempt = attempt
        self.lease_seconds = lease_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._draining = draining
        self._grace_seconds = grace_seconds
        self._on_unheeded = on_unheeded
        self._ends = time.monotonic() + lease_seconds
        self._parent = os.getppid()
        self._stop: StopReason | None = None
        self._stop_since = 0.0
        self._heeded: StopReason | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def check(self) -> None:
        """Return while the job may go on.

        Raises:
            LeaseLost: the job belongs to someone else, or the lease could not be renewed in time.
            JobCancelled: the user cancelled the job.
            WorkerDraining: the worker wants to stop.
        """
        self.check_held()
        if self._stop is not None:
            self._heeded = self._stop
            raise _EXCEPTIONS[self._stop](f"{self._stop.name.lower()}: job {self._job_id}")

    def check_held(self) -> None:
        """Raise ``LeaseLost`` when the job is no longer ours; unlike ``check``, ignore the rest."""
        # Also without the thread's help: it may hang in a connection that went silent.
        if self._stop is not StopReason.LOST and time.monotonic() > self._ends:
            self._ask_to_stop(StopReason.LOST)
        if self._stop is StopReason.LOST:
            self._heeded = StopReason.LOST
            raise LeaseLost(f"job {self._job_id}, attempt {self._attempt}")

    def drain(self) -> None:
        """Ask the job to stop as if the worker drained. Safe in a signal handler."""
        self._ask_to_stop(StopReason.DRAIN)

    def _ask_to_stop(self, reason: StopReason) -> None:
        if self._stop is None or reason > self._stop:
            self._stop_since = time.monotonic()
            self._stop = reason

    def _run(self) -> None:
        next_beat = time.monotonic()
        tick = min(LONGEST_TICK_SECONDS, self._heartbeat_seconds)
        while not self._closed.wait(tick):
            # A child whose parent is gone gets no more work and nobody stops it.
            if self._draining() or os.getppid() != self._parent:
                self._ask_to_stop(StopReason.DRAIN)
            if time.monotonic() >= next_beat and self._stop is not StopReason.LOST and self._beat():
                next_beat = time.monotonic() + self._heartbeat_seconds
            self._end_unheeded()

    def _beat(self) -> bool:
        """Renew the lease; return whether the database answered."""
        sent = time.monotonic()  # the database counts from later, so this errs on the safe side
        try:
            with self._store.transaction() as tx:
                cancel_asked = tx.jobs.heartbeat(self._job_id, self._attempt, self.lease_seconds)
        except LeaseLost:
            if not self._closed.is_set():  # else the job has just finished
                self._ask_to_stop(StopReason.LOST)
            return True
        except Exception as error:
            if time.monotonic() > self._ends:
                log.warning("job %s: lease lost, no heartbeat possible: %s", self._job_id, error)
                self._ask_to_stop(StopReason.LOST)
            return False
        self._ends = sent + self.lease_seconds
        if cancel_asked:
            self._ask_to_stop(StopReason.CANCEL)
        return True

    def _end_unheeded(self) -> None:
        """End the process when the job's thread is stuck, in one long solve or for good."""
        stop = self._stop
        if stop is None or self._heeded is not None:
            return  # whoever heeded one reason is on the way out
        if time.monotonic() - self._stop_since > self._grace_seconds and not self._closed.is_set():
            self._on_unheeded(stop)
