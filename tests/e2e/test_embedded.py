"""``odeness serve``: everything on one machine, as its user starts, breaks and stops it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from api.client import Client
from tests.conftest import wait_until
from tests.e2e.main_job import (
    JOB_SECONDS,
    LONG_ITERATIONS,
    check_bad_requests,
    check_cancel,
    environment,
    long_job,
    processes_of,
    run_main_job,
    training_job,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the server's processes in /proc")


@dataclass
class EmbeddedServer:
    process: subprocess.Popen[bytes]
    data: Path
    output: Path
    url: str = ""

    def read_url(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        found = re.search(r"ready at (\S+)", self.output.read_text())
        self.url = found[1] if found else ""
        return bool(found)

    def parts(self) -> dict[int, str]:
        """All processes but the supervisor itself."""
        return processes_of(self.data)

    def part(self, what: str) -> int:
        """The oldest process whose command line has ``what``."""
        return min(pid for pid, command in self.parts().items() if what in command)

    def kill(self, what: str) -> None:
        killed = self.part(what)
        os.kill(killed, signal.SIGKILL)

        def replaced() -> bool:
            return any(what in command and pid != killed for pid, command in self.parts().items())

        wait_until(replaced, f"{what} is started again")

    def interrupt(self) -> int:
        """Press Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)


@contextmanager
def serving(data: Path, output: Path) -> Iterator[EmbeddedServer]:
    with output.open("wb") as console:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.command_line", "serve", "--port", "0", "--data", str(data)],
            env=environment(PYTHONUNBUFFERED="1"),
            stdout=console,
            stderr=console,
            start_new_session=True,
        )
    server = EmbeddedServer(process, data, output)
    try:
        wait_until(server.read_url, "the server is ready")
        yield server
    finally:
        process.kill()
        process.wait()
        wait_until(lambda: not server.parts(), "no process is left")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    folder = tmp_path_factory.mktemp("embedded")
    with serving(folder / "data", folder / "output") as running:
        yield running


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Client]:
    with Client(server.url) as connected:
        yield connected


def test_trains_tests_judges_and_predicts(client: Client) -> None:
    run_main_job(client, "spheres")


def test_trains_tests_and_predicts_on_uploaded_data(client: Client, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    np.savez(tmp_path / "blobs.npz", inputs=rng.normal(size=(120, 2)) + 4 * labels[:, None], labels=labels)

    version = client.upload_dataset("blobs", tmp_path / "blobs.npz", test_fraction=0.25)
    spec = training_job("blobs", adapted=False) | {"dataset": {"kind": "uploaded", "name": "blobs"}}
    trained = client.wait(client.submit_training(spec)["id"], timeout=JOB_SECONDS, poll_seconds=0.1)
    sweep = client.submit_evaluation(
        {"kind": "sweep", "model": "blobs", "solvers": [{"method": "euler", "steps": 2}, {"method": "rk4", "steps": 8}]}
    )
    client.wait(sweep["id"], timeout=JOB_SECONDS, poll_seconds=0.1)
    answer = client.predict("blobs", [[[-2.0, -2.0]], [[6.0, 6.0]]])

    assert trained["spec"]["dataset"]["version"] == version["version"] == 1
    assert trained["spec"]["dataset"]["facts"]["sha256"] == version["sha256"]
    assert client.result(trained["id"])["dataset_fingerprint"] == version["sha256"]
    rows = list(client.results(model="blobs", dataset="uploaded"))
    assert [row["samples"] for row in rows] == [30, 30]
    assert min(row["accuracy"] or 0 for row in rows) > 0.9
    assert [prediction["label"] for prediction in answer["predictions"]] == [0, 1]


def test_cancels_a_training_within_seconds(client: Client) -> None:
    check_cancel(client, "cancelled")


def test_refuses_what_cannot_work_with_the_remedy(client: Client) -> None:
    check_bad_requests(client)


def test_a_killed_api_is_started_again_and_requests_only_wait(server: EmbeddedServer, client: Client) -> None:
    server.kill("api.http_server")

    assert client.ready()["status"] == "ready"
    assert "the api stopped (signal 9)" in server.output.read_text()


def test_jobs_go_on_after_the_broker_was_killed(server: EmbeddedServer, client: Client) -> None:
    server.kill("-server")

    job = client.submit_training(training_job("after-the-broker", iterations=10))

    client.wait(job["id"], timeout=JOB_SECONDS, poll_seconds=0.1)


def test_a_job_goes_on_after_the_worker_was_killed(server: EmbeddedServer, client: Client) -> None:
    job_id = client.submit_training(long_job("after-the-worker"))["id"]
    wait_until(lambda: client.job(job_id)["progress"]["step"] > 20, "the training runs", JOB_SECONDS)

    server.kill("-m worker")
    job = client.wait(job_id, timeout=JOB_SECONDS, poll_seconds=0.1)

    assert job["attempt"] == 2
    points = client.metrics(job_id, "loss")["loss"]
    assert [step for step, _ in points] == list(range(1, LONG_ITERATIONS + 1))


def test_ctrl_c_stops_everything_and_the_next_start_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with serving(tmp_path / "data", tmp_path / "first") as server, Client(server.url) as client:
        job_id = client.submit_training(long_job("interrupted"))["id"]
        wait_until(lambda: client.job(job_id)["progress"]["step"] > 20, "the training runs", JOB_SECONDS)

        assert server.interrupt() == 0

        assert server.parts() == {}
        assert not (tmp_path / "data/broker.sock").exists()
        assert "Traceback" not in server.output.read_text()

    with serving(tmp_path / "data", tmp_path / "second") as server, Client(server.url) as client:
        job = client.wait(job_id, timeout=JOB_SECONDS, poll_seconds=0.1)
        kinds = [event["kind"] for event in client.events(job_id)]

        assert job["attempt"] == 2
        assert "released" in kinds
        assert "lease_expired" not in kinds
        assert [step for step, _ in client.metrics(job_id, "loss")["loss"]] == list(range(1, LONG_ITERATIONS + 1))

        # Killed without a chance to stop anything, it still leaves nothing behind.
        server.process.kill()
        wait_until(lambda: not server.parts(), "all parts have died with the supervisor")
