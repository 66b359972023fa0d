"""Servers as processes of their own: started on given cores, awaited, looked at and stopped."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0
STOP_SECONDS = 20.0


class ServerDied(Exception):
    """A server ended, or does not answer; the message has the end of its log."""


def free_port() -> int:
    """Return a port that nobody listens on at the moment, nor on the next."""
    while True:
        with socket.socket() as probe, socket.socket() as neighbour:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            try:
                neighbour.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


@contextmanager
def on_cores(cores: set[int] | None) -> Iterator[None]:
    """Let the processes started meanwhile run on these cores only; None: on all, as on systems that cannot bind."""
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class ServerProcess:
    """A server and all processes it starts, which end with it.

    Args:
        name: for messages.
        command: what to run, in the repository's root.
        port: it will listen on.
        log: the file its output goes to.
        environment: added to this process's.
        cores: it may run on; None: all.
        restless: whether it takes processor time when idle, and so is to ``sleep`` then.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        cores: set[int] | None = None,
        restless: bool = False,
    ) -> None:
        self.name = name
        self.address = ("127.0.0.1", port)
        self._log = log
        self._restless = restless
        with on_cores(cores), log.open("wb") as output:
            self._process = subprocess.Popen(
                list(command),
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.address[0]}:{self.address[1]}"

    def wait_until_it_listens(self) -> None:
        """Wait until somebody listens on the port.

        Raises:
            ServerDied: it ended, or two minutes have passed.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.require_running()
            try:
                socket.create_connection(self.address, timeout=1.0).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise ServerDied(f"{self.name} does not listen: {self.last_lines()}") from None
                time.sleep(0.1)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let its processes run meanwhile, and sleep again afterwards."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.sleep()

    def sleep(self) -> None:
        """Stop the processes of a restless server until it is ``awake`` or ends; the others go on waiting."""
        if self._restless:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def require_running(self) -> None:
        """Raise ``ServerDied`` if it has ended."""
        if (code := self._process.poll()) is not None:
            raise ServerDied(f"{self.name} ended with {code}: {self.last_lines()}")

    def last_lines(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(errors="replace")[-2000:].strip()

    def processes(self) -> list[int]:
        """Return the ids of its processes, its own first."""
        return descendants(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        started = self.processes()
        self._signal(signal.SIGCONT)
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in started[1:]:  # what the server left behind
            if pid in descendants_of_session(self._process.pid):
                os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return a process and those it started, and those they started; on Linux, elsewhere the process alone."""
    found, place = [pid], 0
    while place < len(found):
        children = Path(f"/proc/{found[place]}/task").glob("*/children")
        for file in children:
            try:
                found.extend(map(int, file.read_text().split()))
            except OSError:
                continue
        place += 1
    return found


def descendants_of_session(session: int) -> set[int]:
    """Return the processes of a session that still run; on Linux, elsewhere none."""
    running = set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        fields = _stat_fields(file)
        if fields and int(fields[3]) == session:
            running.add(int(file.parent.name))
    return running


def resident_bytes(pid: int) -> int:
    """Return the memory a process holds; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _stat_fields(file: Path) -> list[str]:
    """Return the fields of a stat file after the name, which may hold anything."""
    try:
        return file.read_text().rpartition(")")[2].split()
    except OSError:
        return []
