"""What the application is made of, and when."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from api.app import create_app
from store.errors import SchemaNotAtHead
from store.settings import Settings
from tests.api.conftest import Served, serve, train
from tests.api.test_predictions import DIGIT, predict

ROOT = Path(__file__).parents[2]


def run_python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_making_the_application_loads_neither_torch_nor_the_worker_and_touches_no_file(tmp_path: Path) -> None:
    program = f"""
import sys
import api.app
from store.settings import Settings
from pathlib import Path
folder = Path({str(tmp_path / "data")!r})
app = api.app.create_app(Settings.load(data_dir=folder))
app.openapi()
loaded = [name for name in ("torch", "worker", "sklearn", "scipy") if name in sys.modules]
print(loaded, folder.exists())
"""
    assert run_python(program) == "[] False"


def test_a_database_that_is_not_migrated_is_not_served(tmp_path: Path) -> None:
    app = create_app(Settings.load(data_dir=tmp_path))

    async def start() -> None:
        async with app.router.lifespan_context(app):
            pytest.fail("the application started")

    with pytest.raises(SchemaNotAtHead, match="odeness migrate"):
        asyncio.run(start())
    assert not {"doorbell", "reconciler"} & {thread.name for thread in threading.enumerate()}


def test_stopping_ends_all_threads_and_connections(make_settings: Callable[..., Settings]) -> None:
    with serve(make_settings()) as served, served.client() as client:
        train(served.store)
        assert predict(client, [DIGIT]).status_code == 200
        services = served.app.state.services
    names = {thread.name for thread in threading.enumerate()}
    assert not [name for name in names if name.startswith(("inference", "reconciler", "doorbell"))]
    assert services.store.engine.pool.checkedin() == 0


def test_two_applications_in_one_process_do_not_share_measurements(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    with serve(settings) as one, serve(settings) as other, one.client() as first, other.client() as second:
        first.get("/v1/jobs")
        assert 'route="/v1/jobs"' in first.get("/metrics").text
        assert 'route="/v1/jobs"' not in second.get("/metrics").text


def test_a_restart_finds_everything_as_it_was(served: Served) -> None:
    train(served.store)
    with served.client() as client:
        before = client.get("/v1/models/tiny").json()
    with serve(served.settings) as again, again.client() as client:
        assert client.get("/v1/models/tiny").json() == before
