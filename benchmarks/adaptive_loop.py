"""The loop of an adaptive solve, where the field costs nothing: Van der Pol oscillators, against three libraries.

python -m benchmarks.adaptive_loop [--rounds 20] [--peers .venv-peers]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from benchmarks.interleaved import interleave, machine, stopwatch
from benchmarks.one_core import cores, stay_on_one_core
from benchmarks.peers.process import Peer
from benchmarks.tables import Table, verdict
from benchmarks.van_der_pol import VanDerPol
from ode_core.solvers.output_times import OutputMode
from ode_core.solvers.solution import Solution
from ode_core.solvers.solve import solve
from ode_core.specs import SolverSpec

PEERS = ("torchdiffeq", "torchode", "diffrax")
OF_TORCHDIFFEQ, OF_DIFFRAX = 1 / 12, 1.0  # targets for our time a step


@dataclass(frozen=True)
class Outcome:
    """What a library did with the problems.

    Attributes:
        seconds: of one solve in each round.
        first: seconds of the first solve, compilation included.
        passes: passes of its loop over the batch.
        outputs: ``(outputs, problems, 2)``.
        accepted: accepted steps by problem.
        rejected: rejected steps by problem.
        evaluations: evaluations of the field by problem.
        note: what is particular about it.
    """

    seconds: Sequence[float]
    first: float
    passes: int
    outputs: NDArray[numpy.float64]
    accepted: Sequence[int]
    rejected: Sequence[int]
    evaluations: Sequence[int]
    note: str

    @property
    def median(self) -> float:
        """Median seconds of a solve."""
        return statistics.median(self.seconds)


class Ours:
    """odeness's dopri5 on the problems."""

    def __init__(self, problem: VanDerPol, outputs: OutputMode) -> None:
        self._problem, self._outputs = problem, outputs
        self._starts, self._times = torch.from_numpy(problem.starts()), torch.from_numpy(problem.times())
        self._solver = SolverSpec(method="dopri5", rtol=problem.tolerance, atol=problem.tolerance)
        start = time.perf_counter()
        self._solution = self._solve()
        self.first = time.perf_counter() - start

    @torch.no_grad()
    def _solve(self) -> Solution:
        return solve(
            self._field,
            self._starts,
            self._solver,
            t1=self._problem.end,
            times=self._times,
            outputs=self._outputs,
        )

    def _field(self, t: Tensor, z: Tensor) -> Tensor:
        x, v = z.unbind(-1)
        return torch.stack((v, self._problem.mu * (1.0 - x * x) * v - x), dim=-1)

    def solve(self) -> None:
        """Solve all problems once."""
        self._solution = self._solve()

    def report(self) -> dict[str, Any]:
        """Return outputs and counts of the last solve, as the peers do."""
        solution = self._solution
        assert solution.trajectory is not None
        return {
            "outputs": solution.trajectory.numpy(),
            "accepted": solution.accepted.tolist(),
            "rejected": solution.rejected.tolist(),
            "evaluations": solution.evaluations.tolist(),
            "passes": int((solution.accepted + solution.rejected).max()),
            "note": "lands on every output" if self._outputs == "land" else "",
        }


OURS: dict[str, OutputMode] = {"odeness": "interpolate", "odeness, landing": "land"}


def measure(problem: VanDerPol, rounds: int, python: Path | None) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Measure odeness and, in their environment, the peers; return outcomes by name, and the peers' versions."""
    with ExitStack() as stack:
        peers = {} if python is None else {name: stack.enter_context(Peer(name, python)) for name in PEERS}
        ours = {name: Ours(problem, outputs) for name, outputs in OURS.items()}
        first = {name: candidate.first for name, candidate in ours.items()}
        first |= {name: peer.prepare(problem) for name, peer in peers.items()}
        for peer in peers.values():
            assert peer.cores == cores(), f"{peer.library} may use {peer.cores} cores, not {cores()}"
        timed: dict[str, Callable[[], float]] = {name: stopwatch(candidate.solve) for name, candidate in ours.items()}
        timed |= {name: peer.solve for name, peer in peers.items()}
        seconds = interleave(timed, rounds=rounds)
        reports = {name: candidate.report() for name, candidate in ours.items()}
        reports |= {name: peer.report() for name, peer in peers.items()}
        versions = {library: version for peer in peers.values() for library, version in peer.versions.items()}
    return {name: _outcome(report, seconds[name], first[name]) for name, report in reports.items()}, versions


def _outcome(report: dict[str, Any], seconds: Sequence[float], first: float) -> Outcome:
    return Outcome(
        seconds=seconds,
        first=first,
        passes=report["passes"],
        outputs=numpy.asarray(report["outputs"]),
        accepted=report["accepted"],
        rejected=report["rejected"],
        evaluations=report["evaluations"],
        note=report["note"],
    )


def reference(problem: VanDerPol) -> NDArray[numpy.float64]:
    """Return the outputs ``(outputs, problems, 2)`` by SciPy's DOP853.

    All problems are one system. Its norm is a mean over 2 x problems numbers, so that one problem alone may err
    by the root of that times the tolerance: below 1e-11 for 256 problems at 1e-13.
    """

    def field(t: float, flat: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
        x, v = flat.reshape(2, -1)
        return numpy.concatenate((v, problem.mu * (1.0 - x * x) * v - x))

    solution = solve_ivp(
        field,
        (0.0, problem.end),
        problem.starts().T.ravel(),
        method="DOP853",
        t_eval=problem.times(),
        rtol=1e-13,
        atol=1e-13,
    )
    assert solution.success
    outputs: NDArray[numpy.float64] = solution.y.reshape(2, problem.problems, problem.outputs).transpose(2, 1, 0)
    return outputs


def table(problem: VanDerPol, rounds: int, python: Path | None) -> Table:
    """Measure and return table (a); without peers where there is no environment for them."""
    outcomes, versions = measure(problem, rounds, python)
    exact = reference(problem)
    rows = [_row(name, outcome, exact) for name, outcome in outcomes.items()]
    return Table(
        title="(a) Loop of an adaptive solve",
        what=(
            f"Van der Pol, {problem.problems} problems in one batch, mu = {problem.mu:g}, t in [0, {problem.end:g}], "
            f"dopri5, rtol = atol = {problem.tolerance:g}, {problem.outputs} outputs, float64, no gradients; medians "
            f"of {rounds} interleaved rounds. A pass is one step of the whole batch, so there are as many as the "
            "slowest problem needs; steps and NFE are means over the problems. Errors are against SciPy's DOP853 at "
            f"1e-13, over all outputs. {', '.join(f'{k} {v}' for k, v in versions.items())}"
        ),
        header=(
            "library",
            "solve ms",
            "passes",
            "ms a pass",
            "accepted",
            "rejected",
            "NFE",
            "max error",
            "RMS error",
            "first solve s",
            "",
        ),
        rows=rows,
        below=[*_targets(outcomes), "The state of the batch is 4 kB and stays in the first cache: no useful floor."],
    )


def _row(name: str, outcome: Outcome, exact: NDArray[numpy.float64]) -> list[str]:
    error = numpy.abs(outcome.outputs - exact)
    return [
        name,
        f"{outcome.median * 1e3:.2f}",
        str(outcome.passes),
        f"{outcome.median * 1e3 / outcome.passes:.4f}",
        f"{numpy.mean(outcome.accepted):.1f}",
        f"{numpy.mean(outcome.rejected):.1f}",
        f"{numpy.mean(outcome.evaluations):.0f}",
        f"{error.max():.1e}",
        f"{numpy.sqrt(numpy.mean(error**2)):.1e}",
        f"{outcome.first:.2f}",
        outcome.note,
    ]


def _targets(outcomes: dict[str, Outcome]) -> list[str]:
    ours = outcomes["odeness"]
    return [
        verdict(f"odeness / {peer}, {what}", quantity(ours) / quantity(outcomes[peer]), target)
        for peer, target in (("torchdiffeq", OF_TORCHDIFFEQ), ("diffrax", OF_DIFFRAX))
        if peer in outcomes
        for what, quantity in (("time a pass", _time_a_pass), ("time a solve", _time_a_solve))
    ]


def _time_a_pass(outcome: Outcome) -> float:
    return outcome.median / outcome.passes


def _time_a_solve(outcome: Outcome) -> float:
    return outcome.median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers"), help="the peers' virtual environment")
    arguments = parser.parse_args()
    stay_on_one_core()
    torch.set_num_threads(1)
    print(f"{machine()}\n")
    print(table(VanDerPol(), arguments.rounds, arguments.peers / "bin" / "python").markdown())


if __name__ == "__main__":
    main()
