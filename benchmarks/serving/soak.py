"""A server under all sorts of requests for minutes, while versions come and aliases move: Markdown on standard output.

python -m benchmarks.serving.soak [--minutes 10] [--connections 16]

Ends with an error if an answer is wrong or missing, memory grows, or latencies do. Both protocols, binary tensors, all
solvers, row counts, models and versions come in mixed order; each answer is held against the same computation for its
rows alone.
"""

import argparse
import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import numpy
import torch

from api.client import Client
from benchmarks.interleaved import processor
from benchmarks.one_core import ONE_THREAD
from benchmarks.serving.candidates import servers
from benchmarks.serving.compare import Cores, say
from benchmarks.serving.latency import figures
from benchmarks.serving.load import count_wrong, run_load
from benchmarks.serving.server_process import ServerDied, ServerProcess, on_cores, resident_bytes
from benchmarks.serving.soak_requests import SoakRequest, Versions, soak_requests
from benchmarks.serving.soak_verdict import Window, soak_table, violations
from benchmarks.serving.sphere2 import train_sphere2, train_three_minima

WINDOW_SECONDS = 5.0
SECONDS_BETWEEN_CHANGES = 2.0
TURNS_AN_UPLOAD = 5  # the others move the alias
ALIAS = "production"
SEEDS = (0, 1, 2)


class ChangingModels:
    """Models on a server; while entered, versions are added and an alias is moved by a thread.

    Attributes:
        newest: version of each model by name.
        changes: made so far.
        failure: what ended the changes too early; None: nothing.
    """

    def __init__(self, url: str, models: Sequence[Versions]) -> None:
        self._client = Client(url)
        self._http = httpx.Client(base_url=url, timeout=60)
        self._models = models
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._change, name="changes")
        self.newest: dict[str, int] = {}
        self.changes = 0
        self.failure: Exception | None = None
        for versions in models:
            for _ in versions.weights:
                self._upload(versions)
        paths = self._http.get("/openapi.json").json()["paths"]
        self.has_aliases = "/v1/models/{name}/aliases/{alias}/predict" in paths
        if self.has_aliases:
            for versions in models:
                self._move_alias(versions.name, 1)
        else:
            say("this server has no aliases: only versions are added")

    def ways(self) -> list[str]:
        """Return how a model is asked: by name alone, by a version, and by the alias."""
        return ["", "/versions/2", *([f"/aliases/{ALIAS}"] if self.has_aliases else [])]

    def load(self) -> None:
        """Predict with each model once: the first of all loads torch and compiles."""
        for versions in self._models:
            shape = versions.weights[0].classifier().input_shape
            self._client.predict(versions.name, numpy.zeros((1, *shape)))

    def _upload(self, versions: Versions) -> None:
        served = versions.weights[versions.of(self.newest.get(versions.name, 0) + 1)]
        made = self._client.upload_model(versions.name, served.weights, **served.declaration())
        self.newest[versions.name] = made["version"]

    def _move_alias(self, name: str, version: int) -> None:
        self._http.put(f"/v1/models/{name}/aliases/{ALIAS}", json={"version": version}).raise_for_status()

    def _change(self) -> None:
        try:
            for turn in itertools.count():
                if self._end.wait(SECONDS_BETWEEN_CHANGES):
                    return
                versions = self._models[turn % len(self._models)]
                if turn % TURNS_AN_UPLOAD == 0:
                    self._upload(versions)
                elif self.has_aliases:
                    self._move_alias(versions.name, 1 + turn % self.newest[versions.name])
                else:
                    continue
                self.changes += 1
        except Exception as error:  # told by whoever waits for the end of the load
            self.failure = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._client.close()
        self._http.close()


def soak(
    process: ServerProcess, models: ChangingModels, asked: Sequence[SoakRequest], arguments: argparse.Namespace
) -> list[Window]:
    """Load the server and return what each window came to."""
    windows: list[Window] = []
    start = time.monotonic()
    while (passed := time.monotonic() - start) < arguments.minutes * 60:
        process.require_running()
        windows.append(_window(process, models, asked, arguments.connections, passed))
        last = windows[-1]
        say(f"{passed:.0f} s: {last.figures.a_second:,.0f} requests a second, {last.memory / 2**20:.0f} MiB")
        if models.failure is not None:
            raise models.failure
    return windows


def _window(
    process: ServerProcess, models: ChangingModels, asked: Sequence[SoakRequest], connections: int, passed: float
) -> Window:
    first = dict(models.newest)
    run = run_load(
        process.address, [one.request for one in asked], connections=connections, warm_up=0.0, seconds=WINDOW_SECONDS
    )
    # A version is there before the upload that made it is answered.
    last = {name: version + 1 for name, version in models.newest.items()}
    latencies, errors = count_wrong(run, lambda number, answer: asked[number].what_is_wrong(answer, first, last))
    return Window(
        start=passed,
        figures=figures(latencies, run.seconds, errors, client_seconds=run.client_seconds),
        memory=sum(map(resident_bytes, process.processes())),
        changes=models.changes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=16)
    arguments = parser.parse_args()
    os.environ.update(ONE_THREAD)
    torch.set_num_threads(1)
    cores = Cores.split()
    kinds = [
        Versions("sphere2", [train_sphere2(seed, iterations=40) for seed in SEEDS]),
        Versions("minima", [train_three_minima(seed, iterations=40) for seed in SEEDS]),
    ]
    with tempfile.TemporaryDirectory(prefix="odeness-soak-") as folder, ExitStack() as stack:
        start = servers(Path(), Path())["odeness"].start
        process = stack.enter_context(start("odeness", Path(folder), {}, cores.servers))
        try:
            process.wait_until_it_listens()
            models = ChangingModels(process.url, kinds)
            models.load()
            asked = soak_requests(kinds, models.ways())
            with on_cores(cores.client), models:
                windows = soak(process, models, asked, arguments)
        except ServerDied as problem:
            sys.exit(str(problem))
    requests = sum(one.figures.requests for one in windows)
    what = (
        f"{processor()}; {cores}. {requests:,} requests on {arguments.connections} connections, of {len(asked):,} that "
        "differ, each answer checked. Figures are medians of windows of "
        f"{WINDOW_SECONDS:g} s; memory is that of all the server's processes."
    )
    print(soak_table(windows, what).markdown())
    if found := violations(windows):
        sys.exit("\n".join(["The server did not stay as it was:", *found]))


if __name__ == "__main__":
    main()
