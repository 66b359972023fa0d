"""The exact gradient of a solve with one step's graph at a time.

The solve runs without a graph and keeps the states before its accepted steps. The backward pass repeats one step
after the other with a graph, from the last to the first. So it is the gradient of the map that was run, equal to
backpropagation's up to rounding; the choice of the steps has none.

Source: the trajectory checkpoints of Zhuang et al., Adaptive Checkpoint Adjoint, ICML 2020.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ode_core.solvers.fixed_grid import grid_positions
from ode_core.solvers.gradients.one_step import Run, unit_step_field
from ode_core.solvers.gradients.tensors import GradientSums
from ode_core.solvers.output_times import OutputMode, snapped_to_ends
from ode_core.solvers.record import AcceptedStep
from ode_core.solvers.solution import Field, Solution, broadcast_to_state, finite_samples
from ode_core.specs.solver import SolverSpec


def solve_with_checkpoints(
    run: Run,
    field: Field,
    z0: Tensor,
    solver: SolverSpec,
    parameters: Sequence[Tensor],
    *,
    t0: float,
    t1: float,
    times: Tensor | None = None,
    outputs: OutputMode = "land",
    max_evaluations: int | None = None,
) -> Solution:
    """Solve with gradients for ``z0`` and ``parameters``; see ``solve`` for the arguments.

    A sample that fails has gradients by the outputs that it reached, and leaves those of the others alone.

    Raises:
        ValueError: an adaptive solve would read its outputs off an interpolant, whose coefficients are not kept.
    """
    if solver.adaptive and times is not None and outputs != "land":
        raise ValueError("gradient checkpoint lands on the output times: leave out outputs, or use backprop")
    steps: list[AcceptedStep] = []
    with torch.no_grad():
        solution = run(
            field, z0, solver, t0=t0, t1=t1, times=times, max_evaluations=max_evaluations, record=steps.append
        )
    # A path that forgot to record would give a gradient that is silently wrong.
    recorded = sum(len(z0) if step.samples is None else len(step.samples) for step in steps)
    assert recorded == int(solution.accepted.sum())
    replay = (_AdaptiveReplay if solver.adaptive else _GridReplay)(run, field, solver, t0, t1, times)
    final, trajectory = _Replayed.apply(replay, solution, steps, z0, *parameters)  # type: ignore[no-untyped-call]
    execution = dataclasses.replace(solution.execution, reason="the steps are recorded for the gradient")
    return dataclasses.replace(solution, final=final, trajectory=trajectory, execution=execution)


class _Replay(ABC):
    """Repeats the steps of one solve, last first."""

    def __init__(self, run: Run, field: Field, solver: SolverSpec, t0: float, t1: float, times: Tensor | None) -> None:
        self.run, self.field, self.solver = run, field, solver
        self.t0, self.t1, self.times = t0, t1, times
        self.one_step = solver.with_steps(1)

    def step(self, z: Tensor, t: Tensor, length: Tensor, end: Tensor, shares: Tensor | None = None) -> Solution:
        """Return a step from ``t`` to ``end``, with outputs at the shares of its length."""
        unit = unit_step_field(self.field, t, length, end)
        return self.run(unit, z, self.one_step, t0=0.0, t1=1.0, times=shares)

    @abstractmethod
    def kept(self, steps: Sequence[AcceptedStep]) -> Iterator[Tensor]:
        """Yield the tensors of the steps that ``pull_back`` needs."""

    @abstractmethod
    def pull_back(
        self, kept: Sequence[Tensor], adjoint: Tensor, succeeded: Tensor, outputs: Tensor | None, sums: GradientSums
    ) -> Tensor:
        """Add the tensors' gradients to ``sums``; return that of the start.

        Args:
            kept: what ``kept`` gave.
            adjoint: gradient by the final state, 0 for failed samples.
            succeeded: ``(batch,)`` of bool.
            outputs: gradient by the trajectory, or None.
            sums: of the tensors that the field uses.
        """


class _Replayed(torch.autograd.Function):
    """The end and the trajectory of a solve, with the replay as their derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        replay: _Replay,
        solution: Solution,
        steps: Sequence[AcceptedStep],
        z0: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        kept = list(replay.kept(steps))
        ctx.replay, ctx.parameters = replay, parameters
        ctx.set_materialize_grads(False)
        # The parameters are saved only to notice when one of them was changed in between.
        ctx.save_for_backward(solution.succeeded, z0, *parameters, *kept)
        return solution.final, solution.trajectory

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, final: Tensor | None, outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        succeeded, z0, *others = ctx.saved_tensors
        sums = GradientSums(ctx.parameters)
        adjoint = torch.zeros_like(z0)
        if final is not None:
            adjoint = torch.where(broadcast_to_state(succeeded, final), final, adjoint)
        kept = others[len(ctx.parameters) :]
        start = ctx.replay.pull_back(kept, adjoint, succeeded, outputs, sums)
        return None, None, None, start, *sums.values


class _GridReplay(_Replay):
    """Of a uniform grid, whose times are known: a step is its state."""

    def kept(self, steps: Sequence[AcceptedStep]) -> Iterator[Tensor]:
        return (step.z for step in steps)

    def pull_back(
        self, kept: Sequence[Tensor], adjoint: Tensor, succeeded: Tensor, outputs: Tensor | None, sums: GradientSums
    ) -> Tensor:
        at_points, within = self._outputs(len(kept), outputs)
        all_good = bool(succeeded.all())
        h = torch.tensor((self.t1 - self.t0) / max(len(kept), 1), dtype=torch.float64, device=adjoint.device)
        end, good = self._grid_point(len(kept), len(kept), h), succeeded
        for row in at_points.get(len(kept), ()):
            adjoint = adjoint + torch.where(broadcast_to_state(good, row), row, 0.0)
        for k in reversed(range(len(kept))):
            z, t = kept[k], self._grid_point(k, len(kept), h)
            shares, rows = within.get(k, ([], []))
            if not all_good:
                z, rows = _good_state(z, good), [torch.where(broadcast_to_state(good, row), row, 0.0) for row in rows]
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                points = torch.tensor(shares, dtype=torch.float64) if shares else None
                solution = self.step(z, t, h, end, points)
            results, cotangents = [solution.final], [adjoint]
            if solution.trajectory is not None:
                results, cotangents = [*results, solution.trajectory], [*cotangents, torch.stack(rows)]
            adjoint = sums.pull_back(results, cotangents, z)
            if not all_good:
                adjoint = torch.where(broadcast_to_state(good, adjoint), adjoint, 0.0)
                good = finite_samples(kept[k])
            for row in at_points.get(k, ()):
                adjoint = adjoint + torch.where(broadcast_to_state(good, row), row, 0.0)
            end = t
        return adjoint

    def _grid_point(self, k: int, steps: int, like: Tensor) -> Tensor:
        value = self.t1 if k == steps else self.t0 + (self.t1 - self.t0) * k / steps
        return torch.tensor(value, dtype=like.dtype, device=like.device)

    def _outputs(
        self, steps: int, outputs: Tensor | None
    ) -> tuple[dict[int, list[Tensor]], dict[int, tuple[list[float], list[Tensor]]]]:
        """Return the outputs' gradients: by grid point, and by step with the shares of its length."""
        at_points: dict[int, list[Tensor]] = {}
        within: dict[int, tuple[list[float], list[Tensor]]] = {}
        if self.times is not None and outputs is not None and steps:
            positions = grid_positions(self.times, steps, self.t0, self.t1)
            for (k, share), row in zip(positions, outputs.unbind(), strict=True):
                if share == 0.0:
                    at_points.setdefault(k, []).append(row)
                else:
                    shares, rows = within.setdefault(k, ([], []))
                    shares.append(share)
                    rows.append(row)
        return at_points, within


def _good_state(z: Tensor, good: Tensor) -> Tensor:
    """Return the states, those of samples that are not good replaced by that of one that is.

    Backwards, NaN times the zero that reaches it is NaN: a failed sample would spoil the gradients of all.
    """
    if not bool(good.any()):
        return torch.zeros_like(z)
    return torch.where(broadcast_to_state(good, z), z, z[good][0])


class _AdaptiveReplay(_Replay):
    """Of an adaptive solve: each step is one of some samples, the others stand still."""

    def kept(self, steps: Sequence[AcceptedStep]) -> Iterator[Tensor]:
        for step in steps:
            assert step.samples is not None
            assert step.t is not None
            assert step.length is not None
            assert step.end is not None
            yield from (step.z, step.samples, step.t, step.length, step.end)

    def pull_back(
        self, kept: Sequence[Tensor], adjoint: Tensor, succeeded: Tensor, outputs: Tensor | None, sums: GradientSums
    ) -> Tensor:
        steps = [kept[i : i + 5] for i in range(0, len(kept), 5)]
        stops, rows = self._stops(outputs)
        if steps:
            # Who stands still needs a place where the field is finite. Before a sample's own last step has come up
            # it is that of another, whose first step to come up is this one.
            z, t = steps[-1][0][:1].expand_as(adjoint), steps[-1][2][:1].expand(len(adjoint))
        for states, samples, starts, lengths, ends in reversed(steps):
            if rows is not None:
                adjoint = _with_arrivals(adjoint, samples, ends, stops, rows, self.t1 >= self.t0)
            z = z.index_copy(0, samples, states).detach()
            t = t.index_copy(0, samples, starts)
            length = torch.zeros_like(t).index_copy(0, samples, lengths)
            end = t.index_copy(0, samples, ends)
            with torch.enable_grad():
                leaf = z.requires_grad_()
                final = self.step(leaf, t, length, end).final
            moving = torch.zeros_like(t, dtype=torch.bool).index_fill(0, samples, True)
            moving = broadcast_to_state(moving, adjoint)
            pulled = sums.pull_back([final], [torch.where(moving, adjoint, 0.0)], leaf)
            adjoint = torch.where(moving, pulled, adjoint)
        if steps and rows is not None and stops[0] == self.t0:
            adjoint = adjoint + rows[0]
        return adjoint

    def _stops(self, outputs: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the distinct output times and the gradient by the state at each of them."""
        if self.times is None or outputs is None:
            return torch.zeros(0), None
        stops, inverse = torch.unique_consecutive(snapped_to_ends(self.times, self.t0, self.t1), return_inverse=True)
        rows = outputs.new_zeros((len(stops), *outputs.shape[1:])).index_add_(0, inverse.to(outputs.device), outputs)
        return stops.to(outputs.device), rows


def _with_arrivals(
    adjoint: Tensor, samples: Tensor, ends: Tensor, stops: Tensor, rows: Tensor, forward: bool
) -> Tensor:
    """Add the gradients by the outputs at which a step of these samples ended."""
    sign = 1.0 if forward else -1.0
    index = torch.searchsorted(sign * stops, sign * ends).clamp(max=len(stops) - 1)
    here = stops[index] == ends
    return adjoint.index_add(0, samples[here], rows[index[here], samples[here]])
