"""What no server can exceed: the model's own calls. The limit of HTTP is a server, ``peers.no_op``."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from benchmarks.serving.sphere2 import SOLVER, ServedModel, workload
from ode_core.models.steady_classifier import SteadyClassifier

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ModelCall:
    """The served model called with batches of several sizes, in this process."""

    def __init__(self, served: ServedModel, batches: Sequence[int] = BATCHES) -> None:
        torch.set_num_threads(1)
        model = SteadyClassifier(served.classifier())  # what the server calls
        self._seconds: dict[int, list[float]] = {batch: [] for batch in batches}
        self._calls = {batch: _call(model, served, batch) for batch in batches}

    def measure(self, seconds: float) -> None:
        """Call each size for about so long."""
        _seconds_a_call(next(iter(self._calls.values())), seconds)  # whatever ran before has emptied the caches
        for batch, call in self._calls.items():
            self._seconds[batch].append(_seconds_a_call(call, seconds))

    def seconds(self) -> dict[int, float]:
        """Return the seconds of one call by size: medians of all measurements."""
        return {batch: statistics.median(values) for batch, values in self._seconds.items()}


def _seconds_a_call(call: Callable[[], object], seconds: float) -> float:
    call()
    start, calls = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        call()
        calls += 1
    return passed / calls


def _call(model: SteadyClassifier, served: ServedModel, batch: int) -> Callable[[], object]:
    inputs = torch.from_numpy(workload(served, requests=1, rows=batch).inputs[0])

    def call() -> object:
        with torch.inference_mode():
            return model.run(inputs, SOLVER)

    return call


def rows_a_second(seconds: Mapping[int, float], batch: float) -> float:
    """Return the rows a second of calls with ``batch`` rows each, a mean and so no integer.

    ``seconds`` of a call by number of rows; between two of them a call's time grows with the rows. Beyond the largest,
    and below the smallest, the rate is that of it.
    """
    sizes = sorted(seconds)
    batch = min(max(batch, sizes[0]), sizes[-1])
    above = next(size for size in sizes if size >= batch)
    below = max((size for size in sizes if size <= batch), default=above)
    share = 0.0 if above == below else (batch - below) / (above - below)
    return batch / (seconds[below] + share * (seconds[above] - seconds[below]))
