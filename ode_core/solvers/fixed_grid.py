"""Explicit Runge-Kutta methods on a uniform grid of an integer number of steps, or on a grid that is given.

The uniform grid is ``t_k = t0 + (t1 - t0) k / N`` by formula. Adding up ``h`` would drift by round-off and, for
some ``h = 1/N``, end in a spurious extra step.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Protocol, TypeGuard

import torch
from torch import Tensor

from ode_core.solvers.compilation import Compilation
from ode_core.solvers.compiled_grid import CompilableSteps, compilable_steps
from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.output_times import snapped_to_ends
from ode_core.solvers.record import AcceptedStep, Record
from ode_core.solvers.solution import (
    Execution,
    ExecutionPath,
    Field,
    Solution,
    broadcast_to_state,
    finite_samples,
    is_plain,
)
from ode_core.solvers.status import SolveStatus
from ode_core.solvers.step_polynomial import evaluate_polynomial, step_polynomial
from ode_core.solvers.tableaus import ButcherTableau
from ode_core.solvers.taped_grid import GridRule, grid_rule, keeps_tape, solve_taped, why_not_taped
from ode_core.specs.methods import METHODS, MethodName


class GridField(Protocol):
    """A field that makes all steps of a uniform grid by itself."""

    @property
    def grid_path(self) -> ExecutionPath:
        """How it makes them."""
        ...

    def walk_grid(self, z0: Tensor, rule: GridRule) -> Tensor | None:
        """Return the state ``(batch, *state)`` at the end, or None where it cannot be done here."""
        ...


def walks_grids(field: object) -> TypeGuard[GridField]:
    """Whether a field may make the steps of a uniform grid by itself."""
    return hasattr(type(field), "walk_grid")


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
    grid: Tensor | None = None,
    record: Record | None = None,
    compilation: Compilation = "never",
) -> Solution:
    """Solve with ``steps`` equal steps from ``t0`` to ``t1``; see ``solve`` for the arguments.

    ``grid``, ``(steps + 1,)`` on the CPU, is another grid from ``t0`` to ``t1``; its last step may be one of
    a rounding error, even backwards.

    At grid points the output is the state itself. Between them it is the method's interpolant: the cubic Hermite
    one of the states and their derivatives (error ``O(h^4)``), or the tableau's own of higher order. Takes
    ``METHODS[method].evaluations(steps)`` evaluations, one more when an output lies inside the last step, whose
    interpolant needs the derivative at ``t1``, and the interpolant's further stages in every step with an output.
    ``record`` is called before every step.
    """
    if times is None:
        outputs = None
    else:
        outputs = grid_positions(times, steps, t0, t1) if grid is None else _positions_on(grid, times, t0, t1)
    planned = METHODS[method].evaluations(steps)
    if outputs:
        planned += _interpolation_evaluations(TABLEAUS[method], outputs, steps)
    if max_evaluations is not None and planned > max_evaluations:
        return nothing_done(z0, times, SolveStatus.BUDGET_EXCEEDED)
    tableau = TABLEAUS[method]
    if grid is None:
        walk = _GridWalk(field, z0, tableau, steps, t0, t1)
    else:
        walk = _GivenGridWalk(field, z0, tableau, grid, t0, t1)
    walk.record = record
    final, trajectory, execution = _run(walk, outputs, compilation)
    assert execution.path == "taped" or walk.evaluations == planned
    solution = grid_solution(z0, final, planned, steps, walk.h, execution)
    if trajectory is None:
        return solution
    if not bool(solution.succeeded.all()):
        reached = torch.stack([broadcast_to_state(finite_samples(row), row) for row in trajectory])
        trajectory = torch.where(reached, trajectory, torch.nan)
    return dataclasses.replace(solution, times=times, trajectory=trajectory)


def grid_solution(z0: Tensor, final: Tensor, evaluations: int, steps: int, h: float, execution: Execution) -> Solution:
    """Return the solution that ``steps`` equal steps of ``h`` lead to: NaN and a status where the end is not finite.

    A step only adds to the state, and nothing added to inf or NaN is finite: looking at the end suffices.
    """
    status = per_sample_values(z0, SolveStatus.SUCCESS)
    if not math.isfinite(float(final.detach().sum())):  # one sum is much faster than a look at each sample
        finite = finite_samples(final)
        status[~finite] = int(SolveStatus.NON_FINITE)
        final = torch.where(broadcast_to_state(finite, final), final, torch.nan)
    return Solution(
        final=final,
        status=status,
        evaluations=per_sample_values(z0, evaluations),
        accepted=per_sample_values(z0, steps),
        rejected=per_sample_values(z0, 0),
        last_step=per_sample_values(z0, abs(h), dtype=torch.float64),
        execution=execution,
    )


def _interpolation_evaluations(tableau: ButcherTableau, outputs: Sequence[tuple[int, float]], steps: int) -> int:
    inside = {k for k, s in outputs if s > 0}
    extra = 0 if tableau.interpolant is None else len(tableau.interpolant.extra)
    return len(inside) * extra + (steps - 1 in inside)


def _run(
    walk: "_GridWalk", outputs: Sequence[tuple[int, float]] | None, compilation: Compilation
) -> tuple[Tensor, Tensor | None, Execution]:
    """Return the end, the outputs if any are asked for, and how it was computed."""
    field, z0 = walk.field, walk.z
    lowered, stacked = keeps_tape(field), getattr(field, "stacked", None) or 1
    if walk.record is not None:
        reason = "the steps are recorded for the gradient"
    elif outputs is not None:
        reason = "outputs between the ends are asked for"
    elif (no_tape := why_not_taped(field, z0)) is not None:
        reason = no_tape
    elif isinstance(walk, _GivenGridWalk):
        reason = "the grid is not uniform"
    else:
        assert keeps_tape(field)
        final = solve_taped(field, z0, walk.tableau, walk.steps, walk.t0, walk.t1)
        return final, None, Execution("taped", lowered, stacked, "the field keeps its own tape")
    if outputs is not None:
        trajectory = walk.with_outputs(outputs)
        return walk.z, trajectory, Execution("eager", lowered, stacked, reason)
    if walks_grids(field) and walk.record is None and not isinstance(walk, _GivenGridWalk):
        rule = grid_rule(walk.tableau, walk.steps, walk.t0, walk.t1, z0.dtype)
        end = field.walk_grid(z0, rule)
        if end is not None:
            walk.evaluations = rule.steps * rule.stages
            return end, None, Execution(field.grid_path, True, 1, "the field makes the steps by itself")
    steps = None
    if compilation == "never":
        reason = f"{reason}; compilation is off"
    elif torch.is_grad_enabled():
        reason = f"{reason}; outside torch.no_grad(), where a gradient may be wanted"
    elif walk.record is None and not isinstance(walk, _GivenGridWalk) and is_plain(z0) and len(z0) > 0:
        steps = compilable_steps(field, z0, walk.tableau, walk.h)
    walk.to_the_end(steps, compilation)
    if steps is None:
        return walk.z, None, Execution("eager", lowered, stacked, reason)
    path: ExecutionPath = "compiled" if steps.compiled else "eager"
    return walk.z, None, Execution(path, lowered, stacked, f"{reason}; {steps.kind.reason(compilation)}")


def per_sample_values(z0: Tensor, value: float, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return ``value`` for each sample, ``(batch,)``."""
    return torch.full((z0.shape[0],), value, dtype=dtype, device=z0.device)


def nothing_done(z0: Tensor, times: Tensor | None, status: SolveStatus) -> Solution:
    """Return the solution of a solve that did not begin: NaN and ``status`` for every sample."""
    return Solution(
        final=torch.full_like(z0, torch.nan),
        status=per_sample_values(z0, status),
        evaluations=per_sample_values(z0, 0),
        accepted=per_sample_values(z0, 0),
        rejected=per_sample_values(z0, 0),
        last_step=per_sample_values(z0, 0, dtype=torch.float64),
        times=times,
        trajectory=None if times is None else z0.new_full((len(times), *z0.shape), torch.nan),
    )


def grid_positions(times: Tensor, steps: int, t0: float, t1: float) -> list[tuple[int, float]]:
    """Return for each output time the grid point ``k`` at or before it and the share ``s`` of the step after it.

    A time that is a grid point up to the rounding of its own type counts as one (``s = 0``), so that
    ``linspace(t0, t1, steps + 1)`` gives the states themselves.
    """
    # Rounded to their own type, times at an end may lie a little outside.
    rounding = min(1e-3, 4 * torch.finfo(times.dtype).eps * max(abs(t0), abs(t1)) / abs(t1 - t0) * steps)
    positions = []
    for t in snapped_to_ends(times, t0, t1).tolist():
        exact = min(max((t - t0) / (t1 - t0) * steps, 0.0), float(steps))
        nearest = round(exact)
        is_grid_point = abs(exact - nearest) <= rounding
        positions.append((nearest, 0.0) if is_grid_point else (int(exact), exact - int(exact)))
    return positions


def _positions_on(grid: Tensor, times: Tensor, t0: float, t1: float) -> list[tuple[int, float]]:
    """Return the same as ``grid_positions`` for a grid that is given."""
    direction = 1.0 if t1 >= t0 else -1.0
    points = direction * grid.double()
    # A last step of a rounding error may lead backwards, and a search needs an order.
    points[-2] = torch.minimum(points[-2], points[-1])
    wanted = direction * snapped_to_ends(times, t0, t1).cpu()
    rounding = 4 * max(torch.finfo(times.dtype).eps, torch.finfo(grid.dtype).eps) * max(abs(t0), abs(t1))
    last = len(points) - 1
    positions = []
    for t in wanted.tolist():
        k = max(0, int(torch.searchsorted(points, t, right=True)) - 1)
        if k == last:
            positions.append((last, 0.0))
            continue
        length = float(points[k + 1] - points[k])
        share, near = (t - float(points[k])) / length, min(1e-3, rounding / length)
        if near < share < 1 - near:
            positions.append((k, share))
        else:
            positions.append((k if share <= near else k + 1, 0.0))
    return positions


@lru_cache(maxsize=1024)
def _scaled(tableau: ButcherTableau, h: float) -> tuple[tuple[Weights, ...], Weights]:
    """Return the rows of ``h a`` on a grid and ``h b`` without their zeros."""
    rows = tuple(_nonzero([h * float(w) for w in row]) for row in tableau.grid_rows)
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
        self.field, self.tableau, self.steps, self.t0, self.t1 = field, tableau, steps, t0, t1
        self.h = (t1 - t0) / steps
        self.z = z0
        self.evaluations = 0
        self.record: Record | None = None
        self._rows, self._b = _scaled(tableau, self.h)
        self._slope: Tensor | None = None  # the field at the current state

    @cached_property
    def _c(self) -> Tensor:
        """``c`` of the stages that a step evaluates."""
        return torch.tensor([float(c) for c in self.tableau.c[: len(self._rows)]], dtype=torch.float64)

    def to_the_end(self, steps: CompilableSteps | None = None, compilation: Compilation = "never") -> None:
        """Walk to ``t1``, with compiled steps where they are given and due."""
        for stage_times in self._stage_times():
            if steps is not None and steps.kind.is_due(compilation):
                z_new = steps.step(self.z, stage_times)
                if z_new is not None:
                    self.z = z_new
                    self.evaluations += len(stage_times)
                    continue
            start = time.perf_counter()
            self._step(stage_times)
            if steps is not None:
                steps.kind.seconds += time.perf_counter() - start

    def with_outputs(self, outputs: Sequence[tuple[int, float]]) -> Tensor:
        """Walk to ``t1``; return the states at the output positions ``(k, s)``, in order."""
        states: list[Tensor] = []
        for k, stage_times in enumerate(self._stage_times()):
            wanted: list[float] = []
            while len(states) + len(wanted) < len(outputs) and outputs[len(states) + len(wanted)][0] == k:
                wanted.append(outputs[len(states) + len(wanted)][1])
            start = self.z
            slopes = self._step(stage_times)
            if any(wanted):
                # A method whose last stage is the first of the next step has this as its last slope, too.
                slopes = [*slopes, self._slope_here(self._grid_point(k + 1))]
                slopes += self._extra_slopes(k, start, slopes)
            states += [self._between(s, start, slopes) if s > 0.0 else start for s in wanted]
        states += [self.z] * (len(outputs) - len(states))
        return torch.stack(states)

    def _slope_here(self, t: Tensor) -> Tensor:
        if self._slope is None:
            self._slope = self.field(t, self.z)
            self.evaluations += 1
        return self._slope

    def _extra_slopes(self, k: int, start: Tensor, slopes: Sequence[Tensor]) -> list[Tensor]:
        """Return the slopes of the stages that only the interpolant needs."""
        if self.tableau.interpolant is None:
            return []
        known = list(slopes)
        for row in self.tableau.interpolant.extra:
            weights = _nonzero([self.h * float(w) for w in row])
            known.append(self.field(self._within(k, float(sum(row))), _advance(start, known, weights)))
            self.evaluations += 1
        return known[len(slopes) :]

    def _between(self, s: float, start: Tensor, slopes: Sequence[Tensor]) -> Tensor:
        """Return the state at the share ``s`` of the step from ``start`` to the current state."""
        coefficients = step_polynomial(self.tableau).coefficients(self.h, start, slopes, self.z, slopes[-1])
        return evaluate_polynomial(start, coefficients, torch.as_tensor(s, dtype=start.dtype, device=start.device))

    def _step(self, stage_times: Sequence[Tensor]) -> list[Tensor]:
        """Move on by a step; return the slopes of its stages."""
        if self.record is not None:
            self.record(AcceptedStep(self.z))
        slopes = [self._slope_here(stage_times[0])]
        for t, row in zip(stage_times[1:], self._rows[1:], strict=True):
            slopes.append(self.field(t, _advance(self.z, slopes, row)))
        self.evaluations += len(slopes) - 1
        self.z = _advance(self.z, slopes, self._b)
        self._slope = None
        return slopes

    def _grid_point(self, k: int) -> Tensor:
        value = self.t1 if k == self.steps else self.t0 + (self.t1 - self.t0) * k / self.steps
        return torch.tensor(value, dtype=self.z.dtype, device=self.z.device)

    def _within(self, k: int, share: float) -> Tensor:
        value = self.t0 + (self.t1 - self.t0) * (k + share) / self.steps
        value = min(max(value, min(self.t0, self.t1)), max(self.t0, self.t1))
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


class _GivenGridWalk(_GridWalk):
    """One solve on a grid that is given; every step has a length of its own."""

    def __init__(self, field: Field, z0: Tensor, tableau: ButcherTableau, grid: Tensor, t0: float, t1: float) -> None:
        super().__init__(field, z0, tableau, len(grid) - 1, t0, t1)
        self._grid = grid.double()

    def _grid_point(self, k: int) -> Tensor:
        value = min(max(float(self._grid[k]), min(self.t0, self.t1)), max(self.t0, self.t1))
        return torch.tensor(value, dtype=self.z.dtype, device=self.z.device)

    def _within(self, k: int, share: float) -> Tensor:
        first, last = self._grid[k].item(), self._grid[k + 1].item()
        value = min(max(first + share * (last - first), min(self.t0, self.t1)), max(self.t0, self.t1))
        return torch.tensor(value, dtype=self.z.dtype, device=self.z.device)

    def _stage_times(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield for each step its stage times, as for a uniform grid, once its length has been put in place."""
        lengths = self._grid.diff()
        times = self._grid[:-1, None] + lengths[:, None] * self._c
        times = times.clamp(min(self.t0, self.t1), max(self.t0, self.t1)).to(self.z.device, self.z.dtype)
        for h, row in zip(lengths.tolist(), times.unbind(), strict=True):
            self.h = h
            self._rows, self._b = _scaled(self.tableau, h)
            yield row.unbind()
