"""Jobs as they are read. How they change is in ``job_lifecycle``."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import RowMapping, case, func, null, select

from store.errors import NotFound
from store.pagination import KeysetOrder, Page
from store.scope import Scope
from store.tables import job

JobKind = Literal["training", "sweep", "audit", "portrait", "study_run", "predict", "export"]
JobStatus = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)
TERMINAL: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class Job:
    """A job's row.

    Attributes:
        attempt: how often it was claimed; the fence of its worker's writes.
        failures: how many attempts ended with a lost worker.
        lease_expires_at: until when its worker owns it; set exactly while it runs.
        progressed_at: when its worker last got on, as opposed to merely being alive.
        rung_at: when a message about it was last sent to the workers.
        result: of a succeeded job.
        error: ``{"code", "message", ...}`` of a failed one.
        study_id: the study it belongs to, if any.
        study_cell: its place among the study's jobs, from 0; None once another job has taken it over.
    """

    id: str
    kind: JobKind
    name: str | None
    status: JobStatus
    spec: dict[str, Any]
    model: str | None
    model_version: int | None
    progress_step: int
    progress_total: int
    progress_message: str
    attempt: int
    failures: int
    worker: str | None
    lease_expires_at: datetime | None
    heartbeat_at: datetime | None
    progressed_at: datetime | None
    cancel_requested_at: datetime | None
    rung_at: datetime | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    event_count: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    study_id: str | None
    study_cell: int | None

    @property
    def finished(self) -> bool:
        """Whether the status will never change again."""
        return self.status in TERMINAL


PUBLIC_COLUMNS = [column for column in job.c if column.name != "rings"]
_LISTED_COLUMNS = [
    case((job.c.kind == "portrait", null()), else_=column).label("result") if column is job.c.result else column
    for column in PUBLIC_COLUMNS
]
NEWEST_FIRST = KeysetOrder("-created_at", None, job.c.id, descending=True)


def job_from_row(row: RowMapping) -> Job:
    """Return the job of a row of ``PUBLIC_COLUMNS``."""
    return Job(**row)


class JobQueries:
    """Reads jobs."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def get(self, job_id: str) -> Job | None:
        """Return the job, or None."""
        query = select(*PUBLIC_COLUMNS).where(job.c.id == job_id)
        row = self._scope.connection.execute(query).mappings().one_or_none()
        return None if row is None else job_from_row(row)

    def require(self, job_id: str) -> Job:
        """Return the job.

        Raises:
            NotFound: there is none with this id.
        """
        found = self.get(job_id)
        if found is None:
            raise NotFound(f"there is no job {job_id}")
        return found

    def list(
        self,
        *,
        kind: JobKind | None = None,
        status: JobStatus | Sequence[JobStatus] | None = None,
        model: str | None = None,
        name: str | None = None,
        study: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page[Job]:
        """Return jobs, newest first.

        The result of a portrait, which may be a megabyte, is left out (None): ``get`` has it.

        Args:
            kind: only of this kind.
            status: only with this status, or one of these.
            model: only about this model.
            name: only with this name.
            study: only of the study with this id.
            limit: at most so many, 1 to 1000.
            after: the previous page's ``next_cursor``.

        Raises:
            InvalidCursor: ``after`` is malformed.
        """
        query = select(*_LISTED_COLUMNS)
        equal = ((job.c.kind, kind), (job.c.model, model), (job.c.name, name), (job.c.study_id, study))
        for column, value in equal:
            if value is not None:
                query = query.where(column == value)
        if status is not None:
            query = query.where(job.c.status.in_([status] if isinstance(status, str) else status))
        query = NEWEST_FIRST.apply(query, limit, after)
        jobs = [job_from_row(row) for row in self._scope.connection.execute(query).mappings()]
        more = len(jobs) > limit
        jobs = jobs[:limit]
        return Page(jobs, NEWEST_FIRST.cursor(None, jobs[-1].id) if more else None)

    def count_by_status(self) -> dict[JobStatus, int]:
        """Return how many jobs have each status."""
        query = select(job.c.status, func.count()).group_by(job.c.status)
        counts = {status: count for status, count in self._scope.connection.execute(query)}
        return {status: counts.get(status, 0) for status in STATUSES}
