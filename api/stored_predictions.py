"""Stored predictions of a data set: pages of JSON, and files that are sent as they are read."""

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from ode_core.models.prediction_columns import PER_CLASS, TYPES, Columns, unpack
from ode_core.solvers.status import SolveStatus
from store.jobs import Job
from store.predictions import COLUMNS
from store.unit_of_work import Store, Transaction

MOST_NUMBERS = 1_000_000  # of a page
_COUNTS = ("nfe", "accepted", "rejected")
_OF_CLASS = {"probabilities": "probability", "logits": "logit"}  # in the names of a CSV file's columns


@dataclass(frozen=True)
class StoredPredictions:
    """The predictions of a job as they are at one moment.

    Attributes:
        store: where they are.
        job_id: of the job.
        samples: how many there are.
        columns: those that are stored.
        classes: probabilities of a sample.
    """

    store: Store
    job_id: str
    samples: int
    columns: tuple[str, ...]
    classes: int

    @classmethod
    def of(cls, store: Store, tx: Transaction, job: Job) -> "StoredPredictions":
        """Return the predictions of a job, none if it has not begun."""
        stored = tx.predictions.stored_samples(job.id)
        first = tx.predictions.chunk_with(job.id, 0)
        if first is None:
            return cls(store, job.id, 0, tuple(name for name in COLUMNS if name != "logits" or job.spec["logits"]), 0)
        arrays = unpack(first.columns, first.samples)
        return cls(store, job.id, stored, tuple(first.columns), arrays["probabilities"].shape[1])


def page(tx: Transaction, job_id: str, after: int, limit: int) -> list[dict[str, Any]]:
    """Return at most ``limit`` predictions of samples beyond ``after``, fewer of models with very many classes."""
    rows: list[dict[str, Any]] = []
    numbers = 0
    while len(rows) < limit and numbers < MOST_NUMBERS:
        chunk = tx.predictions.chunk_with(job_id, after + 1)
        if chunk is None:
            break
        columns = unpack(chunk.columns, chunk.samples)
        width = sum(columns[name].shape[1] for name in PER_CLASS if name in columns)
        start = after + 1 - chunk.first_sample
        affordable = max(1, (MOST_NUMBERS - numbers) // width)
        stop = min(chunk.samples, start + limit - len(rows), start + affordable)
        rows += [_row(chunk.first_sample, columns, place) for place in range(start, stop)]
        numbers += (stop - start) * width
        after = chunk.first_sample + stop - 1
    return rows


def page_content(rows: list[dict[str, Any]], stored: int) -> bytes:
    """Return a page as JSON; ``stored`` is how many samples there are in all."""
    more = bool(rows) and rows[-1]["sample"] + 1 < stored
    content = {"data": rows, "has_more": more, "next_cursor": str(rows[-1]["sample"]) if more else None}
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _row(first: int, columns: Columns, place: int) -> dict[str, Any]:
    status = SolveStatus(int(columns["status"][place]))
    usable = status is SolveStatus.SUCCESS
    wide = {name: columns[name][place] if usable and name in columns else None for name in PER_CLASS}
    return {
        "sample": first + place,
        "truth": int(columns["truth"][place]),
        "label": int(columns["label"][place]) if usable else None,
        **wide,
        "status": status.text,
        "remedy": None if usable else status.remedy,
        **{name: int(columns[name][place]) for name in _COUNTS},
    }


def csv_pieces(predictions: StoredPredictions) -> Iterator[bytes]:
    """Yield the predictions as CSV, a piece a chunk: a line of names, then a line a sample; failed ones have gaps."""
    wide = [name for name in PER_CLASS if name in predictions.columns]
    classes = range(predictions.classes)
    names = ["sample", "truth", "label", "status", *_COUNTS]
    names += [f"{_OF_CLASS[name]}_{number}" for name in wide for number in classes]
    yield (",".join(names) + "\r\n").encode()
    gaps = b"," * max(0, len(wide) * predictions.classes - 1)
    for chunk in predictions.store.prediction_chunks(predictions.job_id, predictions.columns, predictions.samples):
        columns = unpack(chunk.columns, chunk.samples)
        yield b"".join(_line(chunk.first_sample, columns, place, wide, gaps) for place in range(chunk.samples))


def _line(first: int, columns: Columns, place: int, wide: list[str], gaps: bytes) -> bytes:
    status = SolveStatus(int(columns["status"][place]))
    usable = status is SolveStatus.SUCCESS
    label = int(columns["label"][place]) if usable else ""
    counts = ",".join(str(columns[name][place]) for name in _COUNTS)
    start = f"{first + place},{columns['truth'][place]},{label},{status.text},{counts},".encode()
    # A JSON list of numbers without its brackets: the shortest digits that give the same float32.
    numbers = [orjson.dumps(columns[name][place], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1] for name in wide]
    return start + (b",".join(numbers) if usable else gaps) + b"\r\n"


def npz_pieces(predictions: StoredPredictions) -> Iterator[bytes]:
    """Yield the predictions as an npz file: the columns by name, and ``status_names``, the words of ``status``.

    It is written while it is read, an array after the other, so that it need never be in memory.
    """
    out = _Outbox()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in predictions.columns:
            shape = (predictions.samples, predictions.classes) if name in PER_CLASS else (predictions.samples,)
            with archive.open(_member(name), "w", force_zip64=True) as member:
                member.write(_npy_header(TYPES[name], shape))
                for chunk in predictions.store.prediction_chunks(predictions.job_id, [name], predictions.samples):
                    member.write(chunk.columns[name])
                    yield out.taken()
        with archive.open(_member("status_names"), "w") as member:
            np.lib.format.write_array(member, np.array([status.text for status in SolveStatus]), allow_pickle=False)
    yield out.taken()


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))


def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    return header.getvalue()


class _Outbox(io.RawIOBase):
    """A file that cannot seek; what was written to it is taken out piece by piece."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._written += data
        return len(data)

    def taken(self) -> bytes:
        """Return what was written since the last time."""
        piece, self._written = bytes(self._written), bytearray()
        return piece


FORMATS: dict[str, tuple[str, Callable[[StoredPredictions], Iterator[bytes]]]] = {
    "csv": ("text/csv", csv_pieces),
    "npz": ("application/zip", npz_pieces),
}
"""Media type and content of each kind of file."""
