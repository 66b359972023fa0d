"""A walk and its passes in a few tensors, for the way into a graph and out of it: each tensor there costs time.

States of a few numbers stand as rows ``(batch,)`` in them, so that what is computed for every sample runs over
neighbours.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ode_core.solvers.adaptive_step import Limits, Walk
from ode_core.solvers.columns import MOST_COLUMNS
from ode_core.solvers.solution import per_sample
from ode_core.solvers.step_control import ErrorHistory
from ode_core.solvers.step_history import Passes, samples_last


class PackedWalk(NamedTuple):
    """A ``Walk`` in three tensors.

    Attributes:
        states: the states and then the slopes, ``(2 * state, batch)`` where states are narrow, else
            ``(2, batch, *state)``.
        numbers: ``(rows, batch)`` in float64.
        counts: ``(rows, batch)`` in int64.
    """

    states: Tensor
    numbers: Tensor
    counts: Tensor


class PackedLimits(NamedTuple):
    """``Limits`` in two tensors, of float64 and int64."""

    numbers: Tensor
    counts: Tensor


def flat_if_narrow(shape: torch.Size) -> torch.Size:
    """Return the shape of a state as it is in a graph: flat where it is a few numbers, and then rows when packed."""
    size = math.prod(shape)
    return torch.Size([size]) if size <= MOST_COLUMNS else shape


def packed_walk(walk: Walk) -> PackedWalk:
    """Return a walk in three tensors."""
    last, before = walk.history
    counts = (walk.rejected_before.long(), walk.stop, walk.status, walk.evaluations, walk.accepted, walk.rejected)
    return PackedWalk(
        states=torch.stack([*_rows(walk.z), *_rows(walk.slope)]),
        numbers=torch.stack([walk.t, walk.h, last, before, walk.last_step]),
        counts=torch.stack(counts),
    )


def unpacked_walk(packed: PackedWalk, shape: torch.Size) -> Walk:
    """Return the walk that was packed, its states in this shape."""
    t, h, last, before, last_step = packed.numbers.unbind()
    rejected_before, stop, status, evaluations, accepted, rejected = packed.counts.unbind()
    if math.prod(shape) <= MOST_COLUMNS:
        z, slope = (rows.mT.reshape(-1, *shape) for rows in packed.states.chunk(2))
    else:
        z, slope = packed.states.unbind()
    return Walk(
        z=z,
        slope=slope,
        t=t,
        h=h,
        history=ErrorHistory(last, before),
        rejected_before=rejected_before.bool(),
        stop=stop,
        status=status,
        evaluations=evaluations,
        accepted=accepted,
        rejected=rejected,
        last_step=last_step,
    )


def packed_limits(limits: Limits) -> PackedLimits:
    """Return limits in two tensors."""
    numbers = torch.stack((limits.rtol, limits.atol, limits.shortest))
    return PackedLimits(torch.cat((numbers, limits.stops)), torch.stack((limits.max_steps, limits.max_evaluations)))


def unpacked_limits(packed: PackedLimits) -> Limits:
    """Return the limits that were packed."""
    (rtol, atol, shortest), stops = packed.numbers[:3].unbind(), packed.numbers[3:]
    max_steps, max_evaluations = packed.counts.unbind()
    return Limits(stops, rtol, atol, max_steps, max_evaluations, shortest)


def packed_passes(passes: Sequence[tuple[Tensor, Sequence[Tensor]]]) -> Passes:
    """Return passes, each the times after it, the states ``(batch, *state)`` and the polynomial's coefficients."""
    times, kept = zip(*passes, strict=True)
    of_passes = list(zip(*kept, strict=True))  # first by state or coefficient, then by pass
    if _is_narrow(kept[0][0]):
        rows = [row for same in of_passes for number in zip(*map(_rows, same), strict=True) for row in number]
        states = torch.stack(rows).reshape(len(of_passes), -1, len(times), len(times[0]))
    else:
        states = torch.stack([torch.stack([samples_last(values) for values in same], dim=1) for same in of_passes])
    return Passes(torch.stack(times), states)


def _rows(values: Tensor) -> Sequence[Tensor]:
    """Return what is stacked of values ``(batch, *state)``: a row for each number of a narrow state."""
    return per_sample(values).unbind(1) if _is_narrow(values) else [values]


def _is_narrow(values: Tensor) -> bool:
    return math.prod(values.shape[1:]) <= MOST_COLUMNS
