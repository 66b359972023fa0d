"""States between the steps of an adaptive solve: the outputs, read off the steps that were taken."""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from ode_core.solvers.solution import broadcast_to_state
from ode_core.solvers.tableaus import ButcherTableau

# Steps are kept until there are this many, or this many bytes of them, and then read and let go.
_MOST_STEPS = 64
_MOST_BYTES = 2**26


class Step(NamedTuple):
    """One pass of a solve, for the interpolant. A sample that did not move has ``t_new`` where it was.

    Attributes:
        length: ``(batch,)``, signed length of the step.
        t_new: ``(batch,)`` in float64, the time after it.
        z_new: ``(batch, *state)``, the state after it.
        slopes: slopes of its stages, the interpolant's extra ones included.
        slope_new: the field at the state after it, for the Hermite interpolant; None where it is not needed.
    """

    length: Tensor
    t_new: Tensor
    z_new: Tensor
    slopes: tuple[Tensor, ...]
    slope_new: Tensor | None


def hermite(s: float | Tensor, h: float | Tensor, z0: Tensor, k0: Tensor, z1: Tensor, k1: Tensor) -> Tensor:
    """Return the cubic through both ends with their slopes, at the share ``s`` of the step ``h``.

    Source: Hairer, Norsett, Wanner I, II.6, equation 6.7.
    """
    rest = 1.0 - s
    return (rest * rest * (1 + 2 * s)) * z0 + (s * s * (1 + 2 * rest)) * z1 + (h * s * rest) * (rest * k0 - s * k1)


def continuous_extension(
    weights: Sequence[Sequence[Fraction]], s: float | Tensor, h: float | Tensor, z0: Tensor, slopes: Sequence[Tensor]
) -> Tensor:
    """Return ``z0 + h sum_i k_i b_i(s)`` with ``b_i(s) = sum_j weights[i][j] s^(j+1)``."""
    total: Tensor | None = None
    for row, slope in zip(weights, slopes, strict=True):
        if not any(row):
            continue
        b: float | Tensor = 0.0
        for w in reversed(row):
            b = (b + float(w)) * s
        total = b * slope if total is None else total + b * slope
    assert total is not None
    return z0 + h * total


class StepHistory:
    """Collects the steps of a solve and reads the outputs off them.

    Args:
        times: ``(times,)`` in float64, the output times in the order of the walk.
        t0: the start time.
        z0: ``(batch, *state)``, the start.
        direction: 1 or -1.
        tableau: whose interpolant to use between steps; None when every output is landed on.
    """

    def __init__(self, times: Tensor, t0: float, z0: Tensor, direction: float, tableau: ButcherTableau | None) -> None:
        self._times, self._direction, self._tableau = times, direction, tableau
        self._t, self._z = torch.full((z0.shape[0],), t0, dtype=torch.float64, device=z0.device), z0
        at_start = broadcast_to_state(times == t0, z0.expand(len(times), *z0.shape))
        self._outputs = torch.where(at_start, z0, torch.nan)
        self._steps: list[Step] = []
        slopes = 1 if tableau is None else 2 + tableau.stages
        self._capacity = max(1, min(_MOST_STEPS, _MOST_BYTES // max(1, slopes * z0.numel() * z0.element_size())))

    def append(self, step: Step) -> None:
        """Add one pass of the solve."""
        self._steps.append(step)
        if len(self._steps) >= self._capacity:
            self._read()

    def trajectory(self) -> Tensor:
        """Return the outputs ``(times, batch, *state)``; NaN where a sample did not get."""
        self._read()
        return self._outputs

    def _read(self) -> None:
        if not self._steps:
            return
        steps, self._steps = self._steps, []
        t = torch.stack([self._t, *(step.t_new for step in steps)])
        z = torch.stack([self._z, *(step.z_new for step in steps)])
        self._t, self._z = t[-1], z[-1]
        # Of each sample's times, the first that is not before the output; the step before it made it.
        grid = (self._direction * t).T.contiguous()
        found = torch.searchsorted(grid, (self._direction * self._times).expand(len(grid), -1).contiguous())
        samples, outputs = torch.nonzero((found > 0) & (found < len(t)), as_tuple=True)
        if len(samples) == 0:
            return
        number = found[samples, outputs] - 1
        z_new = z[number + 1, samples]
        values = z_new
        if self._tableau is not None:
            between = self._between(steps, z[number, samples], z_new, t, number, samples, self._times[outputs])
            landed = broadcast_to_state(t[number + 1, samples] == self._times[outputs], z_new)
            values = torch.where(landed, z_new, between)
        self._outputs = self._outputs.index_put((outputs, samples), values)

    def _between(
        self, steps: Sequence[Step], z: Tensor, z_new: Tensor, t: Tensor, number: Tensor, samples: Tensor, times: Tensor
    ) -> Tensor:
        assert self._tableau is not None
        lengths = torch.stack([step.length for step in steps])[number, samples]
        share = (times - t[number, samples]) / lengths
        s, h = (broadcast_to_state(values, z).to(z.dtype) for values in (share, lengths))
        used = [torch.stack([step.slopes[i] for step in steps])[number, samples] for i in range(len(steps[0].slopes))]
        if self._tableau.interpolant is not None:
            return continuous_extension(self._tableau.interpolant.weights, s, h, z, used)
        ends = [step.slope_new for step in steps if step.slope_new is not None]
        return hermite(s, h, z, used[0], z_new, torch.stack(ends)[number, samples])
