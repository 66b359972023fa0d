"""Predictions of data sets: in order, once, under the fence."""

import struct

import pytest

from store.errors import LeaseLost
from store.predictions import COLUMNS, PredictionChunk
from store.unit_of_work import Store

Running = tuple[str, int]


def chunk(first: int, samples: int, *, logits: bool = True) -> PredictionChunk:
    """Samples whose label is their number."""
    numbers = struct.pack(f"<{samples}i", *range(first, first + samples))
    columns = dict.fromkeys(COLUMNS, bytes(4 * samples)) | {"label": numbers}
    if not logits:
        del columns["logits"]
    return PredictionChunk(first, samples, 0.5, columns)


def labels(found: PredictionChunk | None) -> list[int]:
    assert found is not None
    return list(struct.unpack(f"<{found.samples}i", found.columns["label"]))


def test_chunks_come_back_by_any_of_their_samples(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        tx.predictions.append(*running, chunk(0, 3))
        tx.predictions.append(*running, chunk(3, 5))
        assert tx.predictions.stored_samples(running[0]) == 8
        assert labels(tx.predictions.chunk_with(running[0], 2)) == [0, 1, 2]
        assert labels(tx.predictions.chunk_with(running[0], 3)) == [3, 4, 5, 6, 7]
        assert tx.predictions.chunk_with(running[0], 8) is None
        assert tx.predictions.chunk_with("another", 0) is None
        found = tx.predictions.chunk_with(running[0], 7)
    assert found == chunk(3, 5)


def test_only_the_columns_asked_for_are_read_and_absent_logits_are_left_out(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        tx.predictions.append(*running, chunk(0, 2, logits=False))
        whole = tx.predictions.chunk_with(running[0], 0)
        part = tx.predictions.chunk_with(running[0], 0, ["label", "logits"])
    assert whole is not None
    assert part is not None
    assert set(whole.columns) == set(COLUMNS) - {"logits"}
    assert set(part.columns) == {"label"}


def test_a_chunk_whose_commit_was_not_heard_of_is_stored_once(store: Store, running: Running) -> None:
    for _ in range(2):
        with store.transaction() as tx:
            tx.predictions.append(*running, chunk(0, 3))
    assert [labels(one) for one in store.prediction_chunks(running[0], COLUMNS, 3)] == [[0, 1, 2]]


@pytest.mark.parametrize("first", [0, 2, 4])
def test_a_gap_or_an_overlap_is_refused(store: Store, running: Running, first: int) -> None:
    with store.transaction() as tx:
        tx.predictions.append(*running, chunk(0, 3))
    with store.transaction() as tx, pytest.raises(ValueError, match=r"the next sample of job .* is 3"):
        tx.predictions.append(*running, chunk(first, 5))
    with store.reading() as tx:
        assert tx.predictions.stored_samples(running[0]) == 3


def test_an_attempt_that_lost_its_lease_writes_nothing(store: Store, running: Running) -> None:
    job_id, attempt = running
    with store.transaction() as tx, pytest.raises(LeaseLost):
        tx.predictions.append(job_id, attempt + 1, chunk(0, 3))
    with store.transaction() as tx:
        tx.jobs.succeed(job_id, attempt, {})
    with store.transaction() as tx, pytest.raises(LeaseLost):
        tx.predictions.append(job_id, attempt, chunk(0, 3))
    with store.reading() as tx:
        assert tx.predictions.stored_samples(job_id) == 0


def test_chunks_are_read_in_order_up_to_a_sample(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        for first in (0, 4, 8):
            tx.predictions.append(*running, chunk(first, 4))
    read = [one.first_sample for one in store.prediction_chunks(running[0], ["label"], 8)]
    assert read == [0, 4]
    assert [one.stop for one in store.prediction_chunks(running[0], ["label"], 100)] == [4, 8, 12]
