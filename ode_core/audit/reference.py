"""The converged solution a verdict is measured against.

An error-controlled solve in float64, its tolerance divided by ten until every prediction is settled. A grid
that is merely finer than the training's is no reference: a model can survive twice its steps and still break
under a converged solver. With the kinks of ReLU a fixed grid of rk4 gains little from its order; to the same
accuracy dopri5 with step control takes several times fewer evaluations.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ode_core.models.audited_model import AuditedModel
from ode_core.models.predictions import Predictions, predict
from ode_core.solvers.status import SolveStatus
from ode_core.specs.solver import SolverSpec

METHOD: Final = "dopri5"
FIRST_TOLERANCE = 1e-4
LAST_TOLERANCE = 1e-9
MAX_STEPS = 5_000
# Evaluations for one sample in one solve of an audit's reference: of the trained field, and of a modified one as in its
# trial. Fields of trained models take some hundreds; one that explodes would go on for minutes.
MAX_EVALUATIONS, MAX_MODIFIED_EVALUATIONS = 10_000, 3_000
SETTLED_SHARE = 0.1
_EXHAUSTED = (SolveStatus.MAX_STEPS_REACHED, SolveStatus.BUDGET_EXCEEDED)


@dataclass(frozen=True)
class Reference:
    """The finest solution that was computed for each sample, and whether it counts as converged.

    Attributes:
        settled: ``(n,)`` of bool: which predictions are settled.
        tolerance: the finest tolerance that was needed, relative to the size of the state.
        failures: samples whose solve failed.
        reason: how it ended, in words.
        predictions: for each sample the prediction at the finest tolerance it took.
        evaluations: evaluations of the field at all tolerances together, mean over the samples.
    """

    settled: Tensor
    tolerance: float
    failures: int
    reason: str
    predictions: Predictions
    evaluations: float

    @property
    def unsettled(self) -> int:
        """Number of samples whose prediction was not settled in the end, failed solves included."""
        return int((~self.settled).sum())

    @property
    def converged(self) -> bool:
        """Whether every prediction is settled."""
        return self.unsettled == 0


def most_evaluations(each: int, max_evaluations: int | None) -> int:
    """Return the bound on the evaluations of the trained field for one sample in one solve of an audit's reference.

    Args:
        each: evaluations of the trained field in one of the model's field, 1 if that is the trained one.
        max_evaluations: another bound on them, or None.
    """
    most = MAX_EVALUATIONS if each == 1 else max(MAX_EVALUATIONS, MAX_MODIFIED_EVALUATIONS * each)
    return most if max_evaluations is None else min(most, max_evaluations)


def margins(logits: Tensor) -> Tensor:
    """Return ``(n,)`` distances of the largest logit to the second; NaN where a solve failed."""
    top = logits.topk(2, dim=1).values
    return torch.where(torch.isfinite(logits).all(dim=1), top[:, 0] - top[:, 1], torch.nan)


def converged_reference(
    model: AuditedModel,
    inputs: Tensor,
    *,
    last_tolerance: float = LAST_TOLERANCE,
    on_tolerance: Callable[[float, int], None] | None = None,
    on_evaluation: Callable[[], None] | None = None,
    max_evaluations: int | None = None,
) -> Reference:
    """Tighten the tolerance until the predictions on ``inputs`` are settled, and say so, or say that they are not.

    A sample is settled when ten times the tolerance gives the same label and no logit moved by more than a
    tenth of the margin: what is left of the error is then far too small to change the label. Only samples that
    are not settled go on to the next tolerance.

    Args:
        model: the classifier; it is copied to float64.
        inputs: ``(n, *sample_shape)``.
        last_tolerance: the tightest tolerance to try.
        on_tolerance: called before each batch with the tolerance and the number of samples left to solve with it.
        on_evaluation: called before the evaluations of the field, several at a time where they are compiled; None: what
            the model's field calls by itself. An exception it raises ends the search.
        max_evaluations: bound on the evaluations of the field for one sample in one solve, or None. A sample that would
            take more does not settle.
    """
    exact = copy.deepcopy(model).double()
    if on_evaluation is not None:
        exact.field.before_evaluation = on_evaluation
    scale = _state_size(exact, inputs)
    tolerance = FIRST_TOLERANCE
    found = _solve(exact, inputs, tolerance, scale, on_tolerance, max_evaluations)
    evaluations = int(found.evaluations.sum())
    # What takes too long at a tolerance takes longer at a tighter one.
    open_samples = torch.nonzero(~torch.isin(found.status, torch.tensor(_EXHAUSTED))).flatten()
    refinements = 0
    while len(open_samples) > 0 and tolerance > last_tolerance * 1.01:
        refinements += 1
        tolerance = FIRST_TOLERANCE / 10**refinements
        coarse = found.select(open_samples)
        fine = _solve(exact, inputs[open_samples.to(inputs.device)], tolerance, scale, on_tolerance, max_evaluations)
        _replace(found, open_samples, fine)
        evaluations += int(fine.evaluations.sum())
        # A solve that leaves the floating-point range does so at every tolerance; a tighter one only costs.
        hopeless = fine.status != SolveStatus.SUCCESS
        open_samples = open_samples[~(are_settled(coarse.logits, fine.logits) | hopeless)]
    settled = found.status == SolveStatus.SUCCESS
    settled[open_samples] = False
    return Reference(
        settled=settled,
        tolerance=tolerance,
        failures=found.failures,
        reason=_reason(int((~settled).sum()), found, tolerance, max_evaluations),
        predictions=found,
        evaluations=evaluations / len(inputs),
    )


def are_settled(coarse: Tensor, fine: Tensor) -> Tensor:
    """Return ``(n,)``: which predictions are settled, by logits ``(n, classes)`` and those of ten times the tolerance.

    The label is the same, and no logit moved by more than a tenth of the margin. False where a solve failed.
    """
    change = (fine - coarse).abs().amax(dim=1)
    return (fine.argmax(dim=1) == coarse.argmax(dim=1)) & (change <= SETTLED_SHARE * margins(fine))


def _state_size(model: AuditedModel, inputs: Tensor) -> float:
    """Return the root mean square of the initial states: what an absolute tolerance has to be measured by."""
    with torch.no_grad():
        size = float(model.initial_state(inputs[:512].to(model.device)).square().mean().sqrt())
    return size if size > 0 else 1.0


def _solve(
    model: AuditedModel,
    inputs: Tensor,
    tolerance: float,
    scale: float,
    on_tolerance: Callable[[float, int], None] | None,
    max_evaluations: int | None,
) -> Predictions:
    solver = SolverSpec(method=METHOD, rtol=tolerance, atol=min(1.0, tolerance * scale), max_steps=MAX_STEPS)
    report = None if on_tolerance is None else functools.partial(on_tolerance, tolerance)
    return predict(model, inputs, solver, on_batch=report, max_evaluations=max_evaluations)


def _replace(predictions: Predictions, samples: Tensor, finer: Predictions) -> None:
    predictions.logits[samples] = finer.logits
    predictions.labels[samples] = finer.labels
    predictions.status[samples] = finer.status
    predictions.evaluations[samples] = finer.evaluations


def _reason(unsettled: int, found: Predictions, tolerance: float, max_evaluations: int | None) -> str:
    failures, samples = found.failures, len(found.labels)
    exhausted = int((found.status == SolveStatus.BUDGET_EXCEEDED).sum())
    if unsettled == 0:
        return f"{METHOD} in float64 settles at a relative tolerance of {tolerance:.0e}"
    if exhausted and max_evaluations is not None:
        more = "" if exhausted == failures else f", and {failures - exhausted} fail otherwise"
        return (
            f"{exhausted} of {samples} solves would take more than {max_evaluations:,} evaluations of the field, the "
            f"bound for one sample{more}"
        )
    if failures:
        first = SolveStatus(int(found.status[found.status != SolveStatus.SUCCESS][0]))
        return f"{failures} of {samples} solves end with {first.text}"
    return f"{unsettled} of {samples} predictions still change at a relative tolerance of {tolerance:.0e}"
