"""Time several candidates in turn, so that a drift of the machine's speed hits all alike."""

import platform
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.one_core import cores

Name = TypeVar("Name", bound=Hashable)


def stopwatch(candidate: Callable[[], object]) -> Callable[[], float]:
    """Return the candidate as one that tells the seconds a call took, a GPU's work included."""

    def timed() -> float:
        start = time.perf_counter()
        candidate()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return timed


def interleave(timed: Mapping[Name, Callable[[], float]], *, rounds: int, warm_up: int = 3) -> dict[Name, list[float]]:
    """Return the seconds of each candidate in each round, as it tells them itself; one call of each per round."""
    for candidate in timed.values():
        for _ in range(warm_up):
            candidate()
    seconds: dict[Name, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, candidate in timed.items():
            seconds[name].append(candidate())
    return seconds


def measure_interleaved(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 3
) -> dict[str, float]:
    """Return the median seconds a call of each candidate takes; one call of each per round."""
    timed = {name: stopwatch(candidate) for name, candidate in candidates.items()}
    seconds = interleave(timed, rounds=rounds, warm_up=warm_up)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> str:
    """Describe what the figures were measured with."""
    return (
        f"{processor()}, {cores()} core(s) for this run, {torch.get_num_threads()} thread(s), "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def processor() -> str:
    """Return the processor's name where the system tells it, and the architecture."""
    description = Path("/proc/cpuinfo")
    if description.exists():
        for line in description.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({platform.machine()})"
    return platform.machine()
