"""The fence: every write of a running job names its attempt, and a stale attempt writes nothing."""

from sqlalchemy import ColumnElement, select

from store.errors import LeaseLost
from store.scope import Scope
from store.tables import job


def still_held(job_id: str, attempt: int) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which the job is still this attempt's."""
    return (job.c.id == job_id, job.c.attempt == attempt, job.c.status.in_(("running", "cancelling")))


def hold_fence(scope: Scope, job_id: str, attempt: int) -> None:
    """Check the fence and keep it until the transaction ends.

    On PostgreSQL the job's row is locked, so that no one can take the job over between this check
    and the commit; on SQLite the writing transaction holds the whole database.

    Raises:
        LeaseLost: the job is no longer this attempt's.
    """
    query = select(job.c.id).where(*still_held(job_id, attempt)).with_for_update(key_share=True)
    if scope.connection.execute(query).one_or_none() is None:
        raise LeaseLost(f"job {job_id} is no longer attempt {attempt}'s")
