"""A first step size from the field at the start.

Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.4.
"""

import torch
from torch import Tensor

from ode_core.solvers.solution import Field, broadcast_to_state
from ode_core.solvers.step_control import inverse_root, sample_rms


@torch.no_grad()
def initial_step(
    field: Field,
    z0: Tensor,
    slope0: Tensor,
    t0: Tensor,
    interval: Tensor,
    *,
    direction: float,
    order: int,
    rtol: float,
    atol: float,
) -> Tensor:
    """Return a first step length for each sample; one evaluation of the field.

    Args:
        field: the vector field.
        z0: ``(batch, *state)``, the start.
        slope0: the field there.
        t0: ``(batch,)``, the start time of each sample.
        interval: ``(batch,)``, length of the interval; the step does not exceed it.
        direction: 1 or -1.
        order: order of the method's error estimate plus one.
        rtol: relative tolerance.
        atol: absolute tolerance.

    Returns:
        ``(batch,)`` positive lengths in float64.
    """
    # In float64, as a slope of 1e12 over a tolerance of 1e-9 has a square beyond float32.
    scale = atol + rtol * z0.double().abs()
    d0, d1 = sample_rms(z0.double() / scale), sample_rms(slope0.double() / scale)
    flat = (d0 < 1e-5) | (d1 < 1e-5)
    h0 = torch.minimum(torch.where(flat, 1e-6, 0.01 * d0 / d1), interval)
    step = broadcast_to_state(direction * h0, z0).to(z0.dtype)
    t = broadcast_to_state(t0 + direction * h0, z0).to(z0.dtype)
    slope1 = field(t, z0 + step * slope0)
    d2 = sample_rms((slope1 - slope0).double() / scale) / h0
    steepest = torch.maximum(d1, d2)
    h1 = torch.where(steepest <= 1e-15, torch.clamp(h0 * 1e-3, min=1e-6), inverse_root(steepest / 0.01, order))
    h = torch.minimum(torch.minimum(100 * h0, h1), interval)
    # A field that is not finite there says nothing; the error control goes on from a small step.
    return torch.where(torch.isfinite(h) & (h > 0), h, 1e-6 * interval)
