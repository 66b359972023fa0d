"""The container's health check of a worker: it runs, and has a process to run jobs in.

It looks at processes only. A database or a broker that is away must not make a worker look sick: an orchestrator
would kill it in the middle of a job, although it waits for both by itself and the job would have gone on.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One line of the process table."""

    pid: int
    parent: int
    arguments: list[str]


def processes() -> Iterator[Process]:
    """Yield the processes that are alive and whose arguments we may read."""
    for folder in PROC.glob("[0-9]*"):
        try:
            # "pid (name) state parent ...": a name may hold spaces and brackets.
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            arguments = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue  # it ended meanwhile
        if state != "Z":
            yield Process(int(folder.name), int(parent), arguments)


def pool_processes(table: list[Process]) -> int:
    """Return how many processes of workers stand ready to run jobs."""
    workers = {process.pid for process in table if _runs_module(process, "worker")}
    return sum(process.parent in workers and "--billiard-fork" in process.arguments for process in table)


def _runs_module(process: Process, module: str) -> bool:
    pairs = zip(process.arguments, process.arguments[1:], strict=False)
    return ("-m", module) in pairs


if __name__ == "__main__":
    sys.exit(0 if pool_processes(list(processes())) else "no worker runs here, or it has no process for jobs")
