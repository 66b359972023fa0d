"""Error against work for every method: evaluations of the field, and time.

python -m benchmarks.work_precision [--rounds 7] [--out docs/images/work-precision.svg]

Two problems in float64, whose solutions are smooth, so that every method can show its order: a driven pendulum
(nonlinear, depends on t) and a small neural network as the field. Each has a batch of starts and is solved over its
whole interval; the error is the root mean square over samples and components at the end, against SciPy's DOP853. The
time is the shortest of the rounds: what others on the machine add is not the method's.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from api.charts.render import to_svg
from benchmarks.interleaved import interleave, machine, stopwatch
from benchmarks.one_core import stay_on_one_core
from benchmarks.work_precision_chart import PrecisionPoint, work_precision_chart
from ode_core.fields.vector_fields import build_field, initialise
from ode_core.solvers.solution import Field, Solution
from ode_core.solvers.solve import solve
from ode_core.specs import METHODS, MethodFacts, MlpField, SolverSpec

SAMPLES = 64
MOST_EVALUATIONS = 2048  # a sample; a solver that needs more for its tolerance is left out
TOLERANCES = tuple(10.0**-k for k in range(2, 12))
REFERENCE_TOLERANCE = 1e-13


@dataclass(frozen=True)
class SmoothProblem:
    """A field with its starts ``(samples, n)`` in float64, over ``[0, end]``."""

    name: str
    field: Field
    starts: Tensor
    end: float

    @torch.no_grad()
    def exact(self) -> Tensor:
        """Return the states at the end ``(samples, n)`` by SciPy's DOP853, all samples as one system."""

        def flat(t: float, z: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
            state = torch.from_numpy(z).reshape(self.starts.shape)
            slopes: NDArray[numpy.float64] = self.field(torch.tensor(t, dtype=torch.float64), state).flatten().numpy()
            return slopes

        found = solve_ivp(
            flat,
            (0.0, self.end),
            self.starts.flatten().numpy(),
            method="DOP853",
            rtol=REFERENCE_TOLERANCE,
            atol=REFERENCE_TOLERANCE,
        )
        assert found.success
        return torch.from_numpy(found.y[:, -1].copy()).reshape(self.starts.shape)


def driven_pendulum(samples: int = SAMPLES) -> SmoothProblem:
    """``x'' = -sin(x) - x'/4 + cos(3 t/2)`` from starts in ``[-1, 1]^2`` over ``[0, 10]``."""

    def field(t: Tensor, z: Tensor) -> Tensor:
        x, v = z[:, :1], z[:, 1:]
        return torch.cat((v, torch.cos(1.5 * t) - torch.sin(x) - 0.25 * v), dim=1)

    generator = torch.Generator().manual_seed(0)
    return SmoothProblem("driven pendulum", field, 2 * torch.rand(samples, 2, generator=generator).double() - 1, 10.0)


def neural_field(samples: int = SAMPLES, features: int = 8) -> SmoothProblem:
    """A perceptron with two hidden layers, tanh and time, with the weights a training begins with, over ``[0, 2]``."""
    generator = torch.Generator().manual_seed(1)
    field = build_field(MlpField(hidden=(64, 64), activation="tanh", time_dependent=True), (features,))
    initialise(field, generator)
    starts = torch.randn(samples, features, generator=generator).double()
    return SmoothProblem("neural field", field.double(), starts, 2.0)


def solvers(most_evaluations: int = MOST_EVALUATIONS, tolerances: Iterable[float] = TOLERANCES) -> list[SolverSpec]:
    """Return every method: an adaptive one with each tolerance, another with each power of 2 steps."""
    tolerances = tuple(tolerances)
    found: list[SolverSpec] = []
    for method, facts in METHODS.items():
        if facts.adaptive:
            found += [SolverSpec(method=method, rtol=tolerance, atol=tolerance) for tolerance in tolerances]
        else:
            found += [SolverSpec(method=method, steps=steps) for steps in _steps(facts, most_evaluations)]
    return found


def _steps(facts: MethodFacts, most_evaluations: int) -> list[int]:
    powers = [2**k for k in range(2, 16)]
    return [steps for steps in powers if facts.evaluations(steps) <= most_evaluations]


@torch.no_grad()
def measure(problem: SmoothProblem, specs: Iterable[SolverSpec], rounds: int) -> list[PrecisionPoint]:
    """Return a point for each solver that carried every sample to the end."""
    exact = problem.exact()
    calls: dict[str, Callable[[], object]] = {}
    found: dict[str, tuple[SolverSpec, float, float]] = {}
    for spec in specs:
        solution = _solve(problem, spec)
        error = float((solution.final - exact).square().mean().sqrt())
        if bool(solution.succeeded.all()) and numpy.isfinite(error):
            calls[spec.label] = partial(_solve, problem, spec)
            found[spec.label] = (spec, error, float(solution.evaluations.double().mean()))
    timed = {label: stopwatch(call) for label, call in calls.items()}
    seconds = interleave(timed, rounds=rounds, warm_up=1)
    return [
        PrecisionPoint(
            problem=problem.name,
            method=spec.method,
            adaptive=spec.adaptive,
            order=spec.facts.order,
            error=error,
            evaluations=evaluations,
            milliseconds=1e3 * min(seconds[label]),
        )
        for label, (spec, error, evaluations) in found.items()
    ]


def _solve(problem: SmoothProblem, spec: SolverSpec) -> Solution:
    return solve(problem.field, problem.starts, spec, t1=problem.end, max_evaluations=MOST_EVALUATIONS, warn=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("docs/images/work-precision.svg"))
    arguments = parser.parse_args()
    stay_on_one_core()
    torch.set_num_threads(1)
    print(machine())
    points = [
        point
        for problem in (driven_pendulum(), neural_field())
        for point in measure(problem, solvers(), arguments.rounds)
    ]
    print("| problem | method | NFE | ms | error |\n|---|---|---|---|---|")
    for p in points:
        print(f"| {p.problem} | {p.method} | {p.evaluations:.0f} | {p.milliseconds:.2f} | {p.error:.1e} |")
    arguments.out.write_text(to_svg(work_precision_chart(points)))


if __name__ == "__main__":
    main()
