"""Starts processes that end with the process that started them, even if that one is killed.

On Linux the kernel sees to it (``PR_SET_PDEATHSIG``). Elsewhere a parent that ends in order stops
them itself, and one that is killed leaves them behind.

This file is also the launcher: it ties itself to its parent and then becomes the command. A launcher,
because ``preexec_fn`` may deadlock in a program with threads. It runs without site packages, so it
must import nothing but the standard library.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

_PR_SET_PDEATHSIG = 1


def start_tied(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    end_with: signal.Signals = signal.SIGKILL,
    output: int | IO[Any] = subprocess.PIPE,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own, tied to the calling thread.

    The kernel watches the thread, not the process: call it in a thread that lives to the end. The
    session keeps a Ctrl-C on the terminal from the command; the caller decides who stops when.

    Args:
        command: program and arguments.
        environment: the whole environment; None: the caller's.
        end_with: what the command is sent when the caller dies.
        output: where standard output and standard error go.
        pass_fds: file descriptors the command inherits.
    """
    launcher = [sys.executable, "-I", "-S", __file__, str(int(end_with)), str(os.getpid())]
    return subprocess.Popen(
        [*launcher, *command],
        env=None if environment is None else dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=pass_fds,
        umask=0o077,  # a broker's socket, a database, logs: nobody else's business
    )


def _become(end_with: int, parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, end_with, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was asked
            sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606  # no shell
    except OSError as error:
        sys.exit(f"cannot start {command[0]}: {error.strerror}")


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
