"""From the figures of all runs to tables and verdicts. Pure functions."""

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.serving.candidates import NO_OP, Candidate
from benchmarks.serving.client_process import Load
from benchmarks.serving.latency import LoadFigures
from benchmarks.tables import Table, verdict

SINGLE, FEW, MANY, ROWS = Load(1, 1), Load(1, 16), Load(1, 64), Load(32, 8)
LOADS = (SINGLE, FEW, MANY, ROWS)
# At least so many times the requests a second of the best peer.
AGAINST_PEERS = {SINGLE: 2.0, MANY: 3.0, ROWS: 2.0}
OF_THE_LIMIT = 0.5

ByCandidate = Mapping[str, LoadFigures]


@dataclass(frozen=True)
class Limits:
    """What no server can exceed under a load.

    Attributes:
        no_op: requests a second of a server that computes nothing.
        model: requests a second that the model's calls alone allow, at the batch reached.
        batch: rows a call of the model that odeness reached; None: its metrics do not tell.
    """

    no_op: float
    model: float
    batch: float | None

    @property
    def smaller(self) -> float:
        """The one that counts."""
        return min(self.no_op, self.model)


def median_of(runs: Sequence[LoadFigures]) -> LoadFigures:
    """Return the medians of the rounds' figures; requests and errors are summed."""
    errors: Counter[str] = Counter()
    for run in runs:
        errors.update(run.errors)
    medians = {
        field.name: statistics.median(getattr(run, field.name) for run in runs)
        for field in dataclasses.fields(LoadFigures)
        if field.name not in ("requests", "errors")
    }
    return LoadFigures(requests=sum(run.requests for run in runs), errors=dict(errors), **medians)


def best_peer(load: ByCandidate, everyone: Sequence[Candidate]) -> Candidate | None:
    """Return the peer with the most requests a second; None if there is none."""
    peers = [one for one in everyone if one.role == "peer" and one.name in load]
    return max(peers, key=lambda one: load[one.name].a_second, default=None)


def load_table(load: Load, measured: ByCandidate, everyone: Sequence[Candidate], limits: Limits | None) -> Table:
    """Return the table of one load with its verdicts."""
    best = best_peer(measured, everyone)
    rows = []
    for one in everyone:
        if one.name not in measured:
            continue
        run = measured[one.name]
        of_best = "" if best is None else f"{run.a_second / measured[best.name].a_second:.2f}"
        latencies = [f"{1e3 * value:.2f}" for value in (run.p50, run.p99)]
        wrong = sum(run.errors.values())
        rows.append([one.name, f"{run.a_second:,.0f}", *latencies, of_best, str(wrong), f"{run.client_share:.0%}"])
    return Table(
        title=str(load),
        what=f"{sum(run.requests for run in measured.values()):,} requests answered and checked in the measured time.",
        header=("", "requests/s", "p50 ms", "p99 ms", "of best peer", "errors", "client's core"),
        rows=rows,
        below=verdicts(load, measured, everyone, limits),
    )


def verdicts(load: Load, measured: ByCandidate, everyone: Sequence[Candidate], limits: Limits | None) -> list[str]:
    """Return a line for each target of a load and each way to ask odeness, and what the limits are."""
    best = best_peer(measured, everyone)
    lines = [] if limits is None else [_limits_line(limits)]
    for one in everyone:
        if one.role != "odeness" or one.name not in measured:
            continue
        run = measured[one.name]
        if best is not None and load in AGAINST_PEERS:
            peer = measured[best.name]
            lines.append(
                verdict(
                    f"{best.name} / {one.name}, requests a second",
                    _ratio(peer.a_second, run.a_second),
                    1 / AGAINST_PEERS[load],
                )
            )
        if load == MANY:
            lines.append(_tail_verdict(one, measured, everyone))
            if limits is not None:
                lines.append(
                    verdict(
                        f"smaller limit / {one.name}, requests a second",
                        _ratio(limits.smaller, run.a_second),
                        1 / OF_THE_LIMIT,
                    )
                )
    return [line for line in lines if line]


def _tail_verdict(one: Candidate, measured: ByCandidate, everyone: Sequence[Candidate]) -> str:
    peers = [peer for peer in everyone if peer.role == "peer" and peer.name in measured]
    if not peers:
        return ""
    best = min(peers, key=lambda peer: measured[peer.name].p99)
    return verdict(f"{one.name} / {best.name}, p99", _ratio(measured[one.name].p99, measured[best.name].p99), 1.0)


def _limits_line(limits: Limits) -> str:
    batch = "rows a call unknown, taken as all at once" if limits.batch is None else f"{limits.batch:.1f} rows a call"
    return (
        f"Limits: {NO_OP} {limits.no_op:,.0f} requests a second, the model's calls alone {limits.model:,.0f} ({batch})."
    )


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.inf


def model_table(seconds: Mapping[int, float]) -> Table:
    """Return the table of the model's calls by batch."""
    rows = [[str(batch), f"{1e3 * value:.2f}", f"{batch / value:,.0f}"] for batch, value in sorted(seconds.items())]
    return Table(
        title="The model's calls alone",
        what="rk4 with 16 steps in this process: inputs and probabilities are tensors.",
        header=("rows", "ms a call", "rows/s"),
        rows=rows,
    )
