from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.service import Service, running_service


@pytest.fixture
def sqlite_service(tmp_path: Path) -> Iterator[Service]:
    """The service on SQLite."""
    with running_service(f"sqlite:///{tmp_path}/odeness.db", tmp_path) as service:
        yield service


@pytest.fixture(scope="module")
def lasting_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service on SQLite with one worker, for tests that leave it alive."""
    folder = tmp_path_factory.mktemp("lasting")
    with running_service(f"sqlite:///{folder}/odeness.db", folder) as service:
        service.start_worker()
        yield service


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[Service]:
    """The service on SQLite and on PostgreSQL."""
    with running_service(database_url, tmp_path) as service:
        yield service
