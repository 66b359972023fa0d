"""API and two workers as processes of their own, on PostgreSQL and Redis."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from api.client import Client, ProblemError, ServerUnreachable
from tests.conftest import wait_until
from tests.e2e.main_job import (
    JOB_SECONDS,
    check_bad_requests,
    check_cancel,
    environment,
    run_main_job,
    training_job,
)

API_KEY = "a key for this test"


@dataclass
class Deployment:
    url: str
    settings: dict[str, str]
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "api.command_line", *arguments],
                env=environment(**self.settings),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def run_to_its_end(self, name: str, *arguments: str) -> None:
        self.start(name, *arguments)
        assert self.processes.pop(name).wait(timeout=60) == 0, self.log(name)

    def stop(self) -> dict[str, int]:
        """Stop everything as an orchestrator does; return the exit statuses."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        statuses = {}
        for name, process in self.processes.items():
            try:
                statuses[name] = process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return statuses


@pytest.fixture
def deployment(postgres_url: str, redis_url: str, tmp_path: Path) -> Iterator[Deployment]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "ODENESS_DATABASE_URL": postgres_url,
        "ODENESS_BROKER_URL": redis_url,
        "ODENESS_API_KEY": API_KEY,
        "ODENESS_DATA_DIR": str(tmp_path),
    }
    running = Deployment(f"http://127.0.0.1:{port}", settings, tmp_path)
    try:
        running.run_to_its_end("migrate", "migrate")
        # All addresses, as in a container: allowed because there is a key.
        running.start("api", "api", "--host", "0.0.0.0", "--port", str(port))
        for name in ("worker-1", "worker-2"):
            running.start(name, "worker")
        yield running
    finally:
        for process in running.processes.values():
            process.kill()
            process.wait()


def test_the_main_job_runs_and_both_workers_take_part(deployment: Deployment) -> None:
    with Client(deployment.url, API_KEY, patience=0) as client:

        def ready() -> bool:
            assert deployment.processes["api"].poll() is None, deployment.log("api")
            try:
                return client.ready() == {"status": "ready", "database": "ok", "broker": "ok"}
            except (ServerUnreachable, ProblemError):
                return False

        wait_until(ready, "the API is ready")
        with Client(deployment.url) as stranger, pytest.raises(ProblemError, match="API key"):
            list(stranger.jobs())

        run_main_job(client, "spheres")
        check_cancel(client, "cancelled")
        check_bad_requests(client)
        assert len(set(workers_of_jobs_at_once(client, 2))) == 2

    assert deployment.stop() == {"api": 0, "worker-1": 0, "worker-2": 0}


def workers_of_jobs_at_once(client: Client, count: int) -> list[str]:
    """Run so many endless trainings at the same time; return who runs them, and cancel them."""
    jobs = [
        client.submit_training(training_job(f"endless-{number}", iterations=1_000_000, adapted=False))["id"]
        for number in range(count)
    ]

    def all_run() -> bool:
        return all(client.job(job_id)["progress"]["step"] > 0 for job_id in jobs)

    wait_until(all_run, f"{count} trainings run at once", JOB_SECONDS)
    started = [event for job_id in jobs for event in client.events(job_id) if event["kind"] == "started"]
    for job_id in jobs:
        client.cancel(job_id)
    for job_id in jobs:
        wait_until(lambda job_id=job_id: client.job(job_id)["status"] == "cancelled", "the training is cancelled")
    return [event["data"]["worker"] for event in started]
