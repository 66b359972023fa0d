"""The metrics of a server with several processes, of which any may be asked and any may die."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from api.process_metrics import ProcessMetrics
from tests.conftest import wait_until

GONE = (2_000_000_001, 2_000_000_002, 2_000_000_003, 2_000_000_004)  # no process has such a number

REQUESTS = 'odeness_http_requests_total{method="GET",route="/healthz",status="200"}'


@dataclass
class Processes:
    """A server of two processes."""

    url: str
    parent: "subprocess.Popen[bytes]"
    folder: Path

    def get(self, path: str) -> httpx.Response:
        """Ask on a connection of its own, which either process may take."""
        return httpx.get(self.url + path, timeout=30, trust_env=False)

    def ready(self) -> bool:
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def measuring(self) -> set[int]:
        """Return the processes with files of their own."""
        found = (re.fullmatch(r"counter_([0-9]+)\.db", path.name) for path in self.folder.iterdir())
        return {int(one[1]) for one in found if one}

    def counted(self) -> float | None:
        lines = self.get("/metrics").text.splitlines()
        values = [line.rpartition(" ")[2] for line in lines if line.startswith(REQUESTS)]
        return float(values[0]) if values else None


@pytest.fixture
def processes(sqlite_database: str, tmp_path: Path) -> Iterator[Processes]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = os.environ | {
        "ODENESS_DATABASE_URL": sqlite_database,
        "ODENESS_DATA_DIR": str(tmp_path),
        "ODENESS_LOG_LEVEL": "warning",
        "ODENESS_API_PROCESSES": "2",
        "TMPDIR": str(temporary),
    }
    command = [sys.executable, "-m", "api.command_line", "api", "--port", str(port)]
    parent = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        wait_until(lambda: any(temporary.glob("odeness-metrics-*")), "the folder is there")
        (folder,) = temporary.glob("odeness-metrics-*")
        running = Processes(f"http://127.0.0.1:{port}", parent, folder)
        wait_until(lambda: running.ready() and len(running.measuring()) == 2, "both processes have started")
        yield running
        parent.terminate()
        assert parent.wait(30) == 0
        assert not folder.exists()
    finally:
        if parent.poll() is None:
            os.killpg(parent.pid, signal.SIGKILL)
            parent.wait()


def test_any_process_tells_what_all_have_counted_and_nothing_is_lost_when_one_dies(processes: Processes) -> None:
    one, other = sorted(processes.measuring())
    # While one stands still the other takes all requests. It goes on before the server gives it up, after 5 seconds.
    for still in (one, other):
        os.kill(still, signal.SIGSTOP)
        try:
            for _ in range(3):
                assert processes.get("/healthz").status_code == 200
        finally:
            os.kill(still, signal.SIGCONT)
    wait_until(lambda: processes.counted() == 6, "the last is counted, which happens behind its answer")
    assert [processes.counted() for _ in range(6)] == [6.0] * 6

    os.kill(one, signal.SIGKILL)
    wait_until(
        lambda: len(processes.measuring()) == 2 and one not in processes.measuring(), "another process has replaced it"
    )
    wait_until(processes.ready, "it serves")
    assert processes.counted() == 6
    processes.get("/healthz")
    wait_until(lambda: processes.counted() == 7, "it is counted")
    assert [processes.counted() for _ in range(6)] == [7.0] * 6
    assert {path.name for path in processes.folder.glob("*dead*")} == {"counter_dead.db", "histogram_dead.db"}
    assert 'odeness_jobs{status="queued"} 0.0' in processes.get("/metrics").text


class Killed(Exception):
    """Stands for the end of a process."""


def leave(folder: Path, process: int, value: float) -> None:
    """Leave a counter and a gauge as a process that died."""
    for kind, name in (("counter", "done_total"), ("gauge_livesum", "running")):
        file = MmapedDict(str(folder / f"{kind}_{process}.db"))  # type: ignore[no-untyped-call]
        file.write_value(mmap_key(name.removesuffix("_total"), name, [], [], "help"), value, 0.0)  # type: ignore[no-untyped-call]
        file.close()  # type: ignore[no-untyped-call]


def total(folder: Path) -> float:
    text = ProcessMetrics(folder).exposition([]).decode()
    return float(re.findall(r"^done_total (.*)$", text, re.MULTILINE)[0])


@pytest.mark.parametrize("killed_at", range(16))
def test_a_process_that_dies_over_the_counts_of_the_dead_loses_and_doubles_nothing(
    killed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, GONE[0], 1.0)
    ProcessMetrics(tmp_path).take_over_from_the_dead()
    leave(tmp_path, GONE[1], 10.0)
    leave(tmp_path, GONE[2], 100.0)
    done = 0

    def dying(method: Any) -> Any:
        def change(path: Path, *arguments: Any, **options: Any) -> Any:
            nonlocal done
            if done == killed_at:
                raise Killed
            done += 1
            return method(path, *arguments, **options)

        return change

    with monkeypatch.context() as while_dying:
        for name in ("rename", "replace", "unlink", "write_text"):
            while_dying.setattr(Path, name, dying(getattr(Path, name)))
        with suppress(Killed):
            ProcessMetrics(tmp_path).take_over_from_the_dead()
    assert total(tmp_path) == 111.0
    leave(tmp_path, GONE[3], 1000.0)
    ProcessMetrics(tmp_path).take_over_from_the_dead()
    assert total(tmp_path) == 1111.0
    assert {path.name for path in tmp_path.iterdir()} == {"counter_dead.db", "lock"}


def test_a_file_that_a_process_had_no_time_to_write_to_stops_no_start(tmp_path: Path) -> None:
    leave(tmp_path, GONE[0], 1.0)
    (tmp_path / f"counter_{GONE[1]}.db").touch()
    ProcessMetrics(tmp_path).take_over_from_the_dead()
    assert total(tmp_path) == 1.0
    assert {path.name for path in tmp_path.iterdir()} == {"counter_dead.db", "lock"}


def run_create_app(folder: Path) -> "subprocess.CompletedProcess[str]":
    program = "import api.app\nfrom store.settings import Settings\napi.app.create_app(Settings.load())"
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)


def test_a_folder_for_measurements_that_is_missing_is_made_or_the_start_is_refused(tmp_path: Path) -> None:
    made = run_create_app(tmp_path / "a" / "b")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    refused = run_create_app(tmp_path / "file")
    assert "PROMETHEUS_MULTIPROC_DIR names" in refused.stderr
    assert "name one that this process may write to, or leave the variable out" in refused.stderr
