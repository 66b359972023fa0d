"""A claimed job as an executor sees it: what to run, and how to stop, write and report."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError

from store.jobs import Job
from store.settings import Settings
from store.unit_of_work import Store, Transaction
from worker.lease import Lease

log = logging.getLogger(__name__)

T = TypeVar("T")

# What the drivers raise when the server is gone, restarts, or another writer holds the lock.
DATABASE_AWAY = (OperationalError, InterfaceError, TimeoutError)
RETRY_SECONDS = 0.25
REPORT_SECONDS = 1.0  # a progress report is a write; more often helps nobody

FinishJob = Callable[[Transaction], dict[str, Any]]
"""Writes what a finished job leaves behind and returns the result (JSON); runs in the transaction
that ends the job, so that both or neither happen. May run again after a database error."""


@dataclass
class RunningJob:
    """One attempt at a job.

    Attributes:
        store: the database.
        settings: the worker's.
        job: the job as it was claimed.
        attempt: the number every write carries, so that a successor's work is never overwritten.
        lease: says when to stop.
    """

    store: Store
    settings: Settings
    job: Job
    attempt: int
    lease: Lease
    _reported: float = field(default=float("-inf"), init=False)

    def check(self) -> None:
        """Raise ``LeaseLost``, ``JobCancelled`` or ``WorkerDraining`` when the job has to stop."""
        self.lease.check()

    def write(self, action: Callable[[Transaction], T]) -> T:
        """Run ``action`` in one transaction; while the database is away, again.

        Raises:
            LeaseLost: the lease ran out meanwhile, or the fence refused the write.
            OperationalError: the database goes on refusing though the lease is alive.
        """

        def in_transaction() -> T:
            with self.store.transaction() as tx:
                return action(tx)

        return self.keep_trying(in_transaction)

    def keep_trying(self, action: Callable[[], T]) -> T:
        """Run ``action``, which uses the database, under the same promise as ``write``."""
        give_up = time.monotonic() + self.lease.lease_seconds
        while True:
            try:
                return action()
            except DATABASE_AWAY as error:
                self.lease.check_held()
                if time.monotonic() > give_up:
                    raise
                log.warning("job %s: database away, trying again: %s", self.job.id, error.__class__.__name__)
                time.sleep(RETRY_SECONDS)

    def report(self, step: int, total: int, message: str) -> None:
        """Report progress, at most once a second; then ``check``."""
        if time.monotonic() - self._reported >= REPORT_SECONDS:
            self._reported = time.monotonic()
            self.write(lambda tx: tx.jobs.report_progress(self.job.id, self.attempt, step, total, message))
        self.check()
