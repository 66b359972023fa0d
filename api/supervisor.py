"""The embedded mode: one process that starts broker, worker and API, restarts what dies and stops them in order."""

import logging
import logging.handlers
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import httpx

from api.authentication import require_key_for_public_bind
from api.data_folder import DataFolder
from api.database_setup import migrate_database
from api.embedded_broker import EmbeddedBroker, prepare_broker
from api.http_server import listen, url_of
from api.tied_process import start_tied
from store.settings import Settings

Say = Callable[[str], None]

POLL_SECONDS = 0.1
STEADY_SECONDS = 30.0  # a process that ran this long is started again at once
FIRST_DELAY, LONGEST_DELAY = 0.25, 15.0
STARTS_BEFORE_GIVING_UP = 4  # until the server has been ready once
BROKER_START_SECONDS = 10.0
STOP_SECONDS = {"api": 10.0, "worker": 30.0, "broker": 5.0}
LOG_BYTES, LOG_FILES = 10_000_000, 3
READ_SECONDS = 0.02  # between two looks at what a part has written; a pipe holds more than it writes meanwhile
LAST_LINES = 8  # of a part's log, told where it does not start

_ERROR_MARKS = (" ERROR ", " CRITICAL ")


class CannotStart(Exception):
    """The server does not come up; the message says why."""


class Part:
    """One of the server's processes, with its log.

    Args:
        name: for messages and the log's name.
        command: how to start it.
        environment: its whole environment.
        log: the file its output goes to.
        say: called with lines for people.
        pass_fds: file descriptors it inherits.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        log: Path,
        say: Say,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        self.log = log
        self.starts = 0  # in a row, none of which lasted
        self._command = command
        self._environment = environment
        self._say = say
        self._pass_fds = pass_fds
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._started_at = 0.0
        self._start_again_at = 0.0
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)

    def start(self) -> None:
        """Start the process; must be called in the main thread, which the process is tied to."""
        self.starts += 1
        self._started_at = time.monotonic()
        self._process = start_tied(self._command, environment=self._environment, pass_fds=self._pass_fds)
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=self._keep_output, args=(self._process.stdout,), name=f"{self.name}-log", daemon=True
        )
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start_again_if_dead(self) -> None:
        """Start the process again, after a pause that grows while it keeps dying."""
        if self.running:
            return
        now = time.monotonic()
        if self._process is not None:
            if now - self._started_at >= STEADY_SECONDS:
                self.starts = 0
            delay = 0.0 if self.starts == 0 else min(FIRST_DELAY * 2 ** (self.starts - 1), LONGEST_DELAY)
            self._say(f"the {self.name} stopped ({self._forget_process()}); starting it again; its log: {self.log}")
            self._start_again_at = now + delay
        if now >= self._start_again_at:
            self.start()

    def stop(self, seconds: float, forced: threading.Event) -> None:
        """Ask the process to stop; kill it after ``seconds``, or when ``forced`` is set."""
        if self._process is None:
            return
        self._process.terminate()
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline and not forced.is_set():
            forced.wait(POLL_SECONDS / 2)
        if self.running and not forced.is_set():
            self._say(f"the {self.name} does not stop: killing it")
        self._forget_process()

    def last_lines(self) -> str:
        """Return the end of its log."""
        if self._reader is not None:
            self._reader.join(1)
        return "\n".join(f"  {line}" for line in list(self._last_lines))

    def _forget_process(self) -> str:
        """Kill what is left of the process and its children; return how it ended."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        if self._reader is not None:
            self._reader.join(1)
        self._process = None
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    def _keep_output(self, output: IO[bytes]) -> None:
        log = logging.handlers.RotatingFileHandler(
            self.log, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8"
        )
        rest = b""
        with output:
            while chunk := os.read(output.fileno(), 2**16):
                # As many lines at once as have come: a busy server writes thousands a second, on the same cores.
                whole, newline, rest = (rest + chunk).rpartition(b"\n")
                if newline:
                    self._keep_lines(log, whole)
                time.sleep(READ_SECONDS)
            if rest:
                self._keep_lines(log, rest)
        log.close()

    def _keep_lines(self, log: logging.Handler, raw: bytes) -> None:
        text = raw.decode(errors="replace")
        lines = [line.rstrip() for line in text.split("\n")]
        self._last_lines.extend(lines[-LAST_LINES:])
        log.emit(logging.makeLogRecord({"msg": "\n".join(lines)}))
        if any(mark in text for mark in _ERROR_MARKS):
            for line in lines:
                if any(mark in line for mark in _ERROR_MARKS):
                    self._say(f"{self.name}: {line}")


class Supervisor:
    """Keeps the server's parts running until it is asked to stop.

    Args:
        parts: in the order of starting; they are stopped in the opposite one.
        url: where the API will answer.
        say: called with lines for people.
        broker: the embedded broker, if that is one of the parts.
    """

    def __init__(self, parts: Sequence[Part], url: str, say: Say, broker: EmbeddedBroker | None = None) -> None:
        self._parts = parts
        self._url = url
        self._say = say
        self._broker = broker
        self._stop_asked = threading.Event()
        self._forced = threading.Event()

    def run(self) -> None:
        """Start everything, say when it is ready, and return when it has stopped.

        Raises:
            CannotStart: a part does not come up at all.
        """
        with self._signals():
            try:
                self._start()
                ready = False
                while not self._stop_asked.is_set():
                    for part in self._parts:
                        part.start_again_if_dead()
                        if not ready and part.starts > STARTS_BEFORE_GIVING_UP:
                            raise CannotStart(
                                f"the {part.name} does not start; the end of its log:\n{part.last_lines()}"
                            )
                    if not ready and self._is_ready():
                        ready = True
                        self._say(f"odeness is ready at {self._url}")
                    self._stop_asked.wait(POLL_SECONDS)
                self._say("stopping; once more to stop at once")
            finally:
                for part in reversed(self._parts):
                    part.stop(STOP_SECONDS.get(part.name, 10.0), self._forced)
                if self._broker is not None:
                    self._broker.remove()

    def _start(self) -> None:
        for part in self._parts:
            part.start()
            if part.name == "broker":
                self._wait_for_broker(part)

    def _wait_for_broker(self, part: Part) -> None:
        assert self._broker is not None
        deadline = time.monotonic() + BROKER_START_SECONDS
        while not self._broker.answers():
            if not part.running or time.monotonic() > deadline:
                raise CannotStart(f"the broker {self._broker.program} does not start:\n{part.last_lines()}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            # A proxy of the environment is not for this machine's own addresses.
            return httpx.get(f"{self._url}/readyz", timeout=1, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def ask(number: int, frame: object) -> None:
            if self._stop_asked.is_set() and number != signal.SIGHUP:
                self._forced.set()
            self._stop_asked.set()

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_embedded(settings: Settings, say: Say) -> None:
    """Run the whole server until it is asked to stop.

    Raises:
        DataFolderUnavailable, PortUnavailable, PublicBindWithoutKey, DatabaseUnavailable,
        NoBrokerProgram, CannotStart: before or while it starts; each message says what to do.
    """
    require_key_for_public_bind(settings.host, settings)
    with DataFolder(settings.data_dir) as folder, listen(settings.host, settings.port) as listener:
        migrate_database(settings)
        broker = prepare_broker(settings.broker_socket) if settings.broker_url is None else None
        parts = _parts(settings, folder, listener, broker, say)
        Supervisor(parts, url_of(listener), say, broker).run()


def _parts(
    settings: Settings, folder: DataFolder, listener: socket.socket, broker: EmbeddedBroker | None, say: Say
) -> list[Part]:
    environment = _environment(settings, folder, None if broker is None else broker.url)

    def part(name: str, command: list[str], pass_fds: tuple[int, ...] = ()) -> Part:
        return Part(name, command, environment, folder.logs / f"{name}.log", say, pass_fds)

    descriptor = listener.fileno()
    serve = [sys.executable, "-m", "api.http_server", str(descriptor), settings.log_level, settings.log_format]
    return [
        *([] if broker is None else [part("broker", broker.command)]),
        part("worker", [sys.executable, "-m", "worker"]),
        # The listening socket is ours and stays open while the API is restarted: requests wait
        # instead of being refused.
        part("api", serve, (descriptor,)),
    ]


def _environment(settings: Settings, folder: DataFolder, broker_url: str | None) -> dict[str, str]:
    environment = os.environ | {
        "ODENESS_DATA_DIR": str(folder.path),
        "ODENESS_HOST": settings.host,
        "ODENESS_PORT": str(settings.port),
        "PYTHONUNBUFFERED": "1",
    }
    if broker_url is not None:
        environment["ODENESS_BROKER_URL"] = broker_url
    if "worker_processes" not in settings.model_fields_set:
        environment["ODENESS_WORKER_PROCESSES"] = str(embedded_worker_processes())
    return environment


def embedded_worker_processes() -> int:
    """Return how many jobs the embedded worker runs at once: two where there are two cores.

    On a machine that is also in use, two jobs with one thread each are faster than one after the other with
    two: as soon as anything else wants a core, torch's threads wait for each other (measured: ten times slower).
    """
    # Not every system tells which cores a process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 if cores >= 2 else 1
