"""The store: transactions with their repositories, and the operations that need several."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, text

from store.aliases import Aliases
from store.artifacts import Artifacts
from store.blobs import CHUNK_BYTES, Blobs, sha256
from store.checkpoints import Checkpoints, StoredCheckpoint
from store.datasets import Datasets
from store.engine import create_engine_from, reading, writing
from store.errors import BlobCorrupt, NotFound
from store.events import Events
from store.idempotency import IdempotencyKeys
from store.job_lifecycle import Jobs
from store.metrics import Metrics
from store.models import Models
from store.predictions import PredictionChunk, Predictions
from store.results import Results
from store.scope import Clock, Scope
from store.solver_choices import SolverChoices
from store.studies import Studies
from store.tracing import TraceContext, no_trace

logger = logging.getLogger(__name__)


class Transaction:
    """One transaction's repositories."""

    def __init__(self, connection: Connection, clock: Clock | None, trace_context: TraceContext = no_trace) -> None:
        scope = Scope(connection, clock, trace_context)
        self.now = scope.now
        self.jobs = Jobs(scope)
        self.studies = Studies(scope, self.jobs)
        self.events = Events(scope)
        self.metrics = Metrics(scope)
        self.blobs = Blobs(scope)
        self.checkpoints = Checkpoints(scope)
        self.artifacts = Artifacts(scope)
        self.models = Models(scope)
        self.aliases = Aliases(scope)
        self.datasets = Datasets(scope)
        self.results = Results(scope)
        self.predictions = Predictions(scope)
        self.solver_choices = SolverChoices(scope)
        self.idempotency = IdempotencyKeys(scope)


class Store:
    """A database.

    Args:
        engine: from ``store.engine.create_engine_from``.
        clock: for tests; default: the database server's clock, or this machine's with SQLite.
        keep_checkpoints: how many of a job stay.
        trace_context: the trace that a job is submitted in, kept with its first event.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Clock | None = None,
        keep_checkpoints: int = 2,
        trace_context: TraceContext = no_trace,
    ) -> None:
        self.engine = engine
        self._clock = clock
        self._keep_checkpoints = keep_checkpoints
        self._trace_context = trace_context

    @classmethod
    def connect(cls, url: str, *, keep_checkpoints: int = 2, trace_context: TraceContext = no_trace) -> "Store":
        """Return the store at a database URL; nothing is opened before the first transaction."""
        return cls(create_engine_from(url), keep_checkpoints=keep_checkpoints, trace_context=trace_context)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Open a transaction that may write: committed when the block ends, rolled back when it raises."""
        with writing(self.engine) as connection, connection.begin():
            yield Transaction(connection, self._clock, self._trace_context)

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Open a transaction that only reads, and sees one moment of the database."""
        with reading(self.engine) as connection:
            yield Transaction(connection, self._clock)

    def ping(self) -> None:
        """Raise SQLAlchemy's error unless the database answers."""
        with reading(self.engine) as connection:
            connection.execute(text("SELECT 1"))

    def save_blob(self, data: bytes, *, job_id: str | None = None, attempt: int | None = None) -> str:
        """Store bytes; return the blob's id.

        A worker names its job and attempt: then a stale attempt writes nothing, and the blob is
        removed if the attempt ends before anything refers to it. Any other blob that nothing
        refers to is removed after an hour.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        blob_id = self._write_chunks(data, job_id, attempt)
        with self.transaction() as tx:
            tx.blobs.complete(blob_id)
        return blob_id

    def save_file(self, path: Path) -> str:
        """Store a file's bytes; return the blob's id. Removed after an hour if nothing refers to it by then."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            file.seek(0)
            with self.transaction() as tx:
                blob_id = tx.blobs.begin(size, digest)
            for position in range(-(-size // CHUNK_BYTES)):
                data = file.read(CHUNK_BYTES)
                with self.transaction() as tx:
                    tx.blobs.append_chunk(blob_id, position, data)
        with self.transaction() as tx:
            tx.blobs.complete(blob_id)
        return blob_id

    def read_blob(self, blob_id: str) -> bytes:
        """Return a blob's bytes, verified.

        Raises:
            NotFound: there is no such blob.
            BlobCorrupt: the bytes are not those that were written.
        """
        return b"".join(self.stream_blob(blob_id))

    def stream_blob(self, blob_id: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Return the bytes ``start`` to ``end`` (exclusive, default all) in pieces of at most 1 MiB.

        Each piece is a transaction of its own: a slow reader holds none open. When the whole blob is
        read, the last piece comes only after all have been verified.

        Raises:
            NotFound: at once, if there is no such blob.
            ValueError: at once, if the range is not within the blob.
            BlobCorrupt: while reading, if the bytes are not those that were written.
        """
        with self.reading() as tx:
            info = tx.blobs.require(blob_id)
        stop = info.size if end is None else end
        if not 0 <= start <= stop <= info.size:
            raise ValueError(f"the range {start} to {stop} is not within the blob's {info.size} bytes")
        whole = start == 0 and stop == info.size
        return self._chunks(blob_id, start, stop, info.sha256 if whole else None)

    def prediction_chunks(self, job_id: str, columns: Sequence[str], stop: int) -> Iterator[PredictionChunk]:
        """Return what is stored of a job's predictions before sample ``stop``, chunk by chunk in order.

        Each chunk is a transaction of its own: a slow reader holds none open.
        """
        sample = 0
        while sample < stop:
            with self.reading() as tx:
                chunk = tx.predictions.chunk_with(job_id, sample, columns)
            if chunk is None:
                return
            yield chunk
            sample = chunk.stop

    def save_checkpoint(self, job_id: str, attempt: int, step: int, data: bytes, metadata: Mapping[str, Any]) -> str:
        """Store the job's state after ``step``, write the event, drop old ones; return the id.

        Until the last of its short transactions, the checkpoint before stays the one to resume from.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        blob_id = self._write_chunks(data, job_id, attempt)
        with self.transaction() as tx:
            return tx.checkpoints.complete(job_id, attempt, step, metadata, blob_id, self._keep_checkpoints)

    def latest_checkpoint(self, job_id: str) -> StoredCheckpoint | None:
        """Return the last checkpoint whose bytes are intact, or None."""
        with self.reading() as tx:
            candidates = tx.checkpoints.list(job_id)
        for candidate in candidates:
            try:
                data = self.read_blob(candidate.blob_id)
            except (BlobCorrupt, NotFound):
                logger.warning(
                    "job %s: checkpoint %s of step %d is corrupt, using the one before",
                    job_id,
                    candidate.id,
                    candidate.step,
                )
                continue
            return StoredCheckpoint(candidate.step, data, candidate.metadata)
        return None

    def _write_chunks(self, data: bytes, job_id: str | None, attempt: int | None) -> str:
        if (job_id is None) != (attempt is None):
            raise ValueError("give both job_id and attempt, or neither")
        with self.transaction() as tx:
            blob_id = tx.blobs.begin(len(data), sha256(data), job_id=job_id, attempt=attempt)
        for position, start in enumerate(range(0, len(data), CHUNK_BYTES)):
            # One transaction a chunk: SQLite has a single writer, and heartbeats must get their turn.
            with self.transaction() as tx:
                tx.blobs.append_chunk(blob_id, position, data[start : start + CHUNK_BYTES])
        return blob_id

    def _chunks(self, blob_id: str, start: int, stop: int, expected: str | None) -> Iterator[bytes]:
        digest = hashlib.sha256()
        positions = range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES)) if start < stop else range(0)
        for position in positions:
            offset = position * CHUNK_BYTES
            with self.reading() as tx:
                chunk = tx.blobs.chunk(blob_id, position)
            piece = chunk[max(0, start - offset) : stop - offset]
            if expected is not None:
                digest.update(piece)
                if offset + CHUNK_BYTES >= stop and digest.hexdigest() != expected:
                    raise BlobCorrupt(f"the bytes of blob {blob_id} are not those that were written")
            yield piece
