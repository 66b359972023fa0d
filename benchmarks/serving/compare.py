"""odeness beside other servers of the same model, and below the limits: Markdown on standard output.

python -m benchmarks.serving.compare [--rounds 3] [--seconds 3] [--only odeness fastapi ...] [--cores split|shared]
    [--peers .venv-serving] [--mlserver .venv-mlserver]

All servers are up at once, and one at a time is asked, in turn, round by round, for each load; LitServe, which
looks for work all the time, is stopped (SIGSTOP) while others are asked. ``--cores split`` binds the client to one core
and the servers to the others; ``shared`` binds nobody. A run ends with an error where odeness answers wrongly or not at
all; errors of the others stand in the tables.
"""

import argparse
import os
import platform
import shlex
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx

from api.client import Client
from benchmarks.interleaved import processor
from benchmarks.one_core import ONE_THREAD
from benchmarks.serving.candidates import MODEL, NO_OP, Candidate, candidates, servers
from benchmarks.serving.client_process import ClientProcess, Load
from benchmarks.serving.latency import LoadFigures, doubts
from benchmarks.serving.limits import ModelCall, rows_a_second
from benchmarks.serving.metrics_page import rows_a_call
from benchmarks.serving.peers.plain_model import WEIGHTS
from benchmarks.serving.protocols import Endpoint
from benchmarks.serving.server_process import ServerDied, ServerProcess, on_cores
from benchmarks.serving.serving_tables import LOADS, Limits, load_table, median_of, model_table
from benchmarks.serving.sphere2 import train_sphere2, workload

WARM_UP = 1.0
REQUESTS = {1: 512, 32: 64}  # that differ, by rows in each


@dataclass(frozen=True)
class Cores:
    """Cores of the client and of the servers; None: all."""

    client: set[int] | None
    servers: set[int] | None

    @classmethod
    def split(cls) -> "Cores":
        """Return the last core for the client and the others for the servers, where there are two or more."""
        usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        if len(usable) < 2:
            return cls(None, None)
        return cls({max(usable)}, usable - {max(usable)})

    def __str__(self) -> str:
        if self.client is None or self.servers is None:
            return "client and servers on all cores"
        return f"the client on one core, the servers on {len(self.servers)}"


class Comparison:
    """All servers with the model, and a client.

    Attributes:
        everyone: who is asked, in the order of the tables.
        batches: rows a call of odeness' model in each run, by load.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        self._arguments = arguments
        self.cores = Cores(None, None) if arguments.cores == "shared" else Cores.split()
        self.served = train_sphere2()
        weights = folder / "sphere2.safetensors"
        weights.write_bytes(self.served.weights)
        known = servers(arguments.peers, arguments.mlserver)
        self._running: dict[str, ServerProcess] = {}
        for name in arguments.only or known:
            say(f"starting {name}")
            process = known[name].start(name, folder, {WEIGHTS: str(weights)}, self.cores.servers)
            self._running[name] = stack.enter_context(process)
        for process in self._running.values():
            process.wait_until_it_listens()
        self._client = stack.enter_context(ClientProcess(self._write_workloads(folder), self.cores.client))
        v2_shape = self._upload() if "odeness" in self._running else None
        self.batches: dict[Load, list[float]] = defaultdict(list)
        for process in self._running.values():
            process.sleep()
        self.everyone = [one for one in candidates(v2_shape) if one.server in self._running]

    def _write_workloads(self, folder: Path) -> dict[int, Path]:
        files = {}
        for rows, requests in REQUESTS.items():
            made = workload(self.served, requests=requests, rows=rows)
            say(f"{requests} requests of {rows}: answers of {made.told_apart():.1%} of the pairs can be told apart")
            made.save(files.setdefault(rows, folder / f"requests-{rows}.npz"))
        return files

    def _upload(self) -> tuple[int, ...] | None:
        """Give odeness the model; return the shape of an input of its ``/v2``, None if it has none."""
        url = self._running["odeness"].url
        with Client(url) as client:
            client.upload_model(MODEL, self.served.weights, **self.served.declaration())
        metadata = httpx.get(f"{url}/v2/models/{MODEL}", timeout=30)
        if metadata.status_code != 200:
            say(f"odeness has no /v2: {metadata.status_code} for its model metadata; its rows are left out")
            return None
        shape = next(tensor["shape"] for tensor in metadata.json()["inputs"] if tensor["name"] == "inputs")
        return tuple(shape[1:])

    def ask(self, one: Candidate, load: Load, *, warm_up: float, seconds: float) -> LoadFigures:
        """Return the figures of one run.

        Raises:
            ServerDied: it ended, or an answer of odeness was wrong or missing.
        """
        process = self._running[one.server]
        process.require_running()
        endpoint = self._sized(one.endpoint, load) if one.endpoint.protocol == "no-op" else one.endpoint
        with process.awake():
            before = self._metrics_page(one)
            run = self._client.measure(process.address, endpoint, load, warm_up=warm_up, seconds=seconds)
            if before and (rows := rows_a_call(before, self._metrics_page(one))) is not None:
                self.batches[load].append(rows)
        for doubt in doubts(run, load.connections):
            say(f"{one.name}, {load}: {doubt}")
        if run.errors and one.role == "odeness":
            raise ServerDied(f"{one.name} made errors, see above: {process.last_lines()}")
        return run

    def _sized(self, endpoint: Endpoint, load: Load) -> Endpoint:
        """Return the endpoint of the no-op server whose answers are as large as those of ``/v1``."""
        return Endpoint(endpoint.protocol, f"/{150 + 190 * load.rows}", endpoint.input_shape)

    def _metrics_page(self, one: Candidate) -> str:
        """Return odeness' metrics; empty for the others."""
        if one.role != "odeness":
            return ""
        return httpx.get(f"{self._running['odeness'].url}/metrics", timeout=30).text


def compare(comparison: Comparison, rounds: int, seconds: float, loads: Sequence[Load]) -> str:
    """Measure everything and return all tables."""
    everyone, model = comparison.everyone, ModelCall(comparison.served)
    measured: dict[Load, dict[str, LoadFigures]] = {}
    for load in loads:
        for one in everyone:  # some adapt to their load, and go on waiting for more after one with many at once
            comparison.ask(one, load, warm_up=0.0, seconds=seconds)
        comparison.batches[load].clear()
        runs: dict[str, list[LoadFigures]] = defaultdict(list)
        for number in range(rounds):
            say(f"{load}: round {number + 1} of {rounds}")
            for one in everyone:
                runs[one.name].append(comparison.ask(one, load, warm_up=WARM_UP, seconds=seconds))
            with on_cores(comparison.cores.servers):
                model.measure(0.2)
        measured[load] = {name: median_of(of_one) for name, of_one in runs.items()}
    calls = model.seconds()
    tables = [
        load_table(load, measured[load], everyone, _limits(load, measured[load], calls, comparison.batches[load]))
        for load in loads
    ]
    return "\n".join(table.markdown() for table in [*tables, model_table(calls)])


def _limits(
    load: Load, measured: dict[str, LoadFigures], calls: dict[int, float], batches: list[float]
) -> Limits | None:
    if NO_OP not in measured:
        return None
    # The largest batch that any of the ways to ask odeness reached: the limit is then the highest.
    batch = max(batches, default=None)
    rows = rows_a_second(calls, load.rows * load.connections if batch is None else batch)
    return Limits(no_op=measured[NO_OP].a_second, model=rows / load.rows, batch=batch)


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", nargs="+", metavar="SERVER", choices=list(servers(Path(), Path())))
    parser.add_argument("--cores", choices=("split", "shared"), default="split")
    parser.add_argument("--peers", type=Path, default=Path(".venv-serving"))
    parser.add_argument("--mlserver", type=Path, default=Path(".venv-mlserver"))
    arguments = parser.parse_args()
    os.environ.update(ONE_THREAD)
    with tempfile.TemporaryDirectory(prefix="odeness-serving-") as folder, ExitStack() as stack:
        try:
            comparison = Comparison(arguments, Path(folder), stack)
            tables = compare(comparison, arguments.rounds, arguments.seconds, LOADS)
        except ServerDied as problem:
            sys.exit(str(problem))
        print(
            f"{platform.system()}, {processor()}, Python {platform.python_version()}; {comparison.cores}; one thread "
            f"each. Medians of {arguments.rounds} interleaved rounds of {arguments.seconds:g} s. "
            f"Command: `python -m benchmarks.serving.compare {shlex.join(sys.argv[1:])}`\n"
        )
        print(tables, flush=True)


if __name__ == "__main__":
    main()
