"""The step a training with step adaptation begins with.

Source: Hairer, Norsett, Wanner I, II.4, without tolerances, as Ott et al. (2021) use it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

FIRST_STEP_EVALUATIONS = 2


@torch.no_grad()
def first_step(
    field: Callable[[Tensor, Tensor], Tensor], z0: Tensor, *, order: int, end_time: float, max_steps: int
) -> float:
    """Return the relative step to begin with, from ``FIRST_STEP_EVALUATIONS`` calls of the field.

    Norms are Euclidean over a sample and averaged over the batch, so that the batch size does not enter.

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
