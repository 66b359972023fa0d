"""Blobs: bytes in rows of 1 MiB, written in short transactions, valid once complete."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, delete, exists, func, insert, or_, select, update

from store.errors import BlobCorrupt, NotFound
from store.fence import hold_fence
from store.ids import new_id
from store.scope import Scope
from store.tables import artifact, blob, blob_chunk, checkpoint, dataset_version, job, model_version

CHUNK_BYTES = 1 << 20
# A blob that no job writes and nothing refers to is left alone so long: its writer may be about to.
GRACE = timedelta(hours=1)


@dataclass(frozen=True)
class BlobInfo:
    """A complete blob: its size in bytes, and the SHA-256 of its bytes as hexadecimal digits."""

    id: str
    size: int
    sha256: str
    created_at: datetime


class Blobs:
    """Writes and reads blobs, a chunk at a time; ``Store`` has methods for whole ones."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def begin(self, size: int, sha256: str, *, job_id: str | None = None, attempt: int | None = None) -> str:
        """Announce a blob; return its id.

        Args:
            size: in bytes.
            sha256: of all its bytes, hexadecimal.
            job_id: of the job that writes it, if any.
            attempt: of the job that writes it.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        if job_id is not None and attempt is not None:
            hold_fence(self._scope, job_id, attempt)
        blob_id = new_id()
        self._scope.connection.execute(
            insert(blob).values(
                id=blob_id,
                size=size,
                sha256=sha256,
                complete=False,
                job_id=job_id,
                attempt=attempt,
                created_at=self._scope.now(),
            )
        )
        return blob_id

    def append_chunk(self, blob_id: str, position: int, data: bytes) -> None:
        """Write the chunk at ``position`` (from 0), under the fence of the attempt that began the blob.

        Raises:
            LeaseLost: the job is no longer this attempt's.
            NotFound: there is no such blob, or it is complete.
            ValueError: it is not of ``CHUNK_BYTES`` (the last: what remains), as reading a range needs.
        """
        expected = min(CHUNK_BYTES, self._hold(blob_id) - position * CHUNK_BYTES)
        if len(data) != expected:
            raise ValueError(f"chunk {position} must have {expected} bytes, not {len(data)}")
        self._scope.connection.execute(insert(blob_chunk).values(blob_id=blob_id, position=position, data=data))

    def complete(self, blob_id: str) -> None:
        """Make the blob valid.

        Raises:
            LeaseLost: the job is no longer this attempt's.
            NotFound: there is no such blob, or it is complete.
            BlobCorrupt: the chunks do not add up to the size announced.
        """
        size = self._hold(blob_id)
        written = self._scope.connection.execute(
            select(func.coalesce(func.sum(func.length(blob_chunk.c.data)), 0)).where(blob_chunk.c.blob_id == blob_id)
        ).scalar_one()
        if int(written) != size:
            raise BlobCorrupt(f"blob {blob_id} has {written} bytes instead of {size}")
        self._scope.connection.execute(update(blob).where(blob.c.id == blob_id).values(complete=True))

    def info(self, blob_id: str) -> BlobInfo | None:
        """Return what is known of a complete blob, or None."""
        query = select(blob.c.id, blob.c.size, blob.c.sha256, blob.c.created_at).where(
            blob.c.id == blob_id, blob.c.complete
        )
        row = self._scope.connection.execute(query).mappings().one_or_none()
        return None if row is None else BlobInfo(**row)

    def require(self, blob_id: str) -> BlobInfo:
        """Return what is known of a complete blob.

        Raises:
            NotFound: there is none.
        """
        info = self.info(blob_id)
        if info is None:
            raise NotFound(f"there is no blob {blob_id}")
        return info

    def chunk(self, blob_id: str, position: int) -> bytes:
        """Return one chunk.

        Raises:
            BlobCorrupt: it is missing.
        """
        query = select(blob_chunk.c.data).where(blob_chunk.c.blob_id == blob_id, blob_chunk.c.position == position)
        data = self._scope.connection.execute(query).scalar_one_or_none()
        if data is None:
            raise BlobCorrupt(f"blob {blob_id} has no chunk {position}")
        return bytes(data)

    def remove(self, blob_ids: Sequence[str]) -> None:
        """Remove blobs that nothing refers to."""
        if blob_ids:
            self._scope.connection.execute(delete(blob).where(blob.c.id.in_(blob_ids)))

    def remove_orphans(self, limit: int = 100) -> int:
        """Remove blobs that nothing refers to and nobody writes any more; return how many.

        They are what a crash left between the first chunk and the row that refers to the blob.
        """
        writer_lives = exists().where(
            job.c.id == blob.c.job_id,
            job.c.attempt == blob.c.attempt,
            job.c.status.in_(("running", "cancelling")),
        )
        orphans = (
            select(blob.c.id)
            .where(
                ~exists().where(checkpoint.c.blob_id == blob.c.id),
                ~exists().where(model_version.c.blob_id == blob.c.id),
                ~exists().where(dataset_version.c.blob_id == blob.c.id),
                ~exists().where(artifact.c.blob_id == blob.c.id),
                or_(
                    and_(blob.c.job_id.is_not(None), ~writer_lives),
                    and_(blob.c.job_id.is_(None), blob.c.created_at <= self._scope.now() - GRACE),
                ),
            )
            .order_by(blob.c.id)
            .limit(limit)
            .with_for_update(of=blob, skip_locked=True)
        )
        ids = self._scope.connection.execute(orphans).scalars().all()
        self.remove(ids)
        return len(ids)

    def _hold(self, blob_id: str) -> int:
        """Check that the blob is being written, and by whom; return its size."""
        query = select(blob.c.size, blob.c.job_id, blob.c.attempt).where(blob.c.id == blob_id, ~blob.c.complete)
        row = self._scope.connection.execute(query).mappings().one_or_none()
        if row is None:
            raise NotFound(f"there is no blob {blob_id} being written")
        if row["job_id"] is not None:
            hold_fence(self._scope, row["job_id"], row["attempt"])
        return int(row["size"])


def sha256(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
