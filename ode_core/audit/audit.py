"""Is this trained model an ODE? A verdict with its evidence."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core.audit.ladder import ladder
from ode_core.audit.reference import METHOD as REFERENCE_METHOD
from ode_core.audit.reference import Reference, converged_reference, margins
from ode_core.audit.statistics import clopper_pearson, mcnemar_exact
from ode_core.audit.sweep import TestResult, result_under
from ode_core.audit.verdict import Rule, Verdict, decide, samples_needed, sentence
from ode_core.models.classifier import Classifier
from ode_core.models.predictions import Predictions, predict
from ode_core.specs.solver import SolverSpec
from ode_core.training.step_adaptation import more_accurate_solver

PAPER_THRESHOLD = 0.1

OnProgress = Callable[[int, int, str], None]
"""Called before each part with its number (from 1), the number of parts known so far, and a message."""


@dataclass(frozen=True)
class AuditReport:
    """A verdict and everything it rests on.

    Attributes:
        verdict: ``ode``, ``discrete``, ``inconclusive`` or ``unresolved``.
        sentence: the verdict in words.
        epsilon: largest flip rate at which a model counts as an ODE.
        samples: audited samples.
        samples_needed: for ``inconclusive``: how many would have decided it, or None.
        train_solver: the solver the model was trained with.
        train_accuracy: accuracy under it.
        reference_accuracy: accuracy under the converged reference.
        flip_rate: share of samples whose prediction differs between the two.
        flip_interval: its exact 95 % interval.
        mcnemar_p: p-value that the two accuracies are equal.
        drift: quantiles of the logits' drift over the margin; at 1 the margin is gone.
        reference: how the reference was found.
        paper_rule: the paper's rule, ``|accuracy difference| <= 0.1`` against its test solver.
        half_step_rule: the same against the training method with twice the steps.
        ladder: results under coarser and finer solvers.
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

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; all numbers are finite or None."""
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "epsilon": self.epsilon,
            "samples": self.samples,
            "samples_needed": self.samples_needed,
            "train_solver": self.train_solver.model_dump(exclude_none=True),
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
        }


def audit(
    model: Classifier,
    inputs: Tensor,
    labels: Tensor,
    train_solver: SolverSpec,
    *,
    epsilon: float = 0.01,
    on_progress: OnProgress | None = None,
) -> AuditReport:
    """Audit ``model``, trained with ``train_solver``, on held-out ``inputs`` ``(n, *sample_shape)``."""
    rungs = ladder(train_solver, model.end_time)
    parts = len(rungs) + 4
    report = on_progress or (lambda part, total, message: None)

    report(1, parts, f"predictions with {train_solver.label}")
    trained = predict(model, inputs, train_solver)
    reference = converged_reference(
        model,
        inputs,
        on_tolerance=lambda tolerance, samples: report(
            2, parts, f"converged reference: tolerance {tolerance:.0e}, {samples} samples"
        ),
    )
    report(3, parts, "simpler rules")
    paper, half_step = (
        _paper_rule(model, inputs, labels, train_solver, trained),
        _half_step_rule(model, inputs, labels, train_solver, trained),
    )
    results = []
    for number, solver in enumerate(rungs, start=4):
        report(number, parts, f"ladder: {solver.label}")
        results.append(result_under(model, inputs, labels, solver, trained, reference.predictions))
    report(parts, parts, "verdict")
    return _report(epsilon, labels, train_solver, trained, reference, paper, half_step, results)


def _report(
    epsilon: float,
    labels: Tensor,
    train_solver: SolverSpec,
    trained: Predictions,
    reference: Reference,
    paper: Rule,
    half_step: Rule,
    results: list[TestResult],
) -> AuditReport:
    flips = trained.flips(reference.predictions)
    flip_rate = float(flips.double().mean())
    interval = clopper_pearson(int(flips.sum()), len(flips))
    verdict = decide(reference.converged, interval, epsilon)
    needed = samples_needed(verdict, flip_rate, epsilon)
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
        ),
        epsilon=epsilon,
        samples=len(labels),
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
    )


def _paper_rule(
    model: Classifier, inputs: Tensor, labels: Tensor, train_solver: SolverSpec, trained: Predictions
) -> Rule:
    if train_solver.adaptive or train_solver.method not in ("euler", "midpoint"):
        return Rule(None, None, None, None, PAPER_THRESHOLD)
    method, steps = more_accurate_solver(train_solver.method, 1 / train_solver.fixed_steps(0.0, model.end_time))
    return _rule(model, inputs, labels, SolverSpec(method=method, steps=steps), trained)


def _half_step_rule(
    model: Classifier, inputs: Tensor, labels: Tensor, train_solver: SolverSpec, trained: Predictions
) -> Rule:
    if train_solver.adaptive:
        return Rule(None, None, None, None, PAPER_THRESHOLD)
    finer = train_solver.with_steps(2 * train_solver.fixed_steps(0.0, model.end_time))
    return _rule(model, inputs, labels, finer, trained)


def _rule(model: Classifier, inputs: Tensor, labels: Tensor, solver: SolverSpec, trained: Predictions) -> Rule:
    accuracy = predict(model, inputs, solver).accuracy(labels)
    difference = abs(accuracy - trained.accuracy(labels))
    return Rule(difference <= PAPER_THRESHOLD, solver, accuracy, difference, PAPER_THRESHOLD)


def _drift_over_margin(trained: Predictions, reference: Predictions) -> dict[str, float | None]:
    change = (trained.logits.double() - reference.logits).abs().amax(dim=1)
    ratio = change / margins(trained.logits.double())
    shares = torch.tensor([0.5, 0.9, 0.99, 1.0], dtype=torch.float64)
    values = torch.nanquantile(ratio, shares).tolist()
    return dict(zip(("median", "p90", "p99", "max"), map(_finite_or_none, values), strict=True))


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
