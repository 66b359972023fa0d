"""The demo's own server: ``odeness serve`` as a process, on a free port."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from api.tied_process import start_tied

START_SECONDS = 60.0
STOP_SECONDS = 45.0

# The demo trains in a folder of its own, whatever server the environment names.
_NOT_INHERITED = tuple(
    f"ODENESS_{name}{suffix}" for name in ("DATABASE_URL", "BROKER_URL", "API_KEY") for suffix in ("", "_FILE")
)

_READY = re.compile(r"ready at (\S+)")


class ServerDidNotStart(Exception):
    """The message has what the server said."""


@contextmanager
def own_server(data: Path) -> Iterator[str]:
    """Start a server with its data in ``data``, yield its URL, and stop it.

    Raises:
        ServerDidNotStart: it ended, or was not ready in time.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    command = [sys.executable, "-m", "api.command_line", "serve", "--port", "0", "--host", "127.0.0.1"]
    process = start_tied([*command, "--data", str(data)], environment=environment, end_with=signal.SIGTERM)
    assert process.stdout is not None
    lines: deque[str] = deque(maxlen=20)
    url: list[str] = []
    ready = threading.Event()  # or ended
    reader = threading.Thread(target=_read, args=(process.stdout, lines, url, ready), daemon=True)
    reader.start()
    try:
        if not ready.wait(START_SECONDS) or not url:
            said = "\n".join(lines).removeprefix("odeness: ") or f"it was not ready within {START_SECONDS:.0f} seconds"
            raise ServerDidNotStart(f"the demo's server did not start: {said}")
        yield url[0]
    finally:
        _stop(process)
        reader.join(1)


def _read(output: IO[bytes], lines: deque[str], url: list[str], ready: threading.Event) -> None:
    with output:
        for raw in output:
            line = raw.decode(errors="replace").rstrip()
            lines.append(line)
            if found := _READY.search(line):
                url.append(found[1])
                ready.set()
    ready.set()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    try:
        process.wait(deadline - time.monotonic())
    except subprocess.TimeoutExpired:
        process.kill()  # its own processes are tied to it
        process.wait()
