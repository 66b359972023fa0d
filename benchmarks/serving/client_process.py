"""The side of the load client's process from which it is asked."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.serving.latency import LoadFigures
from benchmarks.serving.load import Address
from benchmarks.serving.protocols import Endpoint
from benchmarks.serving.server_process import ROOT, on_cores


@dataclass(frozen=True)
class Load:
    """Rows in each request, and connections that each have one request under way."""

    rows: int
    connections: int

    def __str__(self) -> str:
        return f"{self.rows} row{'' if self.rows == 1 else 's'}, {self.connections} at once"


class ClientProcess:
    """The load client in its own process.

    Args:
        workloads: files of the workloads, by rows in a request.
        cores: it may run on; None: all.
    """

    def __init__(self, workloads: dict[int, Path], cores: set[int] | None) -> None:
        self._rows: Sequence[int] = list(workloads)
        with on_cores(cores):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.serving.load_client", *map(str, workloads.values())],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

    def measure(
        self, address: Address, endpoint: Endpoint, load: Load, *, warm_up: float, seconds: float
    ) -> LoadFigures:
        """Return the figures of one run."""
        plan = {
            "workload": self._rows.index(load.rows),
            "address": address,
            "endpoint": dataclasses.asdict(endpoint),
            "connections": load.connections,
            "warm_up": warm_up,
            "seconds": seconds,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(plan) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the load client ended with {self._process.wait()}; what it printed is above")
        return LoadFigures(**json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()
