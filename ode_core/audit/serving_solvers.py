"""What an audit tries so that the cheapest solver for serving is among it, and how it takes the time.

The ladder goes round the training solver. An ODE may be served with something quite different: after training with 64
Euler steps, with 4 of rk4. So further methods are climbed from the coarsest grid or tolerance until one agrees on every
sample, or costs several times what does already.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ode_core.audit.reference import Reference
from ode_core.audit.solver_choice import Candidate, SolverChoice, Timing, agreement_with
from ode_core.audit.statistics import clopper_pearson
from ode_core.audit.verdict import Verdict
from ode_core.models.audited_model import AuditedModel
from ode_core.models.predictions import Predictions, predict
from ode_core.specs.methods import METHODS, MethodName
from ode_core.specs.solver import SolverSpec

GRID_METHODS: tuple[MethodName, ...] = ("rk4", "midpoint", "euler")
ADAPTIVE_METHODS: tuple[MethodName, ...] = ("dopri5", "bosh3")
# Within the rounding of float32; with the last one a dopri5 solve is about what the reference begins with.
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)
CHEAP_EVALUATIONS = 256
# A solver with more evaluations than this times those of another that agrees as well may still be quicker: for small
# fields an evaluation in an adaptive solve takes several times as long as one on a grid. But there is hardly ever none
# on a grid in between, which then beats it. With this an audit that leaves a choice takes about a third longer.
WORTH_TRYING = 3.0
TIMED_SAMPLES = 32
# More rounds than the fewest only where they are over in no time, and the least of a few is mostly noise.
FEWEST_ROUNDS, MOST_ROUNDS, ENOUGH_SECONDS = 4, 20, 0.2


class Judge:
    """Counts on how many samples solvers agree with what the verdict says they are to agree with.

    A sample whose reference is not settled is one on which nobody is known to agree with it.

    Args:
        verdict: the audit's.
        labels: ``(n,)``, the right ones.
        trained: the predictions under the training solver.
        reference: the converged ones.

    Attributes:
        most: on how many samples a solver can agree at all.
    """

    def __init__(self, verdict: Verdict, labels: Tensor, trained: Predictions, reference: Reference) -> None:
        self.verdict, self.samples = verdict, len(labels)
        self._kind, self._labels = agreement_with(verdict), labels
        self._trained, self._reference = trained, reference
        possible = reference.predictions if self._kind == "reference" else trained
        self.most = int(self._agrees(possible).sum())

    def __call__(self, solver: SolverSpec, predictions: Predictions) -> Candidate:
        """Return what the predictions come to, without the time they take."""
        agreeing = int(self._agrees(predictions).sum())
        return Candidate(
            solver=solver,
            nfe=predictions.mean_evaluations,
            seconds=None,
            accuracy=predictions.accuracy(self._labels),
            agreeing=agreeing,
            interval=clopper_pearson(agreeing, self.samples),
            failures=predictions.failures,
        )

    def _agrees(self, predictions: Predictions) -> Tensor:
        agrees = torch.ones(len(self._labels), dtype=torch.bool)
        if self._kind != "reference":
            agrees &= ~predictions.flips(self._trained)
        if self._kind != "training":
            agrees &= ~predictions.flips(self._reference.predictions) & self._reference.settled
        return agrees


def solvers_to_serve_with(
    train_solver: SolverSpec,
    rungs: Sequence[SolverSpec],
    series: Sequence[Sequence[SolverSpec]],
    judge: Judge,
    solve: Callable[[SolverSpec], Predictions],
    take_times: Callable[[Sequence[SolverSpec]], tuple[dict[SolverSpec, float], Timing]],
    *,
    each: int = 1,
) -> SolverChoice:
    """Return what the solvers come to as solvers to serve with.

    Args:
        train_solver: what the model was trained with.
        rungs: of the ladder, which the audit has solved with in any case.
        series: further ones, tried only where the verdict leaves a choice.
        judge: counts agreements.
        solve: gives the predictions under a solver.
        take_times: gives the seconds for one sample.
        each: evaluations of the trained field in one of the model's, if that is modified; predictions count the former.
    """
    tried = {solver: judge(solver, solve(solver)) for solver in (train_solver, *rungs)}
    eligible = [tried[train_solver]]
    if agreement_with(judge.verdict) != "training":
        for one in series:
            _climb(one, judge, solve, tried, each)
        eligible = list(tried.values())
    seconds, timing = take_times(_worth_timing(eligible))
    return SolverChoice(
        verdict=judge.verdict,
        train_solver=train_solver,
        samples=judge.samples,
        timing=timing,
        candidates=tuple(
            replace(one, seconds=seconds.get(one.solver))
            for one in sorted(tried.values(), key=lambda one: (one.nfe, one.solver.label))
        ),
    )


def _climb(
    series: Sequence[SolverSpec],
    judge: Judge,
    solve: Callable[[SolverSpec], Predictions],
    tried: dict[SolverSpec, Candidate],
    each: int,
) -> None:
    """Add the solvers of a series to those tried, from coarse to fine, until finer ones are of no use.

    That is where one agrees on as many samples as can be, or costs several times what another does that agrees so.
    """
    for solver in series:
        least = min((one.nfe for one in tried.values() if one.agreeing == judge.most), default=math.inf)
        if solver.steps is not None and each * solver.facts.evaluations(solver.steps) > WORTH_TRYING * least:
            return  # known without a solve
        tried[solver] = judge(solver, solve(solver))
        if tried[solver].agreeing == judge.most or tried[solver].nfe > WORTH_TRYING * least:
            return


def _worth_timing(eligible: Sequence[Candidate]) -> list[SolverSpec]:
    """Return the solvers that do not take several times the evaluations of one that agrees on the most samples."""
    best = max(one.agreeing for one in eligible)
    least = min(one.nfe for one in eligible if one.agreeing == best)
    return [one.solver for one in eligible if one.nfe <= WORTH_TRYING * least]


def serving_series(train_solver: SolverSpec, end_time: float) -> list[list[SolverSpec]]:
    """Return the solvers to try for serving: for each method from coarse to fine.

    Grids of 1, 2, 3, 4, 6, 8, 12, ... steps, at up to as many evaluations as the training solver takes, or 256 if that
    is more; beyond, the audit's ladder has its own.
    """
    most = CHEAP_EVALUATIONS
    if not train_solver.adaptive:
        most = max(most, train_solver.facts.evaluations(train_solver.fixed_steps(0.0, end_time)))
    tolerances = [
        [SolverSpec(method=method, rtol=tolerance, atol=tolerance) for tolerance in TOLERANCES]
        for method in ADAPTIVE_METHODS
    ]
    return tolerances + [_grids(method, most) for method in GRID_METHODS]


def _grids(method: MethodName, most: int) -> list[SolverSpec]:
    """Return a method on grids of more and more steps, of at most ``most`` evaluations."""
    affordable = itertools.takewhile(lambda steps: METHODS[method].evaluations(steps) <= most, _steps())
    return [SolverSpec(method=method, steps=steps) for steps in affordable]


def _steps() -> Iterator[int]:
    """Return 1, 2, 3, 4, 6, 8, 12, ...: each a third or a half more than the one before."""
    yield 1
    for power in itertools.count(1):
        yield 2**power
        yield 3 * 2 ** (power - 1)


def solve_times(
    model: AuditedModel,
    inputs: Tensor,
    solvers: Sequence[SolverSpec],
    *,
    before_each: Callable[[], None],
    max_evaluations: int | None,
) -> tuple[dict[SolverSpec, float], Timing]:
    """Return the seconds each solver takes for one sample, and how they were measured.

    Each solves the same batch, the first of ``inputs`` ``(n, *sample_shape)``, several times, and the least counts:
    what else the machine does only adds to it. The solvers take turns, so that a slow spell falls on all. Steps are not
    compiled, as they are not in serving.
    """
    served = model.uncompiled()
    batch = inputs[:TIMED_SAMPLES]
    least = dict.fromkeys(solvers, math.inf)
    rounds, begun = 0, time.perf_counter()
    while rounds < FEWEST_ROUNDS or (rounds < MOST_ROUNDS and time.perf_counter() - begun < ENOUGH_SECONDS):
        rounds += 1
        for solver in least:
            before_each()
            start = time.perf_counter()
            predict(served, batch, solver, max_evaluations=max_evaluations)  # ends on the CPU, with all computed
            least[solver] = min(least[solver], time.perf_counter() - start)
    seconds = {solver: taken / len(batch) for solver, taken in least.items()}
    return seconds, Timing(batch_size=len(batch), rounds=rounds, device=model.device.type)
