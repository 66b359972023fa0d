"""What a load run comes to: rates, percentiles and whether its figures fit each other. Pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LoadFigures:
    """One run of one load on one server.

    Attributes:
        requests: answered with the right numbers within the measured time.
        errors: by what went wrong, over the whole run: a status, a wrong answer, a lost connection.
        a_second: requests a second.
        mean, p50, p90, p99, worst: of the latencies, in seconds.
        in_flight: requests under way on average, as rate and mean latency tell (Little's law).
        client_share: of one core, that the client took.
    """

    requests: int
    errors: dict[str, int]
    a_second: float
    mean: float
    p50: float
    p90: float
    p99: float
    worst: float
    in_flight: float
    client_share: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values, given in order, do not exceed (nearest rank).

    It is a latency that occurred, never one between two. NaN if there are none.
    """
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def figures(
    latencies: Sequence[float], seconds: float, errors: dict[str, int], *, client_seconds: float
) -> LoadFigures:
    """Return the figures of ``latencies`` in seconds, of requests answered within ``seconds``."""
    ordered = sorted(latencies)
    mean = math.fsum(ordered) / len(ordered) if ordered else math.nan
    rate = len(ordered) / seconds
    return LoadFigures(
        requests=len(ordered),
        errors=errors,
        a_second=rate,
        mean=mean,
        p50=percentile(ordered, 0.5),
        p90=percentile(ordered, 0.9),
        p99=percentile(ordered, 0.99),
        worst=ordered[-1] if ordered else math.nan,
        in_flight=rate * mean if ordered else 0.0,
        client_share=client_seconds / seconds,
    )


def doubts(run: LoadFigures, connections: int) -> list[str]:
    """Return what speaks against believing a run, in words; nothing where its figures fit each other.

    Each connection has a request under way all the time, but for the moment the client takes to send the next. So by
    Little's law rate times mean latency is the number of connections; where it is less, the client kept the server
    waiting, and where it is more, something was counted twice.
    """
    found = []
    if run.errors:
        found.append("errors: " + ", ".join(f"{what} ({count})" for what, count in sorted(run.errors.items())))
    # A run's edges cut requests off: one a connection may be missing or too much.
    allowed = 0.1 + connections / max(run.requests, 1)
    if abs(run.in_flight / connections - 1) > allowed:
        found.append(f"{run.in_flight:.2f} requests under way on {connections} connections")
    if run.client_share > 0.9:
        found.append(f"the client took {run.client_share:.0%} of its core: the server could do more")
    return found
