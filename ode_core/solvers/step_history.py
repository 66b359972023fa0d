"""States between the steps of an adaptive solve: the outputs, read off the steps that were taken."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ode_core.solvers.solution import is_plain, per_sample
from ode_core.solvers.step_polynomial import evaluate_polynomial

# Passes are kept until there are this many, or this many bytes of them, and then read and let go: few enough that
# what is read stays in the cache (8, 16, 64 and 256 were slower).
_MOST_PASSES = 32
_MOST_BYTES = 2**26


class Passes(NamedTuple):
    """Some passes of a solve. A sample that did not move has its time where it was.

    States are sample by sample last: what is gathered for many outputs then lies side by side.

    Attributes:
        times: ``(passes, batch)`` in float64, the times after each.
        states: ``(1 + powers, state, passes, batch)``, the states after each and then the coefficients of each step's
            polynomial; no powers where every output is a stop.
    """

    times: Tensor
    states: Tensor

    def of_first(self, batch: int) -> "Passes":
        """Return the passes of the first samples."""
        return Passes(self.times[:, :batch], self.states[..., :batch])


def pass_of(t_new: Tensor, z_new: Tensor, coefficients: Sequence[Tensor]) -> Passes:
    """Return one pass from times ``(batch,)`` and states ``(batch, *state)``."""
    states = torch.stack([samples_last(values) for values in (z_new, *coefficients)])
    return Passes(t_new.unsqueeze(0), states.unsqueeze(2))


class StepHistory:
    """Collects the passes of a solve and reads the outputs off them.

    Args:
        times: ``(times,)`` in float64, the output times in the order of the walk, no two equal.
        t0: the start time.
        z0: ``(batch, *state)``, the start.
        direction: 1 or -1.
    """

    def __init__(self, times: Tensor, t0: float, z0: Tensor, direction: float) -> None:
        self._times, self._direction, self._shape = times, direction, z0.shape[1:]
        self._t = torch.full((1, z0.shape[0]), t0, dtype=torch.float64, device=z0.device)
        self._z = samples_last(z0).unsqueeze(1)
        self._spacing = _spacing(times)
        # In the direction of the walk, between one before all and one after all.
        self._ordered = torch.nn.functional.pad(direction * times, (1, 1), value=torch.inf)
        self._ordered[0] = -torch.inf
        self._outputs = _outputs_at_start(times, t0, z0)
        self._kept: list[Passes] = []
        self._count, self._room = 0, 0

    def append(self, passes: Passes) -> None:
        """Add passes of the solve."""
        if not self._kept:
            size = passes.states[:, :, 0].numel() * passes.states.element_size()
            self._room = max(1, min(_MOST_PASSES, _MOST_BYTES // max(1, size)))
        self._kept.append(passes)
        self._count += len(passes.times)
        if self._count >= self._room:
            self._read()

    def trajectory(self) -> Tensor:
        """Return the outputs ``(times, batch, *state)``; NaN where a sample did not get."""
        self._read()
        return self._outputs.reshape(len(self._times), self._t.shape[1], *self._shape)

    def _read(self) -> None:
        if not self._kept:
            return
        times = torch.cat([self._t, *(passes.times for passes in self._kept)])
        states = torch.cat([passes.states for passes in self._kept], dim=2)
        z = torch.cat([self._z, states[0]], dim=1).flatten(1)
        self._t, self._z = times[-1:], states[0, :, -1:]
        self._kept, self._count = [], 0
        batch, t = times.shape[1], times.flatten()
        steps, outputs, places = self._steps_of_outputs(t, batch)
        if len(steps) == 0:
            return
        if len(states) > 1:
            start, end = t.index_select(0, steps), t.index_select(0, steps + batch)
            times = self._times.index_select(0, outputs)
            share = ((times - start) / (end - start)).to(z.dtype)
            coefficients = [_take(values.flatten(1), steps) for values in states[1:]]
            self._write(places, evaluate_polynomial(_take(z, steps), coefficients, share))
            # Where a step ends on an output, the output is the state itself and not the polynomial's end.
            landed = torch.nonzero(end == times).flatten()
            places, steps = places[landed], steps[landed]
        self._write(places, _take(z, steps + batch))

    def _steps_of_outputs(self, t: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return for every output reached in these passes, in any order, its step, which output it is, and its place.

        Args:
            t: ``((passes + 1) * batch,)``, the times before and after each pass.
            batch: number of samples.

        Returns:
            Steps, numbered ``pass * batch + sample``; outputs; and places, numbered ``output * batch + sample``.
        """
        passed = self._passed(t)
        before, after = passed[:-batch], passed[batch:]
        reached = after - before
        steps = torch.repeat_interleave(reached)
        first = before - (torch.cumsum(reached, dim=0) - reached)
        places = (first.view(-1, batch) * batch + torch.arange(batch, device=t.device)).flatten()
        count = torch.arange(len(steps), device=t.device)
        return steps, count + first.index_select(0, steps), count * batch + places.index_select(0, steps)

    def _passed(self, t: Tensor) -> Tensor:
        """Return how many outputs are not after each time, ``t`` anywhere on the way."""
        t, times = self._direction * t, self._ordered
        if self._spacing is not None:
            # Equally spaced times, as most are, are found by a division that is right up to one: a tenth of the time.
            guess = ((t - times[1]) / self._spacing + 1).clamp(0, len(times) - 2).long()
            found = guess + (times[1:].index_select(0, guess) <= t) - (times.index_select(0, guess) > t).long()
            if bool(((times.index_select(0, found) <= t) & (times[1:].index_select(0, found) > t)).all()):
                return found
        return torch.searchsorted(times[1:-1], t, right=True)

    def _write(self, places: Tensor, values: Tensor) -> None:
        places = places.expand(len(values), -1)
        # Only autograd and the transforms of torch.func need the outputs as they were before, which takes a copy.
        if values.requires_grad or not is_plain(values):
            self._outputs = self._outputs.mT.scatter(1, places, values).mT
        else:
            self._outputs.mT.scatter_(1, places, values)


def _outputs_at_start(times: Tensor, t0: float, z0: Tensor) -> Tensor:
    """Return outputs ``(times * batch, state)``: the start where it is asked for, else NaN."""
    start = per_sample(z0)
    asked = [start] if float(times[0]) == t0 else []  # equal times are one
    missing = start.new_full(((len(times) - len(asked)) * len(start), start.shape[1]), torch.nan)
    return torch.cat([*asked, missing])


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


def samples_last(values: Tensor) -> Tensor:
    """Return ``(batch, *state)`` as ``(state, batch)``."""
    return per_sample(values).mT
