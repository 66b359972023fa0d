"""Predictions of whole data sets: consecutive samples of a job, packed in chunks of up to a megabyte a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, insert, select

from store.fence import hold_fence
from store.scope import Scope
from store.tables import prediction_chunk

COLUMNS = ("truth", "label", "status", "nfe", "accepted", "rejected", "probabilities", "logits")


@dataclass(frozen=True)
class PredictionChunk:
    """Predictions of consecutive samples.

    Attributes:
        first_sample: its place in the split, from 0.
        samples: how many.
        seconds: that their solves took.
        columns: packed arrays by name, of ``COLUMNS``; only those asked for, and no ``logits`` where none are stored.
    """

    first_sample: int
    samples: int
    seconds: float
    columns: Mapping[str, bytes]

    @property
    def stop(self) -> int:
        """The sample after the last."""
        return self.first_sample + self.samples


class Predictions:
    """Writes and reads the predictions of jobs."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def append(self, job_id: str, attempt: int, chunk: PredictionChunk) -> None:
        """Store the chunk that follows what is stored.

        One that is stored already, by a commit whose answer was lost, changes nothing.

        Raises:
            LeaseLost: the job is no longer this attempt's.
            ValueError: it would leave a gap, or overlap in part.
        """
        hold_fence(self._scope, job_id, attempt)
        stored = self.stored_samples(job_id)
        if chunk.stop == stored:
            return
        if chunk.first_sample != stored:
            raise ValueError(f"the next sample of job {job_id} is {stored}, not {chunk.first_sample}")
        self._scope.connection.execute(
            insert(prediction_chunk).values(
                job_id=job_id,
                first_sample=chunk.first_sample,
                samples=chunk.samples,
                seconds=chunk.seconds,
                **chunk.columns,
            )
        )

    def stored_samples(self, job_id: str) -> int:
        """Return how many samples are stored: those from 0 on, without a gap."""
        columns = prediction_chunk.c
        query = select(func.max(columns.first_sample + columns.samples)).where(columns.job_id == job_id)
        return int(self._scope.connection.execute(query).scalar_one() or 0)

    def chunk_with(self, job_id: str, sample: int, columns: Sequence[str] = COLUMNS) -> PredictionChunk | None:
        """Return the chunk that holds a sample, with the columns named; None where it is not stored."""
        table = prediction_chunk.c
        query = (
            select(table.first_sample, table.samples, table.seconds, *(table[name] for name in columns))
            .where(table.job_id == job_id, table.first_sample <= sample)
            .order_by(table.first_sample.desc())
            .limit(1)
        )
        row = self._scope.connection.execute(query).mappings().one_or_none()
        if row is None or sample >= row["first_sample"] + row["samples"]:
            return None
        packed = {name: bytes(row[name]) for name in columns if row[name] is not None}
        return PredictionChunk(row["first_sample"], row["samples"], row["seconds"], packed)
