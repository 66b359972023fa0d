import hashlib
import os

import pytest
from sqlalchemy import delete, func, select, update

from store.blobs import CHUNK_BYTES
from store.engine import writing
from store.errors import BlobCorrupt, LeaseLost, NotFound
from store.tables import blob, blob_chunk
from store.unit_of_work import Store
from tests.store.conftest import Clock

Running = tuple[str, int]
SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 12_345]


def count(store: Store, what: str = "blob") -> int:
    table = {"blob": blob, "chunk": blob_chunk}[what]
    with store.engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def damage(store: Store, blob_id: str, position: int = 0) -> None:
    with writing(store.engine) as connection, connection.begin():
        where = (blob_chunk.c.blob_id == blob_id, blob_chunk.c.position == position)
        data = bytearray(connection.execute(select(blob_chunk.c.data).where(*where)).scalar_one())
        data[len(data) // 2] ^= 1
        connection.execute(update(blob_chunk).where(*where).values(data=bytes(data)))


@pytest.mark.parametrize("size", SIZES)
def test_a_blob_comes_back_as_it_was_written(store: Store, size: int) -> None:
    data = os.urandom(size)
    blob_id = store.save_blob(data)

    assert store.read_blob(blob_id) == data
    with store.reading() as tx:
        info = tx.blobs.require(blob_id)
    assert (info.size, info.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert count(store, "chunk") == -(-size // CHUNK_BYTES)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, 0),
        (0, 1),
        (5, CHUNK_BYTES),
        (CHUNK_BYTES - 1, CHUNK_BYTES + 1),
        (CHUNK_BYTES, 2 * CHUNK_BYTES),
        (3, 2 * CHUNK_BYTES + 99),
        (2 * CHUNK_BYTES + 100, None),
        (7, None),
    ],
)
def test_a_range_of_a_blob_can_be_streamed(store: Store, start: int, end: int | None) -> None:
    data = os.urandom(2 * CHUNK_BYTES + 100)
    blob_id = store.save_blob(data)
    pieces = list(store.stream_blob(blob_id, start, end))

    assert b"".join(pieces) == data[start:end]
    assert all(0 < len(piece) <= CHUNK_BYTES for piece in pieces)


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2), (0, 11), (11, None)])
def test_a_range_outside_a_blob_is_refused_at_once(store: Store, start: int, end: int | None) -> None:
    blob_id = store.save_blob(b"0123456789")
    with pytest.raises(ValueError, match="not within the blob's 10 bytes"):
        store.stream_blob(blob_id, start, end)


def test_an_unknown_blob_is_said_to_be_so_at_once(store: Store) -> None:
    with pytest.raises(NotFound):
        store.stream_blob("no such blob")


@pytest.mark.parametrize("position", [0, 1, 2])
def test_damaged_bytes_are_noticed_before_the_last_piece(store: Store, position: int) -> None:
    blob_id = store.save_blob(os.urandom(2 * CHUNK_BYTES + 10))
    damage(store, blob_id, position)
    stream = store.stream_blob(blob_id)

    assert len(next(stream)) == len(next(stream)) == CHUNK_BYTES
    with pytest.raises(BlobCorrupt, match="not those that were written"):
        next(stream)


def test_a_missing_chunk_is_noticed(store: Store) -> None:
    blob_id = store.save_blob(os.urandom(2 * CHUNK_BYTES))
    with writing(store.engine) as connection, connection.begin():
        connection.execute(delete(blob_chunk).where(blob_chunk.c.position == 1))

    with pytest.raises(BlobCorrupt, match="has no chunk 1"):
        store.read_blob(blob_id)


def test_a_blob_is_not_there_before_it_is_complete(store: Store, running: Running) -> None:
    data = os.urandom(CHUNK_BYTES + 1)
    with store.transaction() as tx:
        blob_id = tx.blobs.begin(len(data), hashlib.sha256(data).hexdigest())
        tx.blobs.append_chunk(blob_id, 0, data[:CHUNK_BYTES])
    with store.reading() as tx:
        assert tx.blobs.info(blob_id) is None
    with pytest.raises(BlobCorrupt, match="1048576 bytes instead of 1048577"), store.transaction() as tx:
        tx.blobs.complete(blob_id)
    with store.transaction() as tx:
        tx.blobs.append_chunk(blob_id, 1, data[CHUNK_BYTES:])
        tx.blobs.complete(blob_id)
    assert store.read_blob(blob_id) == data
    with pytest.raises(NotFound, match="being written"), store.transaction() as tx:
        tx.blobs.append_chunk(blob_id, 2, b"c")


@pytest.mark.parametrize(("position", "data"), [(0, b"ab"), (0, b"abcd"), (1, b"abc"), (1, b"a")])
def test_a_chunk_has_its_place_and_size(store: Store, position: int, data: bytes) -> None:
    with store.transaction() as tx:
        blob_id = tx.blobs.begin(3, hashlib.sha256(b"abc").hexdigest())
        with pytest.raises(ValueError, match="must have"):
            tx.blobs.append_chunk(blob_id, position, data)


def test_a_checkpoint_comes_back_as_it_was_written(store: Store, running: Running) -> None:
    data = os.urandom(CHUNK_BYTES + 7)
    store.save_checkpoint(*running, step=100, data=data, metadata={"steps": 2, "list": [1.5, None]})

    latest = store.latest_checkpoint(running[0])
    assert latest is not None
    assert (latest.step, latest.data, latest.metadata) == (100, data, {"steps": 2, "list": [1.5, None]})
    with store.reading() as tx:
        event = tx.events.list(running[0])[-1]
    assert (event.kind, event.data) == ("checkpoint", {"step": 100})


def test_a_job_without_checkpoint_has_none(store: Store, running: Running) -> None:
    assert store.latest_checkpoint(running[0]) is None


def test_only_the_last_checkpoints_are_kept(store: Store, running: Running) -> None:
    for step in (100, 200, 300, 400):
        store.save_checkpoint(*running, step=step, data=str(step).encode(), metadata={})

    with store.reading() as tx:
        assert [each.step for each in tx.checkpoints.list(running[0])] == [400, 300]
    assert count(store) == count(store, "chunk") == 2


def test_a_corrupt_checkpoint_is_passed_over_for_the_one_before(
    store: Store, running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (100, 200):
        store.save_checkpoint(*running, step=step, data=str(step).encode(), metadata={})
    with store.reading() as tx:
        newest = tx.checkpoints.list(running[0])[0]
    damage(store, newest.blob_id)

    latest = store.latest_checkpoint(running[0])

    assert latest is not None
    assert (latest.step, latest.data) == (100, b"100")
    assert "of step 200 is corrupt" in caplog.text


def test_work_done_again_replaces_the_checkpoints_beyond_it(store: Store, running: Running) -> None:
    for step in (100, 200):
        store.save_checkpoint(*running, step=step, data=b"old", metadata={})
    store.save_checkpoint(*running, step=150, data=b"new", metadata={})

    latest = store.latest_checkpoint(running[0])
    assert latest is not None
    assert (latest.step, latest.data) == (150, b"new")
    with store.reading() as tx:
        assert [each.step for each in tx.checkpoints.list(running[0])] == [150, 100]


def test_a_checkpoint_of_a_lost_lease_is_not_there(store: Store, running: Running) -> None:
    store.save_checkpoint(*running, step=100, data=b"good", metadata={})
    with store.transaction() as tx:
        blob_id = tx.blobs.begin(3, hashlib.sha256(b"bad").hexdigest(), job_id=running[0], attempt=running[1])
        tx.jobs.release(*running)
    with pytest.raises(LeaseLost), store.transaction() as tx:
        tx.blobs.append_chunk(blob_id, 0, b"bad")
    with pytest.raises(LeaseLost), store.transaction() as tx:
        tx.blobs.complete(blob_id)
    with pytest.raises(LeaseLost):
        store.save_checkpoint(*running, step=200, data=b"bad", metadata={})
    with pytest.raises(LeaseLost):
        store.save_blob(b"bad", job_id=running[0], attempt=running[1])

    latest = store.latest_checkpoint(running[0])
    assert latest is not None
    assert latest.step == 100


def test_a_blob_has_a_whole_writer_or_none(store: Store, running: Running) -> None:
    with pytest.raises(ValueError, match="both job_id and attempt"):
        store.save_blob(b"x", job_id=running[0])


def test_what_a_crashed_attempt_left_is_removed_and_nothing_else(store: Store, running: Running, clock: Clock) -> None:
    store.save_checkpoint(*running, step=100, data=b"checkpoint", metadata={})
    half = hashlib.sha256(b"half").hexdigest()
    with store.transaction() as tx:
        tx.blobs.append_chunk(
            tx.blobs.begin(CHUNK_BYTES + 1, half, job_id=running[0], attempt=running[1]), 0, bytes(CHUNK_BYTES)
        )
    store.save_blob(b"weights", job_id=running[0], attempt=running[1])
    upload = store.save_blob(b"somebody's")

    with store.transaction() as tx:
        assert tx.blobs.remove_orphans() == 0  # the attempt is alive, and the upload new
        tx.jobs.release(*running)
        assert tx.blobs.remove_orphans() == 2
    assert store.read_blob(upload) == b"somebody's"
    clock.forward(3601)
    with store.transaction() as tx:
        assert tx.blobs.remove_orphans() == 1
        assert tx.blobs.remove_orphans() == 0
    assert count(store) == count(store, "chunk") == 1
    latest = store.latest_checkpoint(running[0])
    assert latest is not None
    assert latest.data == b"checkpoint"


def test_the_file_a_job_made_is_nobodys_orphan(store: Store, running: Running, clock: Clock) -> None:
    blob_id = store.save_blob(b"a model", job_id=running[0], attempt=running[1])
    with store.transaction() as tx:
        tx.artifacts.add(*running, "model.onnx", blob_id)
        tx.jobs.succeed(*running, {})
    clock.forward(3601)

    with store.transaction() as tx:
        assert tx.blobs.remove_orphans() == 0
        found = tx.artifacts.of_job(running[0])
    assert found is not None
    assert (found.name, store.read_blob(found.blob_id)) == ("model.onnx", b"a model")


def test_a_stale_attempt_adds_no_file(store: Store, running: Running) -> None:
    blob_id = store.save_blob(b"a model", job_id=running[0], attempt=running[1])
    with store.transaction() as tx:
        tx.jobs.release(*running)

    with pytest.raises(LeaseLost), store.transaction() as tx:
        tx.artifacts.add(*running, "model.onnx", blob_id)

    with store.reading() as tx:
        assert tx.artifacts.of_job(running[0]) is None
