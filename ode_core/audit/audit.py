"""Is this trained model an ODE? A verdict with its evidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core.audit.ladder import ladder
from ode_core.audit.measurement import Measurement, measure
from ode_core.audit.progress import OnProgress, Progress
from ode_core.audit.reference import METHOD as REFERENCE_METHOD
from ode_core.audit.reference import Reference, converged_reference, margins, most_evaluations
from ode_core.audit.serving_solvers import Judge, serving_series, solve_times, solvers_to_serve_with
from ode_core.audit.solver_choice import SolverChoice, Timing
from ode_core.audit.statistics import clopper_pearson, mcnemar_exact
from ode_core.audit.sweep import TestResult, test_result
from ode_core.audit.verdict import TRAINED_WITH, Rule, Verdict, decide, samples_needed, sentence
from ode_core.models.audited_model import AuditedModel
from ode_core.models.predictions import Predictions
from ode_core.solvers.more_accurate_solver import more_accurate_solver
from ode_core.specs.budgets import solve_evaluations
from ode_core.specs.solver import MAX_FIXED_STEPS, SolverSpec

PAPER_THRESHOLD = 0.1
ALLOWED_UNSETTLED = 0.01  # share of the samples; with more of them the reference as a whole is not to be trusted


@dataclass(frozen=True)
class AuditReport:
    """A verdict and everything it rests on.

    With ``unresolved`` the numbers about the reference are those of the finest solution tried, and prove nothing.

    Attributes:
        verdict: ``ode``, ``discrete``, ``inconclusive`` or ``unresolved``.
        sentence: the verdict in words.
        epsilon: largest flip rate at which a model counts as an ODE.
        samples: audited samples.
        samples_needed: for ``inconclusive``: about how many would decide it; None if no number would.
        train_solver: the solver the model was trained with.
        train_accuracy: accuracy under it.
        reference_accuracy: accuracy under the converged reference.
        flip_rate: share of samples whose prediction differs between the two.
        flip_interval: its exact 95 % interval.
        mcnemar_p: p-value that the two accuracies are equal.
        drift: quantiles over the samples of the largest change of a logit over the margin between the two largest;
            below 1/2 a prediction cannot have changed. Samples whose solve failed are left out.
        reference: how the reference was found.
        paper_rule: the paper's rule, ``|accuracy difference| <= 0.1`` against its test solver.
        half_step_rule: the same against the training method with twice the steps.
        ladder: results under coarser and finer solvers.
        solver_choice: the solvers to serve the model with.
        trained: the predictions under the training solver.
    """

    verdict: Verdict
    sentence: str
    epsilon: float
    samples: int
    samples_needed: int | None
    train_solver: SolverSpec
    train_accuracy: float
    reference_accuracy: float
    flip_rate: float
    flip_interval: tuple[float, float]
    mcnemar_p: float
    drift: dict[str, float | None]
    reference: Reference
    paper_rule: Rule
    half_step_rule: Rule
    ladder: list[TestResult]
    solver_choice: SolverChoice
    trained: Predictions

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; all numbers are finite or None."""
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "epsilon": self.epsilon,
            "samples": self.samples,
            "samples_needed": self.samples_needed,
            "train_solver": self.train_solver.document(),
            "train_accuracy": self.train_accuracy,
            "reference_accuracy": self.reference_accuracy,
            "flip_rate": self.flip_rate,
            "flip_interval": list(self.flip_interval),
            "mcnemar_p": self.mcnemar_p,
            "drift_over_margin": self.drift,
            "reference": {
                "converged": self.reference.converged,
                "method": REFERENCE_METHOD,
                "precision": "float64",
                "tolerance": self.reference.tolerance,
                "nfe": self.reference.predictions.mean_evaluations,
                "unsettled": self.reference.unsettled,
                "failures": self.reference.failures,
                "reason": self.reference.reason,
            },
            "paper_rule": self.paper_rule.to_json(),
            "half_step_rule": self.half_step_rule.to_json(),
            "ladder": [result.to_json() for result in self.ladder],
            "solver_choice": self.solver_choice.to_json(),
        }


def audit(
    model: AuditedModel,
    inputs: Tensor,
    labels: Tensor,
    train_solver: SolverSpec,
    *,
    epsilon: float = 0.01,
    on_progress: OnProgress | None = None,
    max_evaluations: int | None = None,
    role: str = TRAINED_WITH,
    held_out: int | None = None,
) -> AuditReport:
    """Audit ``model``, trained with ``train_solver``, on held-out ``inputs`` ``(n, *sample_shape)``.

    With ``max_evaluations`` a sample whose solve would take more evaluations of the field fails, and test solvers whose
    grid is known to take more are left out; for the reference, and for test solvers with tolerances,
    ``most_evaluations`` is the bound. ``role`` is what the sentence calls ``train_solver``; a repaired model is served
    with it and was not trained with it. ``held_out`` is how many samples there would be, where that is known: the
    sentence says it where more are needed.
    """

    def affordable(solver: SolverSpec) -> bool:
        if max_evaluations is None or solver.adaptive or solver == train_solver:
            return True
        return model.evaluations_in_field * solve_evaluations(solver, model.end_time) <= max_evaluations

    rungs = list(filter(affordable, ladder(train_solver, model.end_time, eps=torch.finfo(model.dtype).eps)))
    progress = Progress(len(rungs) + 4, on_progress)
    solves = _Solves(model, inputs, progress, train_solver, max_evaluations)

    progress.next_part(f"predictions with {train_solver.label}")
    trained = solves(train_solver)
    progress.next_part("converged reference")
    reference = converged_reference(
        model,
        inputs,
        on_tolerance=lambda tolerance, left: progress.within(
            f"converged reference: tolerance {tolerance:.0e}, {left:,} samples"
        ),
        on_evaluation=lambda: progress.again(),
        max_evaluations=most_evaluations(model.evaluations_in_field, max_evaluations),
    )
    progress.next_part("simpler rules")
    simpler = (paper_test_solver(train_solver, model.end_time), half_step_solver(train_solver, model.end_time))
    paper, half_step = (
        _rule(solver if solver is not None and affordable(solver) else None, solves, labels, trained)
        for solver in simpler
    )
    results = []
    for solver in rungs:
        progress.next_part(f"ladder: {solver.label}")
        measurement = solves.timed(solver)
        results.append(test_result(measurement, labels, model.end_time, trained, reference.predictions))
    progress.next_part("solvers to serve with")
    verdict = _verdict(trained.flips(reference.predictions), reference.settled, epsilon)
    judge = Judge(verdict, labels, trained, reference)
    series = [list(filter(affordable, one)) for one in serving_series(train_solver, model.end_time)]
    choice = solvers_to_serve_with(
        train_solver, rungs, series, judge, solves, solves.seconds_per_sample, each=model.evaluations_in_field
    )
    return _report(
        epsilon, labels, train_solver, trained, reference, paper, half_step, results, verdict, choice, role, held_out
    )


class _Solves:
    """The model's predictions by solver, each computed once."""

    def __init__(
        self,
        model: AuditedModel,
        inputs: Tensor,
        progress: Progress,
        train_solver: SolverSpec,
        max_evaluations: int | None,
    ) -> None:
        self.model, self._inputs, self._progress, self._train_solver = model, inputs, progress, train_solver
        self._max_evaluations = max_evaluations
        self._known: dict[SolverSpec, Measurement] = {}

    def __call__(self, solver: SolverSpec) -> Predictions:
        return self.timed(solver).predictions

    def timed(self, solver: SolverSpec) -> Measurement:
        """Return the predictions with the time they took."""
        if solver not in self._known:
            self._known[solver] = measure(
                self.model,
                self._inputs,
                solver,
                on_batch=lambda left: self._progress.within(f"{solver.label}, {left:,} samples"),
                max_evaluations=self._most(solver),
            )
        return self._known[solver]

    def _most(self, solver: SolverSpec) -> int | None:
        """Return the bound on a solve: with tolerances the reference's, but the training solver's are what they are."""
        if not solver.adaptive or solver == self._train_solver:
            return self._max_evaluations
        return most_evaluations(self.model.evaluations_in_field, self._max_evaluations)

    def seconds_per_sample(self, solvers: Sequence[SolverSpec]) -> tuple[dict[SolverSpec, float], Timing]:
        """Return the time by solver, taken side by side, and how it was taken."""
        return solve_times(
            self.model,
            self._inputs,
            solvers,
            before_each=lambda: self._progress.within("times of the solvers to serve with"),
            max_evaluations=self._max_evaluations,
        )


def _report(
    epsilon: float,
    labels: Tensor,
    train_solver: SolverSpec,
    trained: Predictions,
    reference: Reference,
    paper: Rule,
    half_step: Rule,
    results: list[TestResult],
    verdict: Verdict,
    choice: SolverChoice,
    role: str,
    held_out: int | None,
) -> AuditReport:
    flipped, samples = trained.flips(reference.predictions), len(labels)
    flips = int(flipped.sum())
    flip_rate = flips / samples
    interval = clopper_pearson(flips, samples)
    needed = samples_needed(verdict, flip_rate, epsilon, more_than=samples)
    right_trained, right_reference = trained.labels == labels, reference.predictions.labels == labels
    train_accuracy, reference_accuracy = trained.accuracy(labels), reference.predictions.accuracy(labels)
    return AuditReport(
        verdict=verdict,
        sentence=sentence(
            verdict,
            train_solver=train_solver,
            train_accuracy=train_accuracy,
            reference_accuracy=reference_accuracy,
            flip_rate=flip_rate,
            interval=interval,
            epsilon=epsilon,
            needed=needed,
            reason=reference.reason,
            role=role,
            held_out=held_out,
        ),
        epsilon=epsilon,
        samples=samples,
        samples_needed=needed,
        train_solver=train_solver,
        train_accuracy=train_accuracy,
        reference_accuracy=reference_accuracy,
        flip_rate=flip_rate,
        flip_interval=interval,
        mcnemar_p=mcnemar_exact(
            int((right_trained & ~right_reference).sum()), int((right_reference & ~right_trained).sum())
        ),
        drift=_drift_over_margin(trained, reference.predictions),
        reference=reference,
        paper_rule=paper,
        half_step_rule=half_step,
        ladder=results,
        solver_choice=choice,
        trained=trained,
    )


def _verdict(flipped: Tensor, settled: Tensor, epsilon: float) -> Verdict:
    """Return the verdict that holds whichever way the unsettled samples fall; ``unresolved`` where there is none."""
    samples = len(flipped)
    fewest, most = int((flipped & settled).sum()), int((flipped | ~settled).sum())
    verdicts = {decide(flips, samples, epsilon) for flips in (fewest, most)}
    mostly_settled = samples - int(settled.sum()) <= ALLOWED_UNSETTLED * samples
    return verdicts.pop() if len(verdicts) == 1 and mostly_settled else "unresolved"


def paper_test_solver(train_solver: SolverSpec, end_time: float) -> SolverSpec | None:
    """Return what the paper tests a model with, or None where it names nothing for the training solver."""
    if train_solver.adaptive or train_solver.method not in ("euler", "midpoint"):
        return None
    method, steps = more_accurate_solver(train_solver.method, 1 / train_solver.fixed_steps(0.0, end_time))
    return SolverSpec(method=method, steps=steps)


def half_step_solver(train_solver: SolverSpec, end_time: float) -> SolverSpec | None:
    """Return the training method with twice the steps, or None with tolerances and beyond the limit on steps."""
    if train_solver.adaptive:
        return None
    steps = 2 * train_solver.fixed_steps(0.0, end_time)
    return train_solver.with_steps(steps) if steps <= MAX_FIXED_STEPS else None


def _rule(test_solver: SolverSpec | None, solves: _Solves, labels: Tensor, trained: Predictions) -> Rule:
    if test_solver is None:
        return Rule(None, None, None, None, PAPER_THRESHOLD)
    accuracy = solves(test_solver).accuracy(labels)
    difference = abs(accuracy - trained.accuracy(labels))
    return Rule(difference <= PAPER_THRESHOLD, test_solver, accuracy, difference, PAPER_THRESHOLD)


def _drift_over_margin(trained: Predictions, reference: Predictions) -> dict[str, float | None]:
    change = (trained.logits.double() - reference.logits).abs().amax(dim=1)
    ratio = change / margins(trained.logits.double())
    shares = torch.tensor([0.5, 0.9, 0.99, 1.0], dtype=torch.float64)
    values = torch.nanquantile(ratio, shares).tolist()
    return dict(zip(("median", "p90", "p99", "max"), map(_finite_or_none, values), strict=True))


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
