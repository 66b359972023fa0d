import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete

from store.engine import create_engine_from
from store.schema_version import migrate
from store.tables import metadata
from store.unit_of_work import Store

NewDatabase = Callable[[], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def _postgres_of_the_store_tests(new_postgres_database: NewDatabase) -> Iterator[str]:
    with new_postgres_database() as url:
        migrate(url)
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a migrated, empty database: once on SQLite, once on PostgreSQL."""
    if request.param == "sqlite":
        path = tmp_path / "odeness.db"
        shutil.copy(request.getfixturevalue("_sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    # One database for all tests here: to copy one for each takes longer than the test.
    url = request.getfixturevalue("_postgres_of_the_store_tests")
    yield url
    engine = create_engine_from(url, for_migrations=True)
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(delete(table))
    engine.dispose()


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[Store]:
    """The store under test, by ``clock``: once on SQLite, once on PostgreSQL."""
    opened = Store(create_engine_from(database_url), clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def real_time_store(database_url: str) -> Iterator[Store]:
    """The store by its own clock."""
    opened = Store.connect(database_url)
    yield opened
    opened.close()


@pytest.fixture
def running(store: Store) -> tuple[str, int]:
    """Id and attempt of a claimed training job with a lease of 30 seconds."""
    with store.transaction() as tx:
        job = tx.jobs.submit("training", {"name": "digits"}, name="digits", model="digits", total=600)
        claim = tx.jobs.claim(job.id, "worker-1", 30)
    assert claim is not None
    return job.id, claim.attempt
