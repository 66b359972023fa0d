"""Time several candidates in turn, so that a drift of the machine's speed hits all alike."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def measure_interleaved(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 3
) -> dict[str, float]:
    """Return the median seconds a call of each candidate takes; one call of each per round."""
    for candidate in candidates.values():
        for _ in range(warm_up):
            candidate()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            start = time.perf_counter()
            candidate()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> str:
    """Describe what the figures were measured with."""
    return (
        f"{platform.machine()}, {torch.get_num_threads()} thread(s), Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
