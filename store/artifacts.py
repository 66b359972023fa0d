"""Artifacts: the file that a job made, for whoever submitted it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import insert, select

from store.fence import hold_fence
from store.scope import Scope
from store.tables import artifact


@dataclass(frozen=True)
class Artifact:
    """A job's file: its name, and the blob with its bytes."""

    job_id: str
    name: str
    blob_id: str
    created_at: datetime


class Artifacts:
    """Adds and finds them; a job has one at most."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def add(self, job_id: str, attempt: int, name: str, blob_id: str) -> None:
        """Make a complete blob the file of a running job; call it in the transaction that ends the job.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        hold_fence(self._scope, job_id, attempt)
        self._scope.connection.execute(
            insert(artifact).values(job_id=job_id, name=name, blob_id=blob_id, created_at=self._scope.now())
        )

    def of_job(self, job_id: str) -> Artifact | None:
        """Return a job's file, or None where it made none."""
        query = select(artifact).where(artifact.c.job_id == job_id)
        row = self._scope.connection.execute(query).mappings().one_or_none()
        return None if row is None else Artifact(**row)
