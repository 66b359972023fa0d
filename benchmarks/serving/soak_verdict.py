"""Whether a server stayed as it was through a long load. Pure functions."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.serving.latency import LoadFigures
from benchmarks.tables import Table

# Of all its processes, along the line fitted after the first third: an allocator's ups and downs are a few MiB, while a
# leak of 1 kB a request is 100 MiB after some minutes.
MOST_GROWTH = 24 * 2**20
# The median p99 of the last third against that of the first: other work on the machine moves it by some 20 %.
MOST_SLOWDOWN = 1.5
_ROWS = 10


@dataclass(frozen=True)
class Window:
    """Some seconds of the load.

    Attributes:
        start: seconds since the load began.
        figures: of its requests.
        memory: bytes that all processes of the server held at its end.
        changes: uploads and moved aliases until its end.
    """

    start: float
    figures: LoadFigures
    memory: int
    changes: int


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line with the least squares through ``(x, y)``; 0 for a single point."""
    x_mean = statistics.fmean(x for x, _ in points)
    y_mean = statistics.fmean(y for _, y in points)
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else 0.0


def growth(windows: Sequence[Window]) -> float:
    """Return by how many bytes the fitted line rises after the first third, in which caches fill."""
    settled = windows[len(windows) // 3 :]
    return slope([(one.start, one.memory) for one in settled]) * (settled[-1].start - settled[0].start)


def slowdown(windows: Sequence[Window]) -> float:
    """Return the median p99 of the last third as a multiple of the first third's; the very first window is left out."""
    steady = windows[1:] or windows
    third = max(1, len(steady) // 3)
    first, last = (statistics.median(one.figures.p99 for one in part) for part in (steady[:third], steady[-third:]))
    return last / first


def violations(windows: Sequence[Window]) -> list[str]:
    """Return what was not as it should be, in words."""
    found = []
    errors: Counter[str] = Counter()
    for window in windows:
        errors.update(window.figures.errors)
    found += [f"{count} times: {what}" for what, count in sorted(errors.items())]
    if not all(window.figures.requests for window in windows):
        found.append("there were seconds without any answer")
        return found
    if (grown := growth(windows)) > MOST_GROWTH:
        found.append(f"memory grew by {grown / 2**20:.0f} MiB, more than {MOST_GROWTH / 2**20:.0f}")
    if (times := slowdown(windows)) > MOST_SLOWDOWN:
        found.append(f"the last third's p99 is {times:.2f} times the first third's, more than {MOST_SLOWDOWN}")
    return found


def soak_table(windows: Sequence[Window], what: str) -> Table:
    """Return about ten rows from the start to the end, and below them growth and slowdown."""
    size = -(-len(windows) // _ROWS)
    rows = []
    for begin in range(0, len(windows), size):
        part = windows[begin : begin + size]
        rates, p50s, p99s = zip(
            *((one.figures.a_second, one.figures.p50, one.figures.p99) for one in part), strict=True
        )
        rows.append(
            [
                f"{part[0].start:.0f}",
                f"{statistics.median(rates):,.0f}",
                f"{1e3 * statistics.median(p50s):.1f}",
                f"{1e3 * statistics.median(p99s):.1f}",
                f"{part[-1].memory / 2**20:.0f}",
                str(part[-1].changes),
                str(sum(sum(one.figures.errors.values()) for one in part)),
            ]
        )
    return Table(
        title="Soak",
        what=what,
        header=("from s", "requests/s", "p50 ms", "p99 ms", "memory MiB", "changes so far", "errors"),
        rows=rows,
        below=[
            f"Memory after the first third: {growth(windows) / 2**20:+.1f} MiB along the fitted line.",
            f"p99 of the last third: {slowdown(windows):.2f} times the first third's.",
        ],
    )
