import threading

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from store.errors import LeaseLost, NotFound
from store.models import ModelVersion
from store.tables import model_version
from store.unit_of_work import Store, Transaction

Running = tuple[str, int]


def start(store: Store) -> tuple[str, int, str]:
    """Return a running job's id and attempt, and a blob."""
    with store.transaction() as tx:
        job_id = tx.jobs.submit("training", {}).id
        assert tx.jobs.claim(job_id, "w", 30) is not None
    return job_id, 1, store.save_blob(b"weights of " + job_id.encode(), job_id=job_id, attempt=1)


def register(tx: Transaction, name: str, job_id: str, blob_id: str) -> ModelVersion:
    return tx.models.register_version(
        name,
        job_id,
        training_spec={"name": name},
        solver={"method": "euler", "steps": 2},
        blob_id=blob_id,
        metadata={"test_accuracy": 0.95},
    )


def train(store: Store, name: str) -> ModelVersion:
    job_id, attempt, blob_id = start(store)
    with store.transaction() as tx:
        version = register(tx, name, job_id, blob_id)
        tx.jobs.succeed(job_id, attempt, {})
    return version


def test_a_trained_model_can_be_found_and_loaded(store: Store) -> None:
    made = train(store, "digits")

    with store.reading() as tx:
        assert tx.models.version("digits") == made
        assert tx.models.version("digits", 1) == made
        assert tx.models.versions_of_job(made.job_id or "") == [made]
        model = tx.models.get("digits")
    assert (made.version, made.solver) == (1, {"method": "euler", "steps": 2})
    assert model is not None
    assert model.latest_version == 1
    assert store.read_blob(made.blob_id) == b"weights of " + (made.job_id or "").encode()


def test_versions_count_up_by_name(store: Store) -> None:
    first, other, second = train(store, "digits"), train(store, "spheres"), train(store, "digits")

    assert (first.version, other.version, second.version) == (1, 1, 2)
    with store.reading() as tx:
        assert tx.models.version("digits") == second
        assert tx.models.version("digits", 1) == first
        assert tx.models.versions("digits") == [second, first]
        assert tx.models.version("digits", 3) is None


def test_what_is_not_there_is_none(store: Store) -> None:
    with store.reading() as tx:
        assert tx.models.get("digits") is None
        assert tx.models.version("digits") is None
        assert tx.models.versions("digits") == []
        assert tx.models.versions_of_job("no such job") == []


def upload(store: Store, name: str) -> ModelVersion:
    blob_id = store.save_blob(b"weights trained elsewhere")
    with store.transaction() as tx:
        return tx.models.register_upload(
            name, training_spec={"name": name}, solver={"method": "euler", "steps": 2}, blob_id=blob_id, metadata={}
        )


def test_uploaded_weights_are_a_version_without_a_job(store: Store) -> None:
    train(store, "digits")
    made = upload(store, "digits")

    assert (made.version, made.origin, made.job_id, made.parent) == (2, "upload", None, None)
    with store.reading() as tx:
        assert tx.models.version("digits") == made


def test_a_repair_shares_the_weights_of_its_parent_which_stay(store: Store) -> None:
    parent = train(store, "digits")
    with store.transaction() as tx:
        repairs = [
            tx.models.register_repair(
                parent, modified_field={"kind": "iterates"}, solver={"method": "dopri5"}, metadata={"n": number}
            )
            for number in range(2)
        ]
        tx.blobs.remove_orphans()

    assert [(one.version, one.origin, one.parent) for one in repairs] == [
        (2, "repair", ("digits", 1)),
        (3, "repair", ("digits", 1)),
    ]
    assert {one.blob_id for one in repairs} == {parent.blob_id}
    assert repairs[0].training_spec == parent.training_spec
    with store.reading() as tx:
        assert tx.models.version("digits", 2) == repairs[0]
        assert tx.models.versions_of_job(parent.job_id or "") == [parent]
    assert store.read_blob(parent.blob_id).startswith(b"weights of")


def test_a_training_that_began_with_a_version_names_it_as_its_parent(store: Store) -> None:
    first = train(store, "digits")
    job_id, attempt, blob_id = start(store)
    with store.transaction() as tx:
        tuned = tx.models.register_version(
            "tuned", job_id, training_spec={}, solver={}, blob_id=blob_id, metadata={}, parent=("digits", 1)
        )
        tx.jobs.succeed(job_id, attempt, {})

    assert first.parent is None
    assert tuned.parent == ("digits", 1)


@pytest.mark.parametrize(
    "values",
    [
        {"origin": "gift"},
        {"origin": "training"},
        {"origin": "upload", "modified_field": {"kind": "series"}},
        {"origin": "repair", "modified_field": {"kind": "series"}},
        {"origin": "repair", "parent_model": "digits", "parent_version": 1},
        {"origin": "upload", "parent_model": "digits"},
    ],
)
def test_the_database_refuses_a_version_whose_origin_lacks_what_belongs_to_it(
    store: Store, values: dict[str, object]
) -> None:
    made = upload(store, "digits")
    row = {"id": "x", "model": "digits", "version": 9, "training_spec": {}, "solver": {}, "metadata": {}}
    row |= {"blob_id": made.blob_id, "created_at": made.created_at, "run": 0}

    with pytest.raises(IntegrityError), store.engine.begin() as connection:
        connection.execute(insert(model_version).values(row | values))


def test_a_lost_lease_registers_nothing(store: Store) -> None:
    job_id, attempt, blob_id = start(store)
    with store.transaction() as tx:
        tx.jobs.release(job_id, attempt)

    def finish() -> None:
        with store.transaction() as tx:
            register(tx, "digits", job_id, blob_id)
            tx.jobs.succeed(job_id, attempt, {})

    with pytest.raises(LeaseLost):
        finish()
    with store.reading() as tx:
        assert tx.models.get("digits") is None


def test_a_job_registers_one_version(store: Store) -> None:
    job_id, _, blob_id = start(store)
    with store.transaction() as tx:
        register(tx, "digits", job_id, blob_id)
    other = store.save_blob(b"other")

    with pytest.raises(IntegrityError), store.transaction() as tx:
        register(tx, "digits", job_id, other)


def test_a_version_needs_a_complete_blob(store: Store) -> None:
    job_id, _, _ = start(store)
    with store.transaction() as tx:
        begun = tx.blobs.begin(1, "0" * 64)
    with pytest.raises(NotFound, match="no blob"), store.transaction() as tx:
        register(tx, "digits", job_id, begun)


def test_jobs_that_end_at_once_get_different_versions(store: Store) -> None:
    jobs = [start(store) for _ in range(6)]
    barrier = threading.Barrier(len(jobs))
    versions: list[int] = []

    def finish(job_id: str, attempt: int, blob_id: str) -> None:
        barrier.wait()
        with store.transaction() as tx:
            made = register(tx, "digits", job_id, blob_id)
            tx.jobs.succeed(job_id, attempt, {})
        versions.append(made.version)

    threads = [threading.Thread(target=finish, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(versions) == [1, 2, 3, 4, 5, 6]


def test_models_are_listed_by_name_a_page_at_a_time(store: Store) -> None:
    for name in ("b", "B", "a.1", "a", "a-1", "c"):
        train(store, name)
    with store.reading() as tx:
        first = tx.models.list(limit=4)
        second = tx.models.list(limit=4, after=first.next_cursor)

    names = [model.name for model in first.items + second.items]
    assert names == sorted(["b", "B", "a.1", "a", "a-1", "c"])  # by code point, on both databases
    assert first.has_more
    assert not second.has_more
