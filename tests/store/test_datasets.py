import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ode_core.specs import UploadedFacts
from store.blobs import CHUNK_BYTES
from store.datasets import DatasetVersion
from store.errors import NotFound
from store.unit_of_work import Store
from tests.store.conftest import Clock

FACTS = UploadedFacts(
    input_shape=(3, 8),
    classes=4,
    input_scale=0.5,
    train_samples=20,
    test_samples=5,
    sha256=hashlib.sha256().hexdigest(),
)


def register(store: Store, name: str = "moons") -> DatasetVersion:
    blob_id = store.save_blob(b"arrays")
    with store.transaction() as tx:
        return tx.datasets.register_version(name, FACTS, source={"format": "npz"}, blob_id=blob_id)


def test_a_name_used_again_gets_the_next_version_and_the_first_stays(store: Store) -> None:
    first, second, other = register(store), register(store), register(store, "rings")
    assert [(one.name, one.version) for one in (first, second, other)] == [("moons", 1), ("moons", 2), ("rings", 1)]
    with store.reading() as tx:
        assert tx.datasets.version("moons") == second
        assert tx.datasets.version("moons", 1) == first
        assert tx.datasets.version("moons", 3) is None
        assert tx.datasets.version("suns") is None
        assert list(tx.datasets.versions("moons")) == [second, first]


def test_a_version_tells_how_a_job_names_it(store: Store) -> None:
    version = register(store)
    assert version.spec.facts == FACTS
    assert (version.spec.name, version.spec.version, version.spec.input_shape) == ("moons", 1, (3, 8))
    assert version.source == {"format": "npz"}


def test_the_list_has_the_latest_version_of_each_name_page_by_page(store: Store) -> None:
    for name in ("b", "a", "c", "b"):
        register(store, name)
    with store.reading() as tx:
        page = tx.datasets.list(limit=2)
        rest = tx.datasets.list(limit=2, after=page.next_cursor)
    assert [(one.name, one.version) for one in page.items] == [("a", 1), ("b", 2)]
    assert [one.name for one in rest.items] == ["c"]
    assert rest.next_cursor is None


def test_uploads_at_the_same_time_get_different_versions(store: Store) -> None:
    with ThreadPoolExecutor(4) as threads:
        versions = list(threads.map(lambda _: register(store).version, range(8)))
    assert sorted(versions) == list(range(1, 9))


def test_a_version_needs_its_bytes(store: Store) -> None:
    with store.transaction() as tx:
        begun = tx.blobs.begin(3, "0" * 64)
    with pytest.raises(NotFound), store.transaction() as tx:
        tx.datasets.register_version("moons", FACTS, source={}, blob_id=begun)
    with store.reading() as tx:
        assert tx.datasets.version("moons") is None


def test_the_bytes_of_a_data_set_are_no_orphans(store: Store, clock: Clock) -> None:
    version, orphan = register(store), store.save_blob(b"left over")
    clock.forward(2 * 3600)
    with store.transaction() as tx:
        assert tx.blobs.remove_orphans() == 1
        assert tx.blobs.info(orphan) is None
    assert store.read_blob(version.blob_id) == b"arrays"


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_a_files_bytes_are_stored_as_they_are(store: Store, tmp_path: Path, size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    (tmp_path / "file").write_bytes(content)
    assert store.read_blob(store.save_file(tmp_path / "file")) == content
