"""A job's events: what happened to it, numbered from 1 without gaps, never changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import insert, select, update

from store import tables
from store.errors import LeaseLost
from store.fence import still_held
from store.scope import Scope

EventKind = Literal[
    "queued",
    "started",
    "resumed",
    "checkpoint",
    "released",
    "lease_expired",
    "cancel_requested",
    "cancelled",
    "succeeded",
    "failed",
]


@dataclass(frozen=True)
class Event:
    """One event of a job."""

    job_id: str
    sequence: int
    kind: EventKind
    data: dict[str, Any]
    created_at: datetime


class Events:
    """Reads events, and writes those of a running attempt; changes of status write their own."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def list(self, job_id: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Return the events with a sequence number above ``after``, in order."""
        query = (
            select(tables.event)
            .where(tables.event.c.job_id == job_id, tables.event.c.sequence > after)
            .order_by(tables.event.c.sequence)
            .limit(limit)
        )
        return [Event(**row) for row in self._scope.connection.execute(query).mappings()]

    def record(self, job_id: str, attempt: int, kind: EventKind, data: Mapping[str, Any]) -> None:
        """Write an event of a running attempt, for example ``resumed`` with ``{"step": 200}``.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        job = tables.job
        count = self._scope.connection.execute(
            update(job)
            .where(*still_held(job_id, attempt))
            .values(event_count=job.c.event_count + 1)
            .returning(job.c.event_count)
        ).scalar_one_or_none()
        if count is None:
            raise LeaseLost(f"job {job_id} is no longer attempt {attempt}'s")
        insert_event(self._scope, job_id, count, kind, data)


def insert_event(scope: Scope, job_id: str, sequence: int, kind: EventKind, data: Mapping[str, Any]) -> None:
    """Write an event whose number was taken by raising the job's ``event_count`` in this transaction.

    The number comes from the job's row, which is locked by raising it: no gap, no duplicate.
    """
    scope.connection.execute(
        insert(tables.event).values(
            job_id=job_id, sequence=sequence, kind=kind, data=dict(data), created_at=scope.now()
        )
    )
