"""The converged solution a verdict is measured against.

rk4 in float64, the number of steps doubled until consecutive predictions agree and the logits settle. A
grid that is merely finer than the training's is no reference: a model can survive twice its steps and
still break under a converged solver.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core.models.classifier import Classifier
from ode_core.models.predictions import Predictions, predict
from ode_core.specs.solver import SolverSpec

SMALLEST_GRID = 64
LARGEST_GRID = 16_384
ALLOWED_FLIPS = 1
SHRINKAGE = 0.5  # rk4 gains 1/16 a doubling on a smooth field; at the kinks of ReLU far less
NEGLIGIBLE_DRIFT = 1e-6  # relative to the median margin: no prediction hangs on it


@dataclass(frozen=True)
class Reference:
    """The finest solution that was computed, and whether it counts as converged.

    Attributes:
        converged: whether the last two grids agreed; if not, no verdict may rest on it.
        steps: steps of the finest grid.
        flips: predictions that still changed between the last two grids.
        drift: median change of the logits between them, relative to the median margin.
        reason: one sentence about how it ended.
        predictions: predictions on the finest grid.
        model: the model in float64.
    """

    converged: bool
    steps: int
    flips: int
    drift: float
    reason: str
    predictions: Predictions
    model: Classifier


def starting_grid(train_solver: SolverSpec, end_time: float) -> int:
    """Return the first grid to try: four times the training's steps, at least 64."""
    if train_solver.adaptive:
        return SMALLEST_GRID
    return max(4 * train_solver.fixed_steps(0.0, end_time), SMALLEST_GRID)


def margins(logits: Tensor) -> Tensor:
    """Return ``(n,)`` distances of the largest logit to the second; NaN where a solve failed."""
    top = logits.topk(2, dim=1).values
    return torch.where(torch.isfinite(logits).all(dim=1), top[:, 0] - top[:, 1], torch.nan)


def converged_reference(
    model: Classifier,
    inputs: Tensor,
    train_solver: SolverSpec,
    *,
    largest_grid: int = LARGEST_GRID,
    on_grid: Callable[[int], None] | None = None,
) -> Reference:
    """Refine until the predictions on ``inputs`` settle, and say so, or say that they did not.

    Converged means: at most one prediction differs between consecutive grids, and the logits' drift either
    is negligible against the margin or has at least halved.
    """
    exact = copy.deepcopy(model).double()
    steps = starting_grid(train_solver, model.end_time)
    coarse = _on_grid(exact, inputs, steps, on_grid)
    flips, drift = len(inputs), torch.inf
    while True:
        if coarse.failures:
            reason = f"{coarse.failures} solutions leave the range of floating-point numbers with rk4-{steps}"
            return Reference(False, steps, coarse.failures, torch.nan, reason, coarse, exact)
        if 2 * steps > largest_grid:
            reason = f"predictions or logits still change at rk4-{steps}, the finest grid allowed"
            return Reference(False, steps, flips, drift, reason, coarse, exact)
        steps *= 2
        fine = _on_grid(exact, inputs, steps, on_grid)
        previous_drift, drift = drift, relative_drift(fine, coarse)
        flips = int(fine.flips(coarse).sum())
        settled = drift <= NEGLIGIBLE_DRIFT or drift <= SHRINKAGE * previous_drift < torch.inf
        if flips <= ALLOWED_FLIPS and settled:
            reason = f"rk4-{steps // 2} and rk4-{steps} agree"
            return Reference(True, steps, flips, drift, reason, fine, exact)
        coarse = fine


def relative_drift(fine: Predictions, coarse: Predictions) -> float:
    """Return the median over samples of the largest logit change, over the median margin."""
    change = (fine.logits - coarse.logits).abs().amax(dim=1)
    margin = margins(fine.logits).nanmedian().clamp(min=torch.finfo(torch.float64).tiny)
    return float(change.nanmedian() / margin)


def _on_grid(model: Classifier, inputs: Tensor, steps: int, on_grid: Callable[[int], None] | None) -> Predictions:
    if on_grid is not None:
        on_grid(steps)
    return predict(model, inputs, SolverSpec(method="rk4", steps=steps))
