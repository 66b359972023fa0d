"""deploy/worker_health.py, against a real worker."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from store.schema_version import migrate
from tests.deployment.image import ROOT, plain_environment

DEADLINE_SECONDS = 90.0


@pytest.fixture(scope="module")
def health() -> ModuleType:
    spec = importlib.util.spec_from_file_location("worker_health", ROOT / "deploy" / "worker_health.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its own module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _wait(condition: Callable[[], bool], worker: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert worker.poll() in (None, -signal.SIGKILL), log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def test_a_worker_is_healthy_from_its_first_pool_process_until_it_is_killed(
    health: ModuleType, redis_url: str, tmp_path: Path
) -> None:
    environment = {"ODENESS_DATA_DIR": str(tmp_path), "ODENESS_BROKER_URL": redis_url, "ODENESS_TORCH_THREADS": "1"}
    migrate(f"sqlite:///{tmp_path}/odeness.db")
    log = tmp_path / "log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker"],
            cwd=ROOT,
            env=plain_environment() | environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def healthy() -> bool:
        # Other tests may run workers of their own beside this one.
        ours = [process for process in health.processes() if worker.pid in (process.pid, process.parent)]
        return bool(health.pool_processes(ours))

    try:
        _wait(healthy, worker, log)
        said = subprocess.run([sys.executable, ROOT / "deploy" / "worker_health.py"], check=False)
        assert said.returncode == 0

        os.killpg(worker.pid, signal.SIGKILL)
        _wait(lambda: not healthy(), worker, log)
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def test_a_process_that_only_mentions_the_worker_is_not_one(health: ModuleType) -> None:
    table = [
        health.Process(1, 0, ["tini", "--", "odeness", "worker"]),
        health.Process(2, 1, ["vi", "worker"]),
        health.Process(3, 2, ["python", "-c", "spawn_main()", "--billiard-fork"]),
    ]

    assert health.pool_processes(table) == 0


def test_a_worker_without_a_process_for_jobs_is_not_healthy(health: ModuleType) -> None:
    parent = health.Process(7, 1, ["python", "-m", "worker", ""])
    child = health.Process(8, 7, ["python", "-c", "spawn_main()", "--billiard-fork", ""])

    assert health.pool_processes([parent]) == 0
    assert health.pool_processes([parent, child]) == 1
