"""Explicit Runge-Kutta methods on a uniform grid of an integer number of steps.

The grid is ``t_k = t0 + (t1 - t0) k / N`` by formula. Adding up ``h`` would drift by round-off and, for
some ``h = 1/N``, end in a spurious extra step.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ode_core.solvers.solution import Field, Solution, broadcast_to_state
from ode_core.solvers.status import SolveStatus
from ode_core.solvers.tableaus import TABLEAUS, ButcherTableau
from ode_core.specs.methods import METHODS, MethodName

Weights = tuple[tuple[int, float], ...]  # (stage, weight) pairs, zeros left out


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
    (error ``O(h^4)``); at grid points it is the state itself.
    """
    planned = METHODS[method].evaluations(steps)
    if max_evaluations is not None and planned > max_evaluations:
        return _nothing_done(z0, times, SolveStatus.BUDGET_EXCEEDED)
    walk = _GridWalk(field, z0, TABLEAUS[method], steps, t0, t1)
    if times is None:
        trajectory = None
        final = walk.to_the_end()
        evaluations = planned
    else:
        final, trajectory = walk.with_outputs(times)
        evaluations = walk.evaluations
    finite = torch.isfinite(final.detach()).flatten(1).all(dim=1)
    if not bool(finite.all()):
        # A state that left the floating-point range never comes back, so looking at the end suffices.
        final = torch.where(broadcast_to_state(finite, final), final, torch.nan)
        if trajectory is not None:
            row_finite = torch.isfinite(trajectory.detach()).flatten(2).all(dim=2)
            shape = (*row_finite.shape, *(1 for _ in z0.shape[1:]))
            trajectory = torch.where(row_finite.reshape(shape), trajectory, torch.nan)
    return Solution(
        final=final,
        status=torch.where(finite, int(SolveStatus.SUCCESS), int(SolveStatus.NON_FINITE)),
        evaluations=_per_sample(z0, evaluations),
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


@lru_cache(maxsize=1024)
def _scaled(tableau: ButcherTableau, h: float) -> tuple[tuple[Weights, ...], Weights]:
    """Return the rows of ``h a`` and ``h b`` without their zeros."""
    rows = tuple(_nonzero([h * float(w) for w in row]) for row in tableau.a)
    return rows, _nonzero([h * float(w) for w in tableau.b])


def _nonzero(weights: Sequence[float]) -> Weights:
    return tuple((i, w) for i, w in enumerate(weights) if w != 0.0)


def _advance(z: Tensor, slopes: Sequence[Tensor], weights: Weights) -> Tensor:
    """Return ``z + sum_i w_i k_i``."""
    for i, w in weights:
        z = torch.add(z, slopes[i], alpha=w)
    return z


class _GridWalk:
    """One solve on the grid: the current state, and the slope at it where the method reuses it."""

    def __init__(self, field: Field, z0: Tensor, tableau: ButcherTableau, steps: int, t0: float, t1: float) -> None:
        self.field, self.tableau, self.steps, self.t0, self.t1 = field, tableau, steps, t0, t1
        self.h = (t1 - t0) / steps
        self.z = z0
        self.evaluations = 0
        self._rows, self._b = _scaled(tableau, self.h)
        self._c = [float(c) for c in tableau.c]
        self._carried: Tensor | None = None  # the slope at the current state, if it is already known

    def to_the_end(self) -> Tensor:
        """Return the state at ``t1``."""
        for stage_times in self._stage_times(0, self.steps):
            self._step(stage_times)
        return self.z

    def with_outputs(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state at ``t1`` and the states at ``times``."""
        positions = [(float(t) - self.t0) / self.h for t in times.double()]
        outputs: list[Tensor] = []
        stage_times = self._stage_times(0, self.steps)
        for k in range(self.steps):
            wanted = [p - k for p in positions[len(outputs) :] if p < k + 1 or k == self.steps - 1]
            start, slope = self.z, self._slope_here(stage_times[k][0]) if wanted else None
            self._step(stage_times[k])
            if slope is None:
                continue
            inside = any(0 < s < 1 for s in wanted)
            end_time = self._time(k + 1)
            end_slope = self._slope_here(end_time) if inside else slope
            outputs += [_hermite(s, self.h, start, slope, self.z, end_slope) for s in wanted]
        return self.z, torch.stack(outputs)

    def _slope_here(self, t: Tensor) -> Tensor:
        if self._carried is None:
            self._carried = self.field(t, self.z)
            self.evaluations += 1
        return self._carried

    def _step(self, stage_times: Sequence[Tensor]) -> None:
        slopes: list[Tensor] = []
        for i, row in enumerate(self._rows):
            if i == 0:
                slopes.append(self._slope_here(stage_times[0]))
            else:
                slopes.append(self.field(stage_times[i], _advance(self.z, slopes, row)))
                self.evaluations += 1
        self.z = _advance(self.z, slopes, self._b)
        self._carried = slopes[-1] if self.tableau.first_same_as_last else None

    def _time(self, k: int) -> Tensor:
        value = self.t1 if k == self.steps else self.t0 + (self.t1 - self.t0) * k / self.steps
        return torch.tensor(value, dtype=self.z.dtype, device=self.z.device)

    def _stage_times(self, first: int, last: int) -> list[tuple[Tensor, ...]]:
        """Return the stage times of steps ``first`` to ``last - 1`` as 0-d tensors, made in one go."""
        k = torch.arange(first, last, dtype=torch.float64).unsqueeze(1)
        c = torch.tensor(self._c, dtype=torch.float64)
        times = self.t0 + (self.t1 - self.t0) * (k + c) / self.steps
        # Round-off must not carry a stage beyond the end, where the field need not be defined.
        times = times.clamp(min(self.t0, self.t1), max(self.t0, self.t1))
        rows = times.to(self.z.device, self.z.dtype)
        return [row.unbind() for row in rows.unbind()]


def _hermite(s: float, h: float, z0: Tensor, k0: Tensor, z1: Tensor, k1: Tensor) -> Tensor:
    """Return the cubic through both ends with their slopes, at the share ``s`` of the step ``h``."""
    if s <= 0.0:
        return z0
    if s >= 1.0:
        return z1
    rest = 1.0 - s
    return (rest * rest * (1 + 2 * s)) * z0 + (s * s * (1 + 2 * rest)) * z1 + (h * s * rest) * (rest * k0 - s * k1)
