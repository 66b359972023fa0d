"""Checkpoints: the states from which a job whose worker was lost goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import delete, insert, select

from store.blobs import Blobs
from store.events import Events
from store.fence import hold_fence
from store.ids import new_id
from store.scope import Scope
from store.tables import checkpoint


@dataclass(frozen=True)
class CheckpointInfo:
    """A complete checkpoint without its bytes."""

    id: str
    job_id: str
    attempt: int
    step: int
    metadata: dict[str, Any]
    blob_id: str
    created_at: datetime


class StoredCheckpoint(NamedTuple):
    """A checkpoint with its bytes, verified."""

    step: int
    data: bytes
    metadata: dict[str, Any]


class Checkpoints:
    """Adds and lists checkpoints; ``Store`` has the methods that move the bytes."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def complete(
        self, job_id: str, attempt: int, step: int, metadata: Mapping[str, Any], blob_id: str, keep: int
    ) -> str:
        """Make a written blob the job's newest checkpoint and drop all but the last ``keep``.

        Those beyond ``step``, of an attempt whose later work is being repeated, are dropped too.

        Raises:
            LeaseLost: the job is no longer this attempt's.
            BlobCorrupt: the blob is not whole.
        """
        hold_fence(self._scope, job_id, attempt)
        blobs = Blobs(self._scope)
        blobs.complete(blob_id)
        existing = self.list(job_id)
        superseded = [old for old in existing if old.step >= step]
        earlier = [old for old in existing if old.step < step]
        self._remove([*superseded, *earlier[keep - 1 :]])
        checkpoint_id = new_id()
        self._scope.connection.execute(
            insert(checkpoint).values(
                id=checkpoint_id,
                job_id=job_id,
                attempt=attempt,
                step=step,
                metadata=dict(metadata),
                blob_id=blob_id,
                created_at=self._scope.now(),
            )
        )
        Events(self._scope).record(job_id, attempt, "checkpoint", {"step": step})
        return checkpoint_id

    def list(self, job_id: str) -> Sequence[CheckpointInfo]:
        """Return the job's checkpoints, the last step first."""
        query = select(checkpoint).where(checkpoint.c.job_id == job_id).order_by(checkpoint.c.step.desc())
        return [CheckpointInfo(**row) for row in self._scope.connection.execute(query).mappings()]

    def _remove(self, checkpoints: Sequence[CheckpointInfo]) -> None:
        if not checkpoints:
            return
        ids = [each.id for each in checkpoints]
        self._scope.connection.execute(delete(checkpoint).where(checkpoint.c.id.in_(ids)))
        Blobs(self._scope).remove([each.blob_id for each in checkpoints])
