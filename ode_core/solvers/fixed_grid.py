"""Explicit Runge-Kutta methods on a uniform grid of an integer number of steps.

The grid is ``t_k = t0 + (t1 - t0) k / N`` by formula. Adding up ``h`` would drift by round-off and, for
some ``h = 1/N``, end in a spurious extra step.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ode_core.solvers.solution import Field, Solution, broadcast_to_state, finite_samples
from ode_core.solvers.status import SolveStatus
from ode_core.solvers.tableaus import TABLEAUS, ButcherTableau
from ode_core.specs.methods import METHODS, MethodName

Weights = tuple[tuple[int, float], ...]  # (stage, weight) pairs, zeros left out

_BLOCK = 1024  # steps whose stage times are made at once: few calls, and little memory for 100,000 steps


def solve_fixed_grid(
    field: Field,
    z0: Tensor,
    method: MethodName,
    steps: int,
    *,
    t0: float,
    t1: float,
    times: Tensor | None = None,
    max_evaluations: int | None = None,
) -> Solution:
    """Solve with ``steps`` equal steps from ``t0`` to ``t1``; see ``solve`` for the arguments.

    Between grid points the output is the cubic Hermite interpolant of the states and their derivatives
    (error ``O(h^4)``); at grid points it is the state itself. Takes ``METHODS[method].evaluations(steps)``
    evaluations, and one more when an output lies inside the last step, whose interpolant needs the
    derivative at ``t1``.
    """
    outputs = None if times is None else grid_positions(times, steps, t0, t1)
    planned = METHODS[method].evaluations(steps)
    if outputs and any(k == steps - 1 and s > 0 for k, s in outputs):
        planned += 1
    if max_evaluations is not None and planned > max_evaluations:
        return _nothing_done(z0, times, SolveStatus.BUDGET_EXCEEDED)
    walk = _GridWalk(field, z0, TABLEAUS[method], steps, t0, t1)
    if outputs is None:
        trajectory = None
        walk.to_the_end()
    else:
        trajectory = walk.with_outputs(outputs)
    final = walk.z
    assert walk.evaluations == planned
    # A step only adds to the state, and nothing added to inf or NaN is finite: looking at the end suffices.
    finite = finite_samples(final)
    if not bool(finite.all()):
        final = torch.where(broadcast_to_state(finite, final), final, torch.nan)
        if trajectory is not None:
            reached = torch.stack([broadcast_to_state(finite_samples(row), row) for row in trajectory])
            trajectory = torch.where(reached, trajectory, torch.nan)
    return Solution(
        final=final,
        status=torch.where(finite, int(SolveStatus.SUCCESS), int(SolveStatus.NON_FINITE)),
        evaluations=_per_sample(z0, planned),
        accepted=_per_sample(z0, steps),
        rejected=_per_sample(z0, 0),
        last_step=_per_sample(z0, abs(t1 - t0) / steps, dtype=torch.float64),
        times=times,
        trajectory=trajectory,
    )


def _per_sample(z0: Tensor, value: float, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.full((z0.shape[0],), value, dtype=dtype, device=z0.device)


def _nothing_done(z0: Tensor, times: Tensor | None, status: SolveStatus) -> Solution:
    return Solution(
        final=torch.full_like(z0, torch.nan),
        status=_per_sample(z0, status),
        evaluations=_per_sample(z0, 0),
        accepted=_per_sample(z0, 0),
        rejected=_per_sample(z0, 0),
        last_step=_per_sample(z0, 0, dtype=torch.float64),
        times=times,
        trajectory=None if times is None else z0.new_full((len(times), *z0.shape), torch.nan),
    )


def grid_positions(times: Tensor, steps: int, t0: float, t1: float) -> list[tuple[int, float]]:
    """Return for each output time the grid point ``k`` at or before it and the share ``s`` of the step after it.

    A time that is a grid point up to the rounding of its own type counts as one (``s = 0``), so that
    ``linspace(t0, t1, steps + 1)`` gives the states themselves.
    """
    rounding = min(1e-3, 4 * torch.finfo(times.dtype).eps * max(abs(t0), abs(t1)) / abs(t1 - t0) * steps)
    positions = []
    for t in times.tolist():
        exact = (t - t0) / (t1 - t0) * steps
        nearest = round(exact)
        is_grid_point = abs(exact - nearest) <= rounding
        positions.append((nearest, 0.0) if is_grid_point else (int(exact), exact - int(exact)))
    return positions


@lru_cache(maxsize=1024)
def _scaled(tableau: ButcherTableau, h: float) -> tuple[tuple[Weights, ...], Weights]:
    """Return the rows of ``h a`` and ``h b`` without their zeros.

    A last stage that is the first of the next step has no weight in ``b``; it is left out here, as the
    next step evaluates it anyway and the last step has no use for it.
    """
    used = tableau.a[:-1] if tableau.first_same_as_last else tableau.a
    rows = tuple(_nonzero([h * float(w) for w in row]) for row in used)
    return rows, _nonzero([h * float(w) for w in tableau.b])


def _nonzero(weights: Sequence[float]) -> Weights:
    return tuple((i, w) for i, w in enumerate(weights) if w != 0.0)


def _advance(z: Tensor, slopes: Sequence[Tensor], weights: Weights) -> Tensor:
    """Return ``z + sum_i w_i k_i``."""
    for i, w in weights:
        z = torch.add(z, slopes[i], alpha=w)
    return z


class _GridWalk:
    """One solve on the grid: the current state, and the slope at it once it is known."""

    def __init__(self, field: Field, z0: Tensor, tableau: ButcherTableau, steps: int, t0: float, t1: float) -> None:
        self.field, self.steps, self.t0, self.t1 = field, steps, t0, t1
        self.h = (t1 - t0) / steps
        self.z = z0
        self.evaluations = 0
        self._rows, self._b = _scaled(tableau, self.h)
        self._c = torch.tensor([float(c) for c in tableau.c[: len(self._rows)]], dtype=torch.float64)
        self._slope: Tensor | None = None  # the field at the current state

    def to_the_end(self) -> None:
        """Walk to ``t1``."""
        for stage_times in self._stage_times():
            self._step(stage_times)

    def with_outputs(self, outputs: Sequence[tuple[int, float]]) -> Tensor:
        """Walk to ``t1``; return the states at the output positions ``(k, s)``, in order."""
        states: list[Tensor] = []
        for k, stage_times in enumerate(self._stage_times()):
            wanted: list[float] = []
            while len(states) + len(wanted) < len(outputs) and outputs[len(states) + len(wanted)][0] == k:
                wanted.append(outputs[len(states) + len(wanted)][1])
            start = self.z
            slope = self._slope_here(stage_times[0]) if any(wanted) else None
            self._step(stage_times)
            end_slope = self._slope_here(self._grid_point(k + 1)) if any(wanted) else None
            for s in wanted:
                if slope is None or end_slope is None or s == 0.0:
                    states.append(start)
                else:
                    states.append(hermite(s, self.h, start, slope, self.z, end_slope))
        states += [self.z] * (len(outputs) - len(states))
        return torch.stack(states)

    def _slope_here(self, t: Tensor) -> Tensor:
        if self._slope is None:
            self._slope = self.field(t, self.z)
            self.evaluations += 1
        return self._slope

    def _step(self, stage_times: Sequence[Tensor]) -> None:
        slopes = [self._slope_here(stage_times[0])]
        for t, row in zip(stage_times[1:], self._rows[1:], strict=True):
            slopes.append(self.field(t, _advance(self.z, slopes, row)))
        self.evaluations += len(slopes) - 1
        self.z = _advance(self.z, slopes, self._b)
        self._slope = None

    def _grid_point(self, k: int) -> Tensor:
        value = self.t1 if k == self.steps else self.t0 + (self.t1 - self.t0) * k / self.steps
        return torch.tensor(value, dtype=self.z.dtype, device=self.z.device)

    def _stage_times(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield for each step its stage times as 0-d tensors, made in blocks."""
        for first in range(0, self.steps, _BLOCK):
            k = torch.arange(first, min(first + _BLOCK, self.steps), dtype=torch.float64).unsqueeze(1)
            times = self.t0 + (self.t1 - self.t0) * (k + self._c) / self.steps
            # Round-off must not carry a stage beyond the end, where the field need not be defined.
            times = times.clamp(min(self.t0, self.t1), max(self.t0, self.t1))
            rows = times.to(self.z.device, self.z.dtype)
            for row in rows.unbind():
                yield row.unbind()


def hermite(s: float, h: float, z0: Tensor, k0: Tensor, z1: Tensor, k1: Tensor) -> Tensor:
    """Return the cubic through both ends with their slopes, at the share ``s`` of the step ``h``.

    Source: Hairer, Norsett, Wanner I, II.6, equation 6.7.
    """
    rest = 1.0 - s
    return (rest * rest * (1 + 2 * s)) * z0 + (s * s * (1 + 2 * rest)) * z1 + (h * s * rest) * (rest * k0 - s * k1)
