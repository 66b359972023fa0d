import pytest

from store.errors import LeaseLost
from store.models import ModelVersion
from store.unit_of_work import Store
from tests.store.conftest import Clock


@pytest.fixture
def version(store: Store, running: tuple[str, int]) -> ModelVersion:
    job_id, attempt = running
    blob = store.save_blob(b"weights", job_id=job_id, attempt=attempt)
    with store.transaction() as tx:
        version = tx.models.register_version("m", job_id, training_spec={}, solver={}, blob_id=blob, metadata={})
        tx.jobs.succeed(job_id, attempt, {})
    return version


def audit(store: Store) -> tuple[str, int]:
    """Begin an audit; return its id and attempt."""
    with store.transaction() as tx:
        job = tx.jobs.submit("audit", {}, model="m", model_version=1)
        claimed = tx.jobs.claim(job.id, "worker-1", 30)
    assert claimed is not None
    return job.id, claimed.attempt


def test_a_version_has_no_choice_before_an_audit(store: Store, version: ModelVersion) -> None:
    with store.reading() as tx:
        assert tx.solver_choices.of_version(version.id) is None


def test_the_choice_of_a_later_audit_takes_the_place_of_the_earlier_one(
    store: Store, version: ModelVersion, clock: Clock
) -> None:
    for samples in (10, 20):
        job_id, attempt = audit(store)
        clock.forward(1)
        with store.transaction() as tx:
            tx.solver_choices.replace_for_version(version.id, job_id, attempt, {"samples": samples})
            tx.jobs.succeed(job_id, attempt, {})

    with store.reading() as tx:
        found = tx.solver_choices.of_version(version.id)
    assert found is not None
    assert (found.job_id, found.choice, found.created_at) == (job_id, {"samples": 20}, clock.now)


def test_an_audit_that_lost_its_lease_changes_no_choice(store: Store, version: ModelVersion) -> None:
    job_id, attempt = audit(store)

    with pytest.raises(LeaseLost), store.transaction() as tx:
        tx.solver_choices.replace_for_version(version.id, job_id, attempt + 1, {"samples": 20})

    with store.reading() as tx:
        assert tx.solver_choices.of_version(version.id) is None
