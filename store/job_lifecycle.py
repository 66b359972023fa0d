"""The job state machine: every change of a job's status is here, and nowhere else.

    queued -> running -> succeeded | failed
    running -> queued                      lease expired, or the worker was told to stop
    running -> cancelling -> cancelled     (or succeeded, failed: it finished first)
    queued -> cancelled

Each change is one compare-and-set update that names the statuses it may start from, and writes its
events in the same transaction. Two that compete for a job: one finds no row.

When a job of a study ends, its study goes on in the same transaction. Whoever changes both locks the study first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, insert, or_, select, update

from store.errors import IllegalTransition, LeaseLost, NotFound
from store.events import EventKind, insert_event
from store.fence import still_held
from store.ids import new_id
from store.jobs import PUBLIC_COLUMNS, TERMINAL, Job, JobKind, JobQueries, JobStatus, job_from_row
from store.study_progress import advance_study, hold_study_of
from store.tables import job

LEGAL: dict[JobStatus, frozenset[JobStatus]] = {
    "queued": frozenset({"running", "cancelled"}),
    "running": frozenset({"queued", "cancelling", "succeeded", "failed"}),
    "cancelling": frozenset({"cancelled", "succeeded", "failed"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}

# A job that waits long is rung ever more rarely, down to once in 2^4 times the interval: its
# message usually still lies in the broker, behind a long job, and each ring adds another.
MAX_RING_BACKOFF = 4


@dataclass(frozen=True)
class Claim:
    """A job taken: ``attempt`` fences every write from here on."""

    job: Job
    attempt: int


class Jobs(JobQueries):
    """Submits jobs, reads them, and changes their status."""

    def submit(
        self,
        kind: JobKind,
        spec: Mapping[str, Any],
        *,
        name: str | None = None,
        model: str | None = None,
        model_version: int | None = None,
        total: int = 0,
        study_id: str | None = None,
        study_cell: int | None = None,
    ) -> Job:
        """Add a queued job.

        Args:
            kind: what is to be done.
            spec: everything that determines the work, as JSON.
            name: for people.
            model: the model trained or tested.
            model_version: the version tested.
            total: steps the progress counts up to; 0: not known.
            study_id: the study it is part of.
            study_cell: its place there.
        """
        job_id = new_id()
        row = (
            self._scope.connection.execute(
                insert(job)
                .values(
                    id=job_id,
                    kind=kind,
                    name=name,
                    status="queued",
                    spec=dict(spec),
                    model=model,
                    model_version=model_version,
                    progress_step=0,
                    progress_total=total,
                    progress_message="",
                    attempt=0,
                    failures=0,
                    rings=0,
                    event_count=1,
                    created_at=self._scope.now(),
                    study_id=study_id,
                    study_cell=study_cell,
                )
                .returning(*PUBLIC_COLUMNS)
            )
            .mappings()
            .one()
        )
        insert_event(self._scope, job_id, 1, "queued", self._scope.trace_context())
        return job_from_row(row)

    def claim(self, job_id: str, worker: str, lease_seconds: float) -> Claim | None:
        """Take a queued job for ``worker``; None if it is not queued (a duplicate message: drop it)."""
        now = self._scope.now()
        taken = self._change(
            job_id,
            ("queued",),
            "running",
            conditions=(job.c.cancel_requested_at.is_(None),),
            values={
                "attempt": job.c.attempt + 1,
                "worker": worker,
                "lease_expires_at": now + timedelta(seconds=lease_seconds),
                "heartbeat_at": now,
                "progressed_at": now,
                "started_at": func.coalesce(job.c.started_at, now),
            },
        )
        if taken is None:
            return None
        self._event(taken, "started", {"attempt": taken.attempt, "worker": worker})
        return Claim(taken, taken.attempt)

    def heartbeat(self, job_id: str, attempt: int, lease_seconds: float) -> bool:
        """Extend the lease; return whether the job is to be cancelled.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        now = self._scope.now()
        return (
            self._update_held(
                job_id,
                attempt,
                {"heartbeat_at": now, "lease_expires_at": now + timedelta(seconds=lease_seconds)},
            ).status
            == "cancelling"
        )

    def report_progress(self, job_id: str, attempt: int, step: int, total: int, message: str = "") -> None:
        """Store how far the job is, which also tells the watchdog that it gets on.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        self._update_held(
            job_id,
            attempt,
            {
                "progress_step": step,
                "progress_total": total,
                "progress_message": message,
                "progressed_at": self._scope.now(),
            },
        )

    def succeed(self, job_id: str, attempt: int, result: Mapping[str, Any]) -> Job:
        """End the job with its result; its progress is complete.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        values = {"result": dict(result), "progress_step": job.c.progress_total}
        return self._finish(job_id, attempt, "succeeded", values, {})

    def fail(self, job_id: str, attempt: int, error: Mapping[str, Any]) -> Job:
        """End the job with an error: ``{"code", "message", ...}``.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        _check_error(error)
        return self._finish(job_id, attempt, "failed", {"error": dict(error)}, {"error": dict(error)})

    def finish_cancelled(self, job_id: str, attempt: int) -> Job:
        """End a job whose cancellation was asked for.

        Raises:
            LeaseLost: the job is no longer this attempt's.
            IllegalTransition: nobody asked to cancel it.
        """
        ended = self._change(
            job_id,
            ("cancelling",),
            "cancelled",
            conditions=(job.c.attempt == attempt,),
            values=self._ended(),
        )
        if ended is None:
            self._update_held(job_id, attempt, {})  # tells a lost lease from a wrong call
            raise IllegalTransition(f"job {job_id} is running and nobody asked to cancel it")
        return self._event(ended, "cancelled", {})

    def release(self, job_id: str, attempt: int) -> Job:
        """Give a job back unfinished, for another worker to go on with; not counted as a failure.

        A job whose cancellation was asked for meanwhile is cancelled.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        current = self._lock(job_id)
        if current is None or current.attempt != attempt or current.status not in ("running", "cancelling"):
            raise _lease_lost(job_id, attempt)
        if current.status == "cancelling":
            return self.finish_cancelled(job_id, attempt)
        released = self._change(
            job_id, ("running",), "queued", conditions=(job.c.attempt == attempt,), values=_queued_again()
        )
        assert released is not None
        return self._event(released, "released", {"attempt": attempt})

    def request_cancel(self, job_id: str) -> Job:
        """Ask for a job to end: a queued one does at once, a running one soon, an ended one stays.

        Raises:
            NotFound: there is no such job.
        """
        current = self._lock(job_id)
        if current is None:
            raise NotFound(f"there is no job {job_id}")
        now = self._scope.now()
        if current.status == "queued":
            values = {"cancel_requested_at": now, **self._ended()}
            cancelled = self._change(job_id, ("queued",), "cancelled", values=values)
            assert cancelled is not None
            return self._event(self._event(cancelled, "cancel_requested", {}), "cancelled", {})
        if current.status == "running":
            asked = self._change(job_id, ("running",), "cancelling", values={"cancel_requested_at": now})
            assert asked is not None
            return self._event(asked, "cancel_requested", {})
        return current

    # What the reconciler does; see store.reconciliation.

    def with_expired_lease(self, limit: int = 100) -> Sequence[str]:
        """Return the ids of jobs whose worker has not been heard of for its lease."""
        query = (
            select(job.c.id)
            .where(job.c.status.in_(("running", "cancelling")), job.c.lease_expires_at <= self._scope.now())
            .order_by(job.c.lease_expires_at)
            .limit(limit)
        )
        return self._scope.connection.execute(query).scalars().all()

    def expire_lease(self, job_id: str, max_failures: int) -> Job | None:
        """Take a job from a worker that is gone; None if its lease has not run out (any more).

        A running job is queued again, or fails when this was its ``max_failures``-th loss; one to
        be cancelled is cancelled.
        """
        current = self._lock(job_id)
        now = self._scope.now()
        if current is None or current.lease_expires_at is None or current.lease_expires_at > now:
            return None
        failures = current.failures + 1
        lost = {"attempt": current.attempt, "worker": current.worker, "failures": failures}
        if current.status == "cancelling":
            values: dict[str, Any] = {"failures": failures, **self._ended()}
            ended = self._change(job_id, ("cancelling",), "cancelled", values=values)
            assert ended is not None
            return self._event(self._event(ended, "lease_expired", lost), "cancelled", {})
        if failures < max_failures:
            values = {"failures": failures, **_queued_again()}
            queued = self._change(job_id, ("running",), "queued", values=values)
            assert queued is not None
            return self._event(queued, "lease_expired", lost)
        error = {
            "code": "worker_lost",
            "message": f"the worker was lost {failures} times while it ran this job, so it is not tried "
            "again; it may need more memory than there is: see the worker's log, and try a smaller "
            "batch_size or model",
            "failures": failures,
        }
        values = {"failures": failures, "error": error, **self._ended()}
        failed = self._change(job_id, ("running",), "failed", values=values)
        assert failed is not None
        return self._event(self._event(failed, "lease_expired", lost), "failed", {"error": error})

    def without_progress(self, seconds: float, limit: int = 100) -> Sequence[str]:
        """Return the ids of jobs that are held but have not got on for ``seconds``."""
        query = (
            select(job.c.id)
            .where(
                job.c.status.in_(("running", "cancelling")),
                job.c.progressed_at <= self._scope.now() - timedelta(seconds=seconds),
            )
            .order_by(job.c.progressed_at)
            .limit(limit)
        )
        return self._scope.connection.execute(query).scalars().all()

    def end_without_progress(self, job_id: str, seconds: float) -> Job | None:
        """Fail a job that heartbeats but has not got on for ``seconds``; None if it has meanwhile.

        One to be cancelled is cancelled. Its worker notices at its next heartbeat.
        """
        current = self._lock(job_id)
        deadline = self._scope.now() - timedelta(seconds=seconds)
        if (
            current is None
            or current.status not in ("running", "cancelling")
            or current.progressed_at is None
            or current.progressed_at > deadline
        ):
            return None
        if current.status == "cancelling":
            ended = self._change(job_id, ("cancelling",), "cancelled", values=self._ended())
            assert ended is not None
            return self._event(ended, "cancelled", {"reason": "no_progress"})
        error = {
            "code": "no_progress",
            "message": f"the job made no progress for {seconds:g} seconds; if one step may take that long, "
            "raise ODENESS_NO_PROGRESS_SECONDS",
        }
        failed = self._change(job_id, ("running",), "failed", values={"error": error, **self._ended()})
        assert failed is not None
        return self._event(failed, "failed", {"error": error})

    # The doorbell: the message that tells the workers about a queued job.

    def mark_rung(self, job_id: str) -> None:
        """Note that a message about the job was sent."""
        self._scope.connection.execute(update(job).where(job.c.id == job_id).values(self._rung()))

    def mark_not_rung(self, job_id: str) -> None:
        """Note that the message counted by ``take_due_doorbells`` could not be sent."""
        self._scope.connection.execute(
            update(job).where(job.c.id == job_id).values(rings=case((job.c.rings > 0, job.c.rings - 1), else_=0))
        )

    def take_due_doorbells(self, requeue_after_seconds: float, limit: int = 100) -> Sequence[str]:
        """Return queued jobs whose message is overdue, and count them as rung: none is taken twice."""
        now = self._scope.now()
        since = func.coalesce(job.c.rung_at, job.c.created_at)
        due: list[ColumnElement[bool]] = [
            and_(
                job.c.rings == rings if rings < MAX_RING_BACKOFF else job.c.rings >= rings,
                since <= now - timedelta(seconds=requeue_after_seconds * 2**rings),
            )
            for rings in range(MAX_RING_BACKOFF + 1)
        ]
        overdue = (
            select(job.c.id)
            .where(job.c.status == "queued", or_(*due))
            .order_by(job.c.id)
            .limit(limit)
            # Another reconciler's are left to it.
            .with_for_update(skip_locked=True)
        )
        ids = self._scope.connection.execute(overdue).scalars().all()
        if ids:
            self._scope.connection.execute(update(job).where(job.c.id.in_(ids)).values(self._rung()))
        return ids

    def _rung(self) -> dict[str, Any]:
        return {"rung_at": self._scope.now(), "rings": job.c.rings + 1}

    def _ended(self) -> dict[str, Any]:
        return {"finished_at": self._scope.now(), "lease_expires_at": None}

    def _finish(
        self, job_id: str, attempt: int, status: JobStatus, values: dict[str, Any], data: dict[str, Any]
    ) -> Job:
        ended = self._change(
            job_id,
            ("running", "cancelling"),
            status,
            conditions=(job.c.attempt == attempt,),
            values={**values, **self._ended()},
        )
        if ended is None:
            raise _lease_lost(job_id, attempt)
        return self._event(ended, "succeeded" if status == "succeeded" else "failed", data)

    def _lock(self, job_id: str) -> Job | None:
        """Return the job and keep others from changing it, and its study, until this transaction ends."""
        hold_study_of(self._scope, job_id)
        query = select(*PUBLIC_COLUMNS).where(job.c.id == job_id).with_for_update(key_share=True)
        row = self._scope.connection.execute(query).mappings().one_or_none()
        return None if row is None else job_from_row(row)

    def _change(
        self,
        job_id: str,
        sources: tuple[JobStatus, ...],
        target: JobStatus,
        *,
        values: Mapping[str, Any],
        conditions: tuple[ColumnElement[bool], ...] = (),
    ) -> Job | None:
        """Compare and set: the only statement that changes a status. None if no row fits."""
        for source in sources:
            if target not in LEGAL[source]:
                raise IllegalTransition(f"a job cannot go from {source} to {target}")
        if target in TERMINAL:
            hold_study_of(self._scope, job_id)
        row = (
            self._scope.connection.execute(
                update(job)
                .where(job.c.id == job_id, job.c.status.in_(sources), *conditions)
                .values({"status": target, **values})
                .returning(*PUBLIC_COLUMNS)
            )
            .mappings()
            .one_or_none()
        )
        if row is None:
            return None
        changed = job_from_row(row)
        if changed.finished and changed.study_id is not None:
            advance_study(self._scope, changed.study_id, self.submit)
        return changed

    def _event(self, changed: Job, kind: EventKind, data: Mapping[str, Any]) -> Job:
        """Write an event of a change made in this transaction; return the job with it counted."""
        row = (
            self._scope.connection.execute(
                update(job)
                .where(job.c.id == changed.id)
                .values(event_count=job.c.event_count + 1)
                .returning(*PUBLIC_COLUMNS)
            )
            .mappings()
            .one()
        )
        counted = job_from_row(row)
        insert_event(self._scope, counted.id, counted.event_count, kind, data)
        return counted

    def _update_held(self, job_id: str, attempt: int, values: Mapping[str, Any]) -> Job:
        """Update columns other than the status, under the fence."""
        row = (
            self._scope.connection.execute(
                update(job)
                .where(*still_held(job_id, attempt))
                .values({"attempt": attempt, **values})
                .returning(*PUBLIC_COLUMNS)
            )
            .mappings()
            .one_or_none()
        )
        if row is None:
            raise _lease_lost(job_id, attempt)
        return job_from_row(row)


def _queued_again() -> dict[str, Any]:
    # Without rung_at the next reconciler rings at once.
    return {"lease_expires_at": None, "worker": None, "rung_at": None, "rings": 0}


def _lease_lost(job_id: str, attempt: int) -> LeaseLost:
    return LeaseLost(f"job {job_id} is no longer attempt {attempt}'s")


def _check_error(error: Mapping[str, Any]) -> None:
    if not (isinstance(error.get("code"), str) and isinstance(error.get("message"), str)):
        raise ValueError("an error needs a code and a message")


assert all(not LEGAL[status] for status in TERMINAL)
