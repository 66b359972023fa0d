"""The side of a peer's process from which it is asked."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.van_der_pol import VanDerPol

ROOT = Path(__file__).parents[2]


class Peer:
    """A library in its own process. It inherits this process's core and thread settings.

    Attributes:
        versions: of the library and what it computes with, once prepared.
        cores: number of cores its process may use, once prepared.
    """

    def __init__(self, library: str, python: Path) -> None:
        self.library = library
        self.versions: dict[str, str] = {}
        self.cores: int | None = None
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmarks.peers.serve", library],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def prepare(self, problem: VanDerPol) -> float:
        """Load the library and solve once; return the seconds of that, compilation included."""
        answer = self._ask({"ask": "prepare", "problem": problem.to_json()})
        self.versions, self.cores = answer["versions"], answer["cores"]
        return float(answer["seconds"])

    def solve(self) -> float:
        """Solve once; return the seconds that took in the process itself."""
        return float(self._ask({"ask": "solve"})["seconds"])

    def report(self) -> dict[str, Any]:
        """Return outputs and counts; see the ``report`` of the candidates."""
        return self._ask({"ask": "report"})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            sys.exit(f"{self.library} ended with {process.wait()}; what it printed is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()
