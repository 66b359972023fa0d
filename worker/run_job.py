"""Claim, run, finish: what happens to one job in a worker's process.

The message only says *look at this job*. What is to be done, and whether it still is, the database
says.
"""

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType

from store.errors import LeaseLost
from store.settings import Settings
from store.unit_of_work import Store
from worker.failures import describe_failure
from worker.job_spans import JobSpan, TellOutcome, no_span
from worker.lease import JobCancelled, Lease, StopReason, WorkerDraining
from worker.running_job import DATABASE_AWAY, FinishJob, RunningJob

log = logging.getLogger(__name__)

# A stop that the job's thread does not notice within this time ends the process. Below Docker's
# ten seconds between SIGTERM and SIGKILL, so that the job is released before that.
GRACE_SECONDS = 8.0

Executor = Callable[[RunningJob], FinishJob]


class Outcome(StrEnum):
    """What became of a message."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    LOST = "lost"
    NOT_CLAIMED = "not claimed"


@dataclass(frozen=True)
class JobRunner:
    """Runs jobs one after the other.

    Attributes:
        settings: the worker's.
        store: the database.
        executors: by job kind.
        ring: sends a job's message, for another worker; best effort.
        draining: says whether this worker wants to stop.
        end_process: called when a job's thread is stuck; does not return in a real worker.
        grace_seconds: how long such a thread may take to stop.
        spoiled: says, after a failed job, whether it may have spoiled this process for others.
        span: opened around every attempt.
    """

    settings: Settings
    store: Store
    executors: Mapping[str, Executor]
    ring: Callable[[str], None]
    draining: Callable[[], bool]
    end_process: Callable[[int], object] = os._exit
    grace_seconds: float = GRACE_SECONDS
    spoiled: Callable[[], bool] = lambda: False
    span: JobSpan = no_span

    def run(self, job_id: object) -> Outcome:
        """Run the job if it waits to be run; a message for any other is dropped."""
        if not _is_job_id(job_id):
            log.warning("message dropped: %.80r is not a job id", job_id)
            return Outcome.NOT_CLAIMED
        assert isinstance(job_id, str)
        if self.draining():
            self.ring(job_id)
            return Outcome.NOT_CLAIMED
        try:
            with self.store.transaction() as tx:
                claim = tx.jobs.claim(job_id, worker_name(), self.settings.lease_seconds)
        except DATABASE_AWAY as error:
            log.warning("job %s: not claimed, the reconciler will ring again: %s", job_id, error)
            return Outcome.NOT_CLAIMED
        if claim is None:
            log.debug("job %s: nothing to claim, message dropped", job_id)
            return Outcome.NOT_CLAIMED

        def end_stuck_process(reason: StopReason) -> None:
            self._end_stuck_process(job_id, claim.attempt, reason)

        lease = Lease(
            self.store,
            job_id,
            claim.attempt,
            lease_seconds=self.settings.lease_seconds,
            heartbeat_seconds=self.settings.heartbeat_seconds,
            draining=self.draining,
            grace_seconds=self.grace_seconds,
            on_unheeded=end_stuck_process,
        )
        started = time.monotonic()
        log.info("job %s: %s, attempt %d", job_id, claim.job.kind, claim.attempt)
        with self.span(claim.job) as tell, _sigterm_drains(lease), lease:
            outcome = self._run_claimed(RunningJob(self.store, self.settings, claim.job, claim.attempt, lease), tell)
        log.info("job %s: %s after %.1f s", job_id, outcome, time.monotonic() - started)
        if outcome is Outcome.RELEASED:
            self.ring(job_id)
        if claim.job.study_id is not None and outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
            self._ring_for_successors(claim.job.study_id)
        if outcome is Outcome.FAILED and self.spoiled():
            log.warning("job %s: its failure may have spoiled this process, ending it", job_id)
            _end_this_process_soon()
        return outcome

    def _run_claimed(self, running: RunningJob, tell: TellOutcome) -> Outcome:
        outcome, error = self._outcome(running)
        tell(outcome, error)
        return outcome

    def _outcome(self, running: RunningJob) -> tuple[Outcome, str | None]:
        job_id, attempt = running.job.id, running.attempt
        try:
            try:
                finish = self.executors[running.job.kind](running)
                running.write(lambda tx: tx.jobs.succeed(job_id, attempt, finish(tx)))
            except LeaseLost:
                raise
            except JobCancelled:
                running.write(lambda tx: tx.jobs.finish_cancelled(job_id, attempt))
                return Outcome.CANCELLED, None
            except WorkerDraining:
                job = running.write(lambda tx: tx.jobs.release(job_id, attempt))
                # A cancel that was asked for at the same moment wins.
                return Outcome.RELEASED if job.status == "queued" else Outcome.CANCELLED, None
            except Exception as error:
                failure = describe_failure(error)
                if failure["code"] == "internal_error":
                    log.exception("job %s failed", job_id)
                else:  # the user's to mend, and told so in the job's error
                    log.warning("job %s failed: %s: %s", job_id, failure["code"], failure["message"])
                running.write(lambda tx: tx.jobs.fail(job_id, attempt, failure))
                return Outcome.FAILED, str(failure["code"])
        except LeaseLost:
            return Outcome.LOST, None
        except DATABASE_AWAY:
            log.exception("job %s: could not write how it ended; its lease runs out", job_id)
            return Outcome.LOST, None
        return Outcome.SUCCEEDED, None

    def _ring_for_successors(self, study_id: str) -> None:
        """Tell the workers of the jobs that the study went on with; best effort, as all rings."""
        try:
            with self.store.reading() as tx:
                waiting = tx.studies.unrung_jobs(study_id)
            for job_id in waiting:
                self.ring(job_id)
                with self.store.transaction() as tx:
                    tx.jobs.mark_rung(job_id)
        except DATABASE_AWAY as error:
            log.info("study %s: not rung for its next jobs, the reconciler will: %s", study_id, error)

    def _end_stuck_process(self, job_id: str, attempt: int, reason: StopReason) -> None:
        """From the lease's thread: end the job on behalf of its thread, and the process with it.

        Celery replaces the process. The fence makes this safe at any point of the job's own work.
        """
        log.warning("job %s: stuck for %.0f s, ending the process (%s)", job_id, self.grace_seconds, reason.name)
        try:
            with self.store.transaction() as tx:
                if reason is StopReason.CANCEL:
                    tx.jobs.finish_cancelled(job_id, attempt)
                elif reason is StopReason.DRAIN:
                    tx.jobs.release(job_id, attempt)
            if reason is StopReason.DRAIN:
                self.ring(job_id)
        except Exception as error:
            log.warning("job %s: left to its lease: %s", job_id, error)
        self.end_process(os.EX_TEMPFAIL)


def worker_name() -> str:
    """Return who claims: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _is_job_id(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False


@contextmanager
def _sigterm_drains(lease: Lease) -> Iterator[None]:
    """While the block runs, SIGTERM to this very process drains its job before the process ends.

    Service managers signal every process of a service, and Celery's cold shutdown its children.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers; so in some tests
        return
    arrived = False

    def drain(signum: int, frame: FrameType | None) -> None:
        nonlocal arrived
        arrived = True
        lease.drain()

    previous = signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        if arrived and threading.current_thread() is threading.main_thread():
            _end_this_process_soon()


def _end_this_process_soon() -> None:
    # A moment later, so that Celery's parent still hears that this task is over. A job that begins
    # meanwhile is drained.
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
