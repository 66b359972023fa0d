"""A real server on a real database for each test."""

import contextlib
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.http_protocol import BoundedHttpProtocol
from ode_core.specs import TrainingJobSpec
from store.jobs import Job
from store.models import ModelVersion
from store.settings import Settings
from store.unit_of_work import Store
from tests.conftest import _postgres_database, wait_until

DIGITS_JOB: dict[str, Any] = {
    "name": "tiny",
    "dataset": {"kind": "digits"},
    "model": {"kind": "classifier", "field": {"kind": "conv2d", "channels": 2}},
    "solver": {"method": "euler", "steps": 2},
    "training": {"iterations": 5, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.001, "seed": 0},
    "adaptation": None,
    "gradient": "backprop",
}

SPHERES_JOB: dict[str, Any] = {
    "name": "spheres",
    "dataset": {"kind": "concentric_spheres", "dimension": 2},
    "model": {"kind": "classifier", "field": {"kind": "conv1d", "channels": 4}},
    "solver": {"method": "euler", "steps": 2},
}


@dataclass
class Served:
    """A running server."""

    app: FastAPI
    url: str
    settings: Settings
    store: Store

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, **options)


@contextlib.contextmanager
def serve(settings: Settings, *, app: FastAPI | None = None, graceful_seconds: int = 5) -> Iterator[Served]:
    """Run the application under uvicorn, on a port of its own."""
    app = app or create_app(settings)
    config = uvicorn.Config(
        app,
        http=BoundedHttpProtocol,
        log_config=None,
        timeout_graceful_shutdown=graceful_seconds,
        lifespan="on",
    )
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="uvicorn")
        thread.start()
        store = Store.connect(settings.database)
        try:
            wait_until(lambda: server.started or not thread.is_alive(), "the server has started")
            assert server.started, "the server did not start"
            yield Served(app, f"http://127.0.0.1:{listening.getsockname()[1]}", settings, store)
        finally:
            server.should_exit = True
            thread.join(30)
            store.close()
            assert not thread.is_alive(), "the server does not stop"


@pytest.fixture
def sqlite_database(tmp_path: Path, _sqlite_template: Path) -> str:
    """URL of a migrated, empty SQLite database."""
    path = tmp_path / "api.db"
    shutil.copy(_sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def make_settings(tmp_path: Path, sqlite_database: str) -> Callable[..., Settings]:
    """Settings with SQLite and, unless one is given, a broker that is away."""

    def make(**overrides: Any) -> Settings:
        values: dict[str, Any] = {"data_dir": tmp_path / "data", "database_url": sqlite_database, "torch_threads": 1}
        return Settings.load(**values | overrides)

    return make


@pytest.fixture
def served(make_settings: Callable[..., Settings]) -> Iterator[Served]:
    """A server on SQLite."""
    with serve(make_settings()) as running:
        yield running


@pytest.fixture
def served_on_both(database_url: str, make_settings: Callable[..., Settings]) -> Iterator[Served]:
    """A server, once on SQLite and once on PostgreSQL."""
    with serve(make_settings(database_url=database_url)) as running:
        yield running


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    """A client of a server on SQLite."""
    with served.client() as connected:
        yield connected


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def refusing_client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server with the models ``tiny`` and ``spheres``, for tests that change nothing."""
    folder = tmp_path_factory.mktemp("refusing")
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            shutil.copy(request.getfixturevalue("_sqlite_template"), folder / "api.db")
            url = f"sqlite:///{folder / 'api.db'}"
        else:
            template = request.getfixturevalue("_postgres_template")
            server_url = request.getfixturevalue("postgres_server_url")
            database = stack.enter_context(_postgres_database(server_url, template.database))
            url = database.render_as_string(hide_password=False)
        served = stack.enter_context(serve(Settings.load(data_dir=folder, database_url=url, torch_threads=1)))
        train(served.store)
        train(served.store, SPHERES_JOB)
        yield stack.enter_context(served.client())


def submit(store: Store, document: dict[str, Any] = DIGITS_JOB) -> Job:
    """Store a training job as the API would."""
    spec = TrainingJobSpec.model_validate(document)
    with store.transaction() as tx:
        return tx.jobs.submit(
            "training", spec.model_dump(mode="json"), name=spec.name, model=spec.name, total=spec.training.iterations
        )


def claim(store: Store, job: Job) -> int:
    """Claim a job as a worker would; return the attempt."""
    with store.transaction() as tx:
        claimed = tx.jobs.claim(job.id, "a test", 60)
    assert claimed is not None
    return claimed.attempt


def train(
    store: Store,
    document: dict[str, Any] = DIGITS_JOB,
    *,
    metadata: dict[str, Any] | None = None,
    metrics: dict[str, list[tuple[int, float]]] | None = None,
) -> ModelVersion:
    """Register an untrained model's weights as the version a training job made."""
    from ode_core.models.classifier import build_model
    from ode_core.models.weights import weights_to_bytes

    spec = TrainingJobSpec.model_validate(document)
    job = submit(store, document)
    attempt = claim(store, job)
    blob_id = store.save_blob(weights_to_bytes(build_model(spec)), job_id=job.id, attempt=attempt)
    with store.transaction() as tx:
        tx.metrics.append(job.id, attempt, metrics or {})
        version = tx.models.register_version(
            spec.name,
            job.id,
            training_spec=job.spec,
            solver=spec.solver.model_dump(mode="json", exclude_none=True),
            blob_id=blob_id,
            metadata=metadata or {"test_accuracy": 0.5},
        )
        result = {"model": spec.name, "version": version.version, "solver": version.solver, "accuracy": 0.5}
        tx.jobs.succeed(job.id, attempt, result)
    return version


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is a well-formed problem; return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert set(document) == {"type", "title", "status", "detail", "code", "request_id", "errors"}
    assert (document["status"], document["code"]) == (status, code)
    assert document["type"] == f"urn:odeness:problem:{code}"
    assert document["request_id"] == response.headers["x-request-id"]
    assert document["detail"]
    return document
