"""The gradient of the asynchronous leapfrog from states computed backwards.

Only the end ``(y, v)`` is kept. Every step is undone, which takes one evaluation of the field, and the same
evaluation gives the step's contribution to the gradient. It is the gradient of the map that was run; the states
are those of the forward pass up to rounding, which grows on the way back as the method's parasitic mode does.

Source: Zhuang et al., MALI: a memory efficient and reverse accurate integrator for neural ODEs, ICLR 2021.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ode_core.solvers.fixed_grid import grid_positions
from ode_core.solvers.gradients.tensors import GradientSums
from ode_core.solvers.leapfrog import LeapfrogGrid, hermite_weights, walk_leapfrog
from ode_core.solvers.solution import Field, Solution, broadcast_to_state
from ode_core.solvers.step_control import sample_rms

# Half the digits of the states are lost; the gradient has at most the other half.
_LARGEST_DRIFT_ROOT = 0.5


class ReconstructionWarning(UserWarning):
    """The states computed backwards are not those of the forward pass: the gradient is inexact."""


def solve_reversibly(
    field: Field,
    z0: Tensor,
    steps: int,
    parameters: Sequence[Tensor],
    *,
    t0: float,
    t1: float,
    times: Tensor | None = None,
    max_evaluations: int | None = None,
) -> Solution:
    """Solve by the asynchronous leapfrog with gradients for ``z0`` and ``parameters``; see ``solve``.

    A sample that fails has no gradient, not even by outputs before it failed: nothing leads back from there.

    Warns:
        ReconstructionWarning: in the backward pass, when the start computed backwards lost half its digits.
    """
    with torch.no_grad():
        solution, v = walk_leapfrog(field, z0, steps, t0=t0, t1=t1, times=times, max_evaluations=max_evaluations)
    positions = [] if times is None else grid_positions(times, steps, t0, t1)
    undoing = _Undoing(field, LeapfrogGrid(steps, t0, t1), positions)
    final, trajectory = _Undone.apply(undoing, solution, v, z0, *parameters)  # type: ignore[no-untyped-call]
    return dataclasses.replace(solution, final=final, trajectory=trajectory)


class _Undone(torch.autograd.Function):
    """The end and the trajectory of a solve, with the walk back as their derivative."""

    @staticmethod
    def forward(
        ctx: Any, undoing: "_Undoing", solution: Solution, v: Tensor, z0: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        ctx.undoing, ctx.parameters = undoing, parameters
        ctx.set_materialize_grads(False)
        # The parameters are saved only to notice when one of them was changed in between.
        ctx.save_for_backward(solution.succeeded, z0, v, solution.final, *parameters)
        return solution.final, solution.trajectory

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, final: Tensor | None, outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        succeeded, z0, v, y, *_ = ctx.saved_tensors
        sums = GradientSums(ctx.parameters)
        if not bool(succeeded.any()):
            return None, None, None, torch.zeros_like(z0), *(None for _ in ctx.parameters)
        mask = broadcast_to_state(succeeded, z0)
        # Backwards, NaN times the zero that reaches it is NaN: a good sample stands in for one that failed.
        z0, v, y = (torch.where(mask, values, values[succeeded][0]) for values in (z0, v, y))
        final = torch.zeros_like(y) if final is None else torch.where(mask, final, 0.0)
        rows = [] if outputs is None else [torch.where(mask, row, 0.0) for row in outputs.unbind()]
        start = ctx.undoing.pull_back(z0, y, v, final, rows, sums)
        return None, None, None, torch.where(mask, start, 0.0), *sums.values


class _Undoing:
    """Walks a solve back, from its end to its start."""

    def __init__(self, field: Field, grid: LeapfrogGrid, positions: Sequence[tuple[int, float]]) -> None:
        self.field, self.grid, self.positions = field, grid, positions

    def pull_back(
        self, z0: Tensor, y: Tensor, v: Tensor, by_y: Tensor, rows: Sequence[Tensor], sums: GradientSums
    ) -> Tensor:
        """Add the tensors' gradients to ``sums``; return that of the start.

        Args:
            z0: the start, ``(batch, *state)``.
            y: the state at the end.
            v: the method's slope there.
            by_y: gradient by ``y``.
            rows: gradients by the outputs.
            sums: of the tensors that the field uses.
        """
        h, by_v = self.grid.h, torch.zeros_like(by_y)
        left = list(zip(self.positions, rows, strict=False))
        while left and left[-1][0][0] == self.grid.steps:
            by_y = by_y + left.pop()[1]
        for k in reversed(range(self.grid.steps)):
            before: list[tuple[float, float, Tensor]] = []  # weights of this step's outputs at its start
            while left and left[-1][0][0] == k:
                (_, share), row = left.pop()
                w0, u0, w1, u1 = hermite_weights(share, h)
                by_y, by_v = by_y + w1 * row, by_v + u1 * row
                before.append((w0, u0, row))
            y_half = torch.sub(y, v, alpha=h / 2)
            with torch.enable_grad():
                y_half.requires_grad_()
                v_hat = self.field(self.grid.middle(k, y), y_half)
            # The step was y_half = y + h/2 v, v' = 2 v_hat - v, y' = y_half + h/2 v'.
            by_v = torch.add(by_v, by_y, alpha=h / 2)
            by_half = by_y + sums.pull_back([v_hat], [2 * by_v], y_half)
            by_y, by_v = by_half, torch.sub(by_half * (h / 2), by_v)
            y_half, v = y_half.detach(), torch.sub(2 * v_hat.detach(), v)
            y = torch.sub(y_half, v, alpha=h / 2)
            for w0, u0, row in before:
                by_y, by_v = by_y + w0 * row, by_v + u0 * row
        _warn_of_drift(y, z0)
        with torch.enable_grad():
            start = z0.detach().requires_grad_()
            slope = self.field(self.grid.start(z0), start)
        return by_y + sums.pull_back([slope], [by_v], start)


def _warn_of_drift(reconstructed: Tensor, z0: Tensor) -> None:
    size = sample_rms(z0.detach())
    drift = sample_rms(reconstructed - z0.detach()) / size.clamp(
        min=float(size.max()) * 1e-3 + torch.finfo(z0.dtype).tiny
    )
    worst = float(drift.max())
    if not worst <= torch.finfo(z0.dtype).eps ** _LARGEST_DRIFT_ROOT:
        warnings.warn(
            f"walking back, the reversible method missed the start by {worst:.1g} of its size, so that the gradient is "
            f"no more exact than that: use gradient checkpoint with another method, a shorter interval, or float64",
            ReconstructionWarning,
            stacklevel=2,
        )
