import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ode_core.specs import TrainingJobSpec
from store.jobs import Job
from store.schema_version import migrate
from store.settings import Settings
from store.unit_of_work import Store


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread() -> Iterator[None]:
    """Small tensors: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "odeness.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def settings(tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    shutil.copy(migrated_database, tmp_path / "odeness.db")
    return Settings(data_dir=tmp_path, lease_seconds=3, heartbeat_seconds=0.05, device="cpu")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store.connect(settings.database)
    yield store
    store.close()


@pytest.fixture
def submit(store: Store) -> Callable[[TrainingJobSpec], str]:
    """Accept a training job as the API does; return its id."""

    def submit_job(spec: TrainingJobSpec) -> str:
        with store.transaction() as tx:
            return tx.jobs.submit(
                "training",
                spec.model_dump(mode="json"),
                name=spec.name,
                model=spec.name,
                total=spec.training.iterations,
            ).id

    return submit_job


@pytest.fixture
def job(store: Store) -> Callable[[str], Job]:
    """Read a job."""

    def read_job(job_id: str) -> Job:
        with store.reading() as tx:
            return tx.jobs.require(job_id)

    return read_job
