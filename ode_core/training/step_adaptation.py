"""Adapt the step size during training so that the model stays an ODE.

Source: Ott, Katiyar, Hennig, Tiemann: ResNet After All: Neural ODEs and Their Numerical Solution, ICLR
2021, and the talk of 2022. Steps are relative to the length of the interval: 1 is a single step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core.specs.methods import METHODS, MethodName
from ode_core.specs.training import StepAdaptation

FIRST_STEP_EVALUATIONS = 2

AccuracyOf = Callable[[MethodName, int], float]
"""Accuracy on the current batch under ``method`` with ``steps`` steps."""


def steps_for(step: float) -> int:
    """Return the integer number of steps of a relative step: the next larger one where 1/step is none."""
    exact = 1.0 / step
    nearest = round(exact)
    return nearest if abs(exact - nearest) <= 1e-9 * nearest else math.ceil(exact)


def more_accurate_solver(method: MethodName, step: float) -> tuple[MethodName, int]:
    """Return the paper's test solver for a training solver: one order up, and fine enough to tell.

    Raises:
        ValueError: the paper names none for the method.
    """
    if method == "euler":
        test_step = step if 1 / step > 50 else math.sqrt(step / 50)
        return "midpoint", steps_for(test_step)
    if method == "midpoint":
        test_step = step if 1 / step**2 > 50 else (step**2 / 50) ** 0.25
        return "rk4", steps_for(test_step)
    raise ValueError(f"the paper names no test solver for {method}")


@torch.no_grad()
def first_step(
    field: Callable[[Tensor, Tensor], Tensor], z0: Tensor, *, order: int, end_time: float, max_steps: int
) -> float:
    """Return the relative step to begin with, from ``FIRST_STEP_EVALUATIONS`` calls of the field.

    Source: Hairer, Norsett, Wanner I, II.4, without tolerances, as the paper uses it. Norms are Euclidean over a
    sample and averaged over the batch, so that the batch size does not enter.

    Args:
        field: ``f(t, z)``.
        z0: ``(batch, *state)``, the states of the first batch at time 0.
        order: order of the training method.
        end_time: length of the interval.
        max_steps: the step is at least ``1 / max_steps``; it is this where the field is not finite.
    """
    smallest = 1 / max_steps
    t0 = torch.zeros((), dtype=z0.dtype, device=z0.device)
    slope = field(t0, z0)
    d0, d1 = _mean_norm(z0), _mean_norm(slope)
    if not (math.isfinite(d0) and math.isfinite(d1)):
        return smallest
    h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    h0 = min(h0, end_time)
    d2 = _mean_norm(field(t0 + h0, z0 + h0 * slope) - slope) / h0
    if not math.isfinite(d2):
        return smallest
    steepest = max(d1, d2)
    h1 = max(1e-6, h0 * 1e-3) if steepest < 1e-15 else (0.01 / steepest) ** (1 / (order + 1))
    step = min(100 * h0, h1) / end_time
    return min(max(step, smallest), 1.0)


def _mean_norm(values: Tensor) -> float:
    # In float64: the square of a float32 slope of 1e20 is beyond float32.
    return float(torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=torch.float64).mean())


@dataclass(frozen=True)
class StepCheck:
    """One check of the training step against the test solver.

    Attributes:
        difference: absolute difference of the two accuracies.
        accepted: whether it was within the threshold.
        step: the relative step to go on with.
        evaluations: evaluations of the field the check took, for one sample.
    """

    difference: float
    accepted: bool
    step: float
    evaluations: int


def check_step(
    rule: StepAdaptation, method: MethodName, step: float, accuracy_of: AccuracyOf, *, may_grow: bool
) -> StepCheck:
    """Hold the training step against a more accurate solver and return the step to go on with.

    Args:
        rule: which rule, with its threshold and growth.
        method: the training method.
        step: the relative step in use.
        accuracy_of: measures an accuracy on the current batch, without a graph; asked once for each solver.
        may_grow: False in the last part of the training, where the step only gets smaller.
    """
    measured: dict[tuple[MethodName, int], float] = {}

    def accuracy(test_method: MethodName, steps: int) -> float:
        # A slightly larger step often makes the same number of steps: no need to solve again.
        if (test_method, steps) not in measured:
            measured[test_method, steps] = accuracy_of(test_method, steps)
        return measured[test_method, steps]

    test_accuracy = accuracy(*more_accurate_solver(method, step))
    difference = abs(test_accuracy - accuracy(method, steps_for(step)))
    accepted = difference <= rule.threshold
    next_step = step
    if not accepted:
        next_step = max(step / 2, 1 / rule.max_steps)
    elif may_grow:
        larger = min(step * rule.growth, 1.0)
        if rule.rule == "talk" or abs(test_accuracy - accuracy(method, steps_for(larger))) <= rule.threshold:
            next_step = larger
    evaluations = sum(METHODS[solved].evaluations(steps) for solved, steps in measured)
    return StepCheck(difference, accepted, next_step, evaluations)
