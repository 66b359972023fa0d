"""The reconciler: puts right what crashes and lost messages left. Any number may run at once."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from store.jobs import Job
from store.settings import Settings
from store.unit_of_work import Store

logger = logging.getLogger(__name__)


@dataclass
class Reconciled:
    """What one pass did.

    Attributes:
        rung: ids of queued jobs that were announced to the workers again.
        requeued: ids of jobs taken from a lost worker.
        failed: ids of jobs ended with ``worker_lost`` or ``no_progress``.
        cancelled: ids of jobs cancelled for a worker that did not do so itself.
        removed_blobs: how many blobs of crashed attempts were removed.
    """

    rung: list[str] = field(default_factory=list)
    requeued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    removed_blobs: int = 0


def reconcile(store: Store, settings: Settings, ring: Callable[[str], None]) -> Reconciled:
    """Make one pass.

    Each job is put right in a transaction of its own, by a compare-and-set: of two passes at once
    one finds nothing to do.

    Args:
        store: the database.
        settings: the intervals.
        ring: sends a job's id to the workers. When it raises, the rest is left to the next pass.
    """
    done = Reconciled()
    with store.reading() as tx:
        expired = tx.jobs.with_expired_lease()
        stuck = tx.jobs.without_progress(settings.no_progress_seconds)
    for job_id in expired:
        with store.transaction() as tx:
            _note(done, tx.jobs.expire_lease(job_id, settings.max_failures))
    for job_id in stuck:
        with store.transaction() as tx:
            _note(done, tx.jobs.end_without_progress(job_id, settings.no_progress_seconds))
    _ring_due(store, settings, ring, done)
    with store.transaction() as tx:
        done.removed_blobs = tx.blobs.remove_orphans()
        tx.idempotency.remove_expired()
    return done


def _ring_due(store: Store, settings: Settings, ring: Callable[[str], None], done: Reconciled) -> None:
    with store.transaction() as tx:
        due = tx.jobs.take_due_doorbells(settings.requeue_after_seconds)
    for position, job_id in enumerate(due):
        try:
            ring(job_id)
        except Exception as error:  # whatever the broker's client raises; the database has the jobs
            logger.warning("cannot reach the broker, %d jobs wait: %s", len(due) - position, error)
            with store.transaction() as tx:
                for unsent in due[position:]:
                    tx.jobs.mark_not_rung(unsent)
            return
        done.rung.append(job_id)


def _note(done: Reconciled, job: Job | None) -> None:
    if job is None:
        return
    logger.warning("job %s: %s after attempt %d", job.id, job.status, job.attempt)
    {"queued": done.requeued, "failed": done.failed, "cancelled": done.cancelled}[job.status].append(job.id)
