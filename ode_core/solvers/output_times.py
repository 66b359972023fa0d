"""Output times: what may be asked for, and when one of them is an end of the interval."""

from typing import Literal

import torch
from torch import Tensor

OutputMode = Literal["land", "interpolate"]
"""How an adaptive solve reaches its output times: with a step that ends there, or between steps."""


def require_output_times(times: Tensor, t0: float, t1: float) -> Tensor:
    """Return the output times, checked, in floating point.

    An end of the interval may be off by the rounding of ``times``' own type: 0.1 in float32 lies above 0.1.

    Raises:
        ValueError: they do not run from ``t0`` towards ``t1``, in order and within the interval.
    """
    if times.ndim != 1 or times.numel() == 0:
        raise ValueError(f"times must be a vector of at least one time; it has shape {tuple(times.shape)}")
    times = times.detach()
    times = times if times.is_floating_point() else times.double()
    values = snapped_to_ends(times, t0, t1)
    ordered = values.diff() >= 0 if t1 >= t0 else values.diff() <= 0
    inside = (values >= min(t0, t1)) & (values <= max(t0, t1))  # False for NaN
    if not (bool(ordered.all()) and bool(inside.all())):
        raise ValueError(f"times must run from {t0:g} towards {t1:g} in order, within the interval")
    return times


def snapped_to_ends(times: Tensor, t0: float, t1: float) -> Tensor:
    """Return the times in float64; one that is an end up to the rounding of its type is exactly that end."""
    values = times.double()
    rounding = torch.finfo(times.dtype).eps * max(abs(t0), abs(t1))
    for end in (t0, t1):
        values = torch.where((values - end).abs() <= rounding, end, values)
    return values
