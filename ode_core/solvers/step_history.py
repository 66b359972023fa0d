"""States between the steps of an adaptive solve: the outputs, read off the steps that were taken."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ode_core.solvers.solution import per_sample
from ode_core.solvers.step_polynomial import evaluate_polynomial

# Passes are kept until there are this many, or this many bytes of them, and then read and let go: few enough that
# what is read stays in the cache (8, 16, 64 and 256 were slower).
_MOST_PASSES = 32
_MOST_BYTES = 2**26


class Pass(NamedTuple):
    """One pass of a solve. A sample that did not move has ``t_new`` where it was.

    States are ``(state, batch)``, sample by sample last: what is gathered for many outputs then lies side by side.

    Attributes:
        t_new: ``(batch,)`` in float64, the time after it.
        z_new: ``(state, batch)``, the state after it.
        coefficients: of each step's polynomial, ``(state, batch)``; empty where every output is a stop.
    """

    t_new: Tensor
    z_new: Tensor
    coefficients: Sequence[Tensor] = ()


def pass_of(t_new: Tensor, z_new: Tensor, coefficients: Sequence[Tensor]) -> Pass:
    """Return a pass from states ``(batch, *state)``."""
    return Pass(t_new, _samples_last(z_new), [_samples_last(c) for c in coefficients])


class StepHistory:
    """Collects the passes of a solve and reads the outputs off them.

    Args:
        times: ``(times,)`` in float64, the output times in the order of the walk.
        t0: the start time.
        z0: ``(batch, *state)``, the start.
        direction: 1 or -1.
    """

    def __init__(self, times: Tensor, t0: float, z0: Tensor, direction: float) -> None:
        self._times, self._direction, self._z0 = times, direction, z0
        self._t = torch.full((z0.shape[0],), t0, dtype=torch.float64, device=z0.device)
        self._z = _samples_last(z0)
        self._spacing = _spacing(times)
        start = self._z.unsqueeze(1)
        outputs = torch.where((times == t0).unsqueeze(1), start, torch.nan)
        self._outputs = outputs.flatten(1)  # (state, times * batch)
        self._kept: list[Pass] = []
        self._room = 0

    def append(self, step: Pass) -> None:
        """Add a pass of the solve."""
        if not self._kept:
            size = (1 + len(step.coefficients)) * step.z_new.numel() * step.z_new.element_size()
            self._room = max(1, min(_MOST_PASSES, _MOST_BYTES // max(1, size)))
        self._kept.append(step)
        if len(self._kept) >= self._room:
            self._read()

    def trajectory(self) -> Tensor:
        """Return the outputs ``(times, batch, *state)``; NaN where a sample did not get."""
        self._read()
        count, batch = len(self._times), len(self._t)
        rows = self._outputs.T.contiguous()
        return rows.reshape(count, batch, *self._z0.shape[1:])

    def _read(self) -> None:
        if not self._kept:
            return
        kept, self._kept = self._kept, []
        batch = len(self._t)
        t = torch.cat([self._t, *(step.t_new for step in kept)])
        z = torch.cat([self._z, *(step.z_new for step in kept)], dim=1)
        self._t, self._z = kept[-1].t_new, kept[-1].z_new
        steps, outputs = self._steps_of_outputs(t, batch)
        if len(steps) == 0:
            return
        places = outputs * batch + steps % batch
        if kept[0].coefficients:
            start, end = t.index_select(0, steps), t.index_select(0, steps + batch)
            times = self._times.index_select(0, outputs)
            powers = [
                _take(torch.cat([step.coefficients[j] for step in kept], dim=1), steps)
                for j in range(len(kept[0].coefficients))
            ]
            share = ((times - start) / (end - start)).to(z.dtype)
            self._write(places, evaluate_polynomial(_take(z, steps), powers, share))
            # Where a step ends on an output, the output is the state itself and not the polynomial's end.
            landed = torch.nonzero(end == times).flatten()
            places, steps = places[landed], steps[landed]
        self._write(places, _take(z, steps + batch))

    def _steps_of_outputs(self, t: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Return for every output reached in these passes, in any order, its step and which output it is.

        Args:
            t: ``((passes + 1) * batch,)``, the times before and after each pass.
            batch: number of samples.

        Returns:
            Steps, numbered ``pass * batch + sample``, and outputs.
        """
        passed = self._passed(t)
        before, after = passed[:-batch], passed[batch:]
        reached = after - before
        steps = torch.repeat_interleave(torch.arange(len(reached), device=t.device), reached)
        first = before - (torch.cumsum(reached, dim=0) - reached)
        return steps, torch.arange(len(steps), device=t.device) + first.index_select(0, steps)

    def _passed(self, t: Tensor) -> Tensor:
        """Return how many outputs are not after each time, ``t`` anywhere on the way."""
        times, t = self._direction * self._times, self._direction * t
        if self._spacing is not None:
            # Equally spaced times, as most are, are found by a division that is right up to one: a tenth of the time.
            last = len(times) - 1
            guess = ((t - times[0]) / self._spacing).clamp(-1, last).long()
            here, following = (times.index_select(0, (guess + i).clamp(0, last)) for i in (0, 1))
            found = guess + 1 + ((following <= t) & (guess < last)).long() - ((here > t) & (guess >= 0)).long()
            below = times.index_select(0, (found - 1).clamp(min=0)) <= t
            above = times.index_select(0, found.clamp(max=last)) > t
            if bool(((below | (found == 0)) & (above | (found == last + 1))).all()):
                return found
        return torch.searchsorted(times, t, right=True)

    def _write(self, places: Tensor, values: Tensor) -> None:
        self._outputs = self._outputs.scatter(1, places.expand(len(values), -1), values)


def _spacing(times: Tensor) -> float | None:
    """Return the distance of equally spaced times, positive, or None for others."""
    if len(times) < 3:
        return None
    distance = float((times[-1] - times[0]).abs()) / (len(times) - 1)
    gaps = times.diff().abs()
    return distance if distance > 0 and bool(((gaps - distance).abs() < 0.5 * distance).all()) else None


def _take(values: Tensor, columns: Tensor) -> Tensor:
    """Return columns of ``values``; many times faster than by indexing."""
    return values.gather(1, columns.expand(len(values), -1))


def _samples_last(values: Tensor) -> Tensor:
    """Return ``(batch, *state)`` as ``(state, batch)``."""
    return per_sample(values).mT
