"""The asynchronous leapfrog method on a uniform grid: second order, and every step can be undone.

Beside the state ``y`` it carries a slope ``v`` of its own, which starts as the field at the start. One step is

    y_half = y + h/2 v,    v_hat = f(t + h/2, y_half),    v' = 2 v_hat - v,    y' = y_half + h/2 v'.

The same lines with ``-h`` lead from ``(y', v')`` back to ``(y, v)``. The price is stability: for ``y' = -lambda y``
one mode of ``v`` grows as ``(x + sqrt(1 + x^2))^N`` with ``x = h lambda``, however small the step.

Source: Mutze, An asynchronous leapfrog method II, 2013; Zhuang et al., MALI, ICLR 2021.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ode_core.solvers.fixed_grid import grid_positions, nothing_done, per_sample_values
from ode_core.solvers.solution import Field, Solution, broadcast_to_state, finite_samples
from ode_core.solvers.status import SolveStatus
from ode_core.specs.methods import METHODS


class LeapfrogGrid:
    """The uniform grid of a solve: its step and the times between which a step leads."""

    def __init__(self, steps: int, t0: float, t1: float) -> None:
        self.steps, self.t0, self.t1 = steps, t0, t1
        self.h = (t1 - t0) / steps

    def middle(self, k: int, like: Tensor) -> Tensor:
        """Return the time in the middle of step ``k`` as a 0-d tensor."""
        return torch.tensor(
            self.t0 + (self.t1 - self.t0) * (k + 0.5) / self.steps, dtype=like.dtype, device=like.device
        )

    def start(self, like: Tensor) -> Tensor:
        """Return the start time as a 0-d tensor."""
        return torch.tensor(self.t0, dtype=like.dtype, device=like.device)


def solve_leapfrog(
    field: Field,
    z0: Tensor,
    steps: int,
    *,
    t0: float,
    t1: float,
    times: Tensor | None = None,
    max_evaluations: int | None = None,
) -> Solution:
    """Solve with ``steps`` equal steps from ``t0`` to ``t1``; see ``solve`` for the arguments.

    Takes ``steps + 1`` evaluations. Between grid points the output is the cubic Hermite interpolant of the
    states and the method's own slopes; their error is ``O(h^2)``, so that of the interpolant is ``O(h^3)``.
    """
    solution, _ = walk_leapfrog(field, z0, steps, t0=t0, t1=t1, times=times, max_evaluations=max_evaluations)
    return solution


def walk_leapfrog(
    field: Field,
    z0: Tensor,
    steps: int,
    *,
    t0: float,
    t1: float,
    times: Tensor | None = None,
    max_evaluations: int | None = None,
) -> tuple[Solution, Tensor]:
    """Solve as ``solve_leapfrog`` does; also return the method's slope ``v`` at the end, ``(batch, *state)``."""
    planned = METHODS["asynchronous_leapfrog"].evaluations(steps)
    if max_evaluations is not None and planned > max_evaluations:
        return nothing_done(z0, times, SolveStatus.BUDGET_EXCEEDED), torch.full_like(z0, torch.nan)
    grid = LeapfrogGrid(steps, t0, t1)
    outputs = [] if times is None else grid_positions(times, steps, t0, t1)
    states: list[Tensor] = []
    y, v = z0, field(grid.start(z0), z0)
    for k in range(steps):
        y_next, v_next = leapfrog_step(field, grid, k, y, v)
        while len(states) < len(outputs) and outputs[len(states)][0] == k:
            share = outputs[len(states)][1]
            states.append(y if share == 0.0 else _between(share, grid.h, (y, v, y_next, v_next)))
        y, v = y_next, v_next
    states += [y] * (len(outputs) - len(states))
    # A step only adds to the state, and nothing added to inf or NaN is finite: looking at the end suffices.
    finite = finite_samples(y)
    final, trajectory = y, None if times is None else torch.stack(states)
    if not bool(finite.all()):
        final = torch.where(broadcast_to_state(finite, y), y, torch.nan)
        if trajectory is not None:
            reached = torch.stack([broadcast_to_state(finite_samples(row), row) for row in trajectory])
            trajectory = torch.where(reached, trajectory, torch.nan)
    solution = Solution(
        final=final,
        status=torch.where(finite, int(SolveStatus.SUCCESS), int(SolveStatus.NON_FINITE)),
        evaluations=per_sample_values(z0, planned),
        accepted=per_sample_values(z0, steps),
        rejected=per_sample_values(z0, 0),
        last_step=per_sample_values(z0, abs(grid.h), dtype=torch.float64),
        times=times,
        trajectory=trajectory,
    )
    return solution, v


def leapfrog_step(field: Field, grid: LeapfrogGrid, k: int, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return state and slope after step ``k`` of the grid, given both before it."""
    y_half = torch.add(y, v, alpha=grid.h / 2)
    v_next = torch.sub(2 * field(grid.middle(k, y), y_half), v)
    return torch.add(y_half, v_next, alpha=grid.h / 2), v_next


def _between(share: float, h: float, ends: Sequence[Tensor]) -> Tensor:
    return torch.stack([w * end for w, end in zip(hermite_weights(share, h), ends, strict=True)]).sum(dim=0)


def hermite_weights(share: float, h: float) -> tuple[float, float, float, float]:
    """Return the weights of ``y, v, y', v'`` in the cubic through both ends, at the share of the step ``h``.

    Source: Hairer, Norsett, Wanner I, II.6, equation 6.7.
    """
    rest = 1.0 - share
    return (
        rest * rest * (1 + 2 * share),
        h * share * rest * rest,
        share * share * (1 + 2 * rest),
        -h * share * share * rest,
    )
