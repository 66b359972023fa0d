"""The gradient by the adjoint equation, solved backwards together with the state.

With ``a`` the gradient of the loss by ``z(t)``, going back from the end,

    z' = f(t, z),    a' = -a df/dz,    and the gradient by the parameters is the integral of a df/dp over the interval.

Nothing of the forward solve is kept but its end and outputs. It is the gradient of the equation's solution, not of
the numbers that the solver returns: with Euler's method and 10 steps the two differ by a few percent. The solver of
the backward solve is that of the forward solve: on a uniform grid the same step, else the same tolerances.

With tolerances there are two ways to choose the steps. ``coupled``: state, adjoint and parameters' gradient of the
whole batch are one system with one error norm and one step, so that the tolerances cover all of them. Otherwise every
sample has its own steps for its ``(z, a)``, as in the forward solve, and the parameters' gradient, whose error
influences neither, is a quadrature over these steps ("seminorm", Kidger et al., Hey, that's not an ODE, ICML 2021).

Source: Pontryagin's adjoint as in Chen et al., Neural Ordinary Differential Equations, NeurIPS 2018.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ode_core.solvers.gradients.one_step import Run, unit_step_field
from ode_core.solvers.gradients.tensors import GradientSums, require_only
from ode_core.solvers.output_times import OutputMode, snapped_to_ends
from ode_core.solvers.record import AcceptedStep
from ode_core.solvers.solution import Field, Solution, SolveFailed, broadcast_to_state, finite_samples, per_sample
from ode_core.solvers.step_control import sample_rms
from ode_core.specs.solver import SolverSpec


def solve_with_adjoint(
    run: Run,
    field: Field,
    z0: Tensor,
    solver: SolverSpec,
    parameters: Sequence[Tensor],
    *,
    coupled: bool,
    t0: float,
    t1: float,
    times: Tensor | None = None,
    outputs: OutputMode = "land",
    max_evaluations: int | None = None,
) -> Solution:
    """Solve with gradients for ``z0`` and ``parameters``; see ``solve`` for the arguments.

    A sample that fails has gradients by the outputs that it reached. A backward solve that fails raises
    ``SolveFailed`` in the backward pass.
    """
    with torch.no_grad():
        solution = run(field, z0, solver, t0=t0, t1=t1, times=times, outputs=outputs, max_evaluations=max_evaluations)
    backward = _BackwardSolve(run, field, solver, parameters, coupled, t0, t1, times)
    final, trajectory = _Adjoint.apply(backward, solution, z0, *parameters)  # type: ignore[no-untyped-call]
    execution = dataclasses.replace(
        solution.execution, reason="solved without a graph: the gradient comes from the adjoint equation"
    )
    return dataclasses.replace(solution, final=final, trajectory=trajectory, execution=execution)


class _Adjoint(torch.autograd.Function):
    """The end and the trajectory of a solve, with the backward solve as their derivative."""

    @staticmethod
    def forward(
        ctx: Any, backward: "_BackwardSolve", solution: Solution, z0: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        ctx.solve, ctx.parameters = backward, parameters
        ctx.set_materialize_grads(False)
        outputs = () if solution.trajectory is None else (solution.trajectory,)
        # The parameters are saved only to notice when one of them was changed in between.
        ctx.save_for_backward(solution.final, *parameters, *outputs)
        return solution.final, solution.trajectory

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, final: Tensor | None, outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        z, *others = ctx.saved_tensors
        states = others[len(ctx.parameters) :]
        sums = GradientSums(ctx.parameters)
        points = [] if outputs is None else list(zip(ctx.solve.output_times, states[0], outputs, strict=True))
        a = torch.zeros_like(z)
        if final is not None:
            points.append((ctx.solve.t1, z, final))
        t = ctx.solve.t1
        for time, state, gradient in reversed(points):
            if time != t:
                _, a = ctx.solve.segment(z, a, t, time, sums)
            # Going on from the state of the forward solve keeps errors of the way back from adding up.
            reached = broadcast_to_state(finite_samples(state), state)
            z, a, t = state, a + torch.where(reached, gradient, 0.0), time
        if t != ctx.solve.t0:
            _, a = ctx.solve.segment(z, a, t, ctx.solve.t0, sums)
        return None, None, a, *sums.values


class _BackwardSolve:
    """Solves the adjoint equation over parts of the interval."""

    def __init__(
        self,
        run: Run,
        field: Field,
        solver: SolverSpec,
        parameters: Sequence[Tensor],
        coupled: bool,
        t0: float,
        t1: float,
        times: Tensor | None,
    ) -> None:
        self.run, self.field, self.solver, self.t0, self.t1 = run, field, solver, t0, t1
        self.parameters = parameters
        self._checked = False
        # On a grid no step is chosen, and one system takes one call of the field for all.
        self.coupled = coupled or not solver.adaptive
        self.step_size = None if solver.adaptive else abs(t1 - t0) / solver.fixed_steps(t0, t1)
        self.rounding = 1e-9
        if times is not None and self.step_size is not None:
            rounding_of_times = 4 * torch.finfo(times.dtype).eps * max(abs(t0), abs(t1))
            self.rounding = min(1e-3, max(self.rounding, rounding_of_times / self.step_size))
        self.output_times: list[float] = [] if times is None else snapped_to_ends(times, t0, t1).tolist()

    def segment(self, z: Tensor, a: Tensor, t_from: float, t_to: float, sums: GradientSums) -> tuple[Tensor, Tensor]:
        """Return state and adjoint at ``t_to``, given both at ``t_from``; add to the parameters' gradients."""
        alive = (per_sample(a) != 0).any(dim=1) & finite_samples(z)
        if not bool(alive.any()):
            return z, torch.zeros_like(a)
        mask = broadcast_to_state(alive, z)
        if not bool(torch.isfinite(a).all()):
            # The gradient of a loss that is no number: no fault of the solve, and nothing to solve for.
            sums.add([torch.full_like(tensor, torch.nan) for tensor in sums.tensors])
            return z, torch.where(mask, torch.nan, torch.zeros_like(a))
        # The equation is linear in a: scaled to 1, the absolute tolerance means the same for it as for the state.
        scale = _size(torch.where(mask, a, 0.0))
        scale = scale.max().expand_as(scale) if self.coupled else torch.where(alive, scale, 1.0)
        factor = broadcast_to_state(scale, a).to(a.dtype)
        start = torch.where(mask, z, z[alive][0])
        a = torch.where(mask, a, 0.0) / factor
        solver = self._solver(t_from, t_to)
        try:
            solve = self._together if self.coupled else self._apart
            z, a = solve(start, a, factor, solver, t_from, t_to, sums)
        except SolveFailed as failure:
            raise SolveFailed(
                f"the adjoint equation could not be solved backwards from t = {t_from:g}: {failure}; "
                f"gradient checkpoint does not solve backwards"
            ) from failure
        return z, torch.where(mask, a * factor, 0.0)

    def _solver(self, t_from: float, t_to: float) -> SolverSpec:
        if self.step_size is None:
            return self.solver
        exact = abs(t_to - t_from) / self.step_size
        # From grid point to grid point up to the rounding of the output times makes no step more.
        return self.solver.with_steps(max(1, math.ceil(exact - self.rounding)))

    def _together(
        self, z: Tensor, a: Tensor, factor: Tensor, solver: SolverSpec, t_from: float, t_to: float, sums: GradientSums
    ) -> tuple[Tensor, Tensor]:
        """Solve for the batch's ``(z, a)`` and the parameters' gradient as one sample."""
        sizes = [z.numel(), a.numel(), *(tensor.numel() for tensor in sums.tensors)]

        def slope(t: Tensor, y: Tensor) -> Tensor:
            z_now, a_now = (part.reshape(z.shape) for part in torch.split(y[0], sizes)[:2])
            f, by_z, *by_tensors = self._evaluate(t.reshape(()), z_now, a_now, sums.tensors)
            return torch.cat([f.flatten(), *(-part.flatten().to(y) for part in (by_z, *by_tensors))]).unsqueeze(0)

        start = torch.cat([z.flatten(), a.flatten(), z.new_zeros(sum(sizes[2:]))]).unsqueeze(0)
        solution = self.run(slope, start, solver, t0=t_from, t1=t_to)
        solution.raise_on_failure()
        z_end, a_end, *totals = torch.split(solution.final[0], sizes)
        common = float(factor.flatten()[0])
        sums.add([total.reshape(t.shape).to(t) for t, total in zip(sums.tensors, totals, strict=True)], factor=common)
        return z_end.reshape(z.shape), a_end.reshape(a.shape)

    def _apart(
        self, z: Tensor, a: Tensor, factor: Tensor, solver: SolverSpec, t_from: float, t_to: float, sums: GradientSums
    ) -> tuple[Tensor, Tensor]:
        """Solve for every sample's ``(z, a)``, with the parameters' gradient as a quadrature over its steps."""
        sizes = [per_sample(z).shape[1]] * 2
        shape = z.shape

        def slope(t: Tensor, y: Tensor) -> Tensor:
            z_now, a_now = (part.reshape(shape) for part in torch.split(y, sizes, dim=1))
            f, by_z = self._evaluate(broadcast_to_state(t, z_now), z_now, a_now, ())
            return torch.cat([per_sample(f), -per_sample(by_z)], dim=1)

        quadrature = _Quadrature(self.run, self.field, solver.with_steps(1), shape, factor, sums)
        start = torch.cat([per_sample(z), per_sample(a)], dim=1)
        solution = self.run(slope, start, solver, t0=t_from, t1=t_to, record=quadrature.add if sums.tensors else None)
        solution.raise_on_failure()
        # A path that forgot to record would give a gradient that is silently wrong.
        assert not sums.tensors or quadrature.steps == int(solution.accepted.sum())
        z_end, a_end = torch.split(solution.final, sizes, dim=1)
        return z_end.reshape(shape), a_end.reshape(shape)

    def _evaluate(self, t: Tensor, z: Tensor, a: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the field, ``a df/dz`` and ``a df/dp`` for each of the tensors."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            f = self.field(t, z)
        if not self._checked:
            require_only([f], (z, *self.parameters))
            self._checked = True
        wanted = (z, *tensors)
        found = torch.autograd.grad(f, wanted, a, allow_unused=True) if f.requires_grad else [None] * len(wanted)
        gradients = (torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True))
        return [f.detach(), *gradients]


def _size(a: Tensor) -> Tensor:
    """Return each sample's root mean square, ``(batch,)``; above 0 also where the squares are too small for the type.

    The adjoint of a sample that the model is sure of is that small.
    """
    smallest = torch.finfo(a.dtype).tiny
    largest = per_sample(a).abs().amax(dim=1).clamp(min=smallest)
    return (largest * sample_rms(a / broadcast_to_state(largest, a))).clamp(min=smallest)


class _Quadrature:
    """The integral of ``a df/dp`` by the method's own weights, step by step.

    A number ``q`` for each sample with ``q' = a f`` is solved along, for one step, with a graph that leads only from
    ``f`` to the parameters: its derivative by them is the integral over that step.
    """

    def __init__(
        self, run: Run, field: Field, one_step: SolverSpec, shape: torch.Size, factor: Tensor, sums: GradientSums
    ) -> None:
        self.run, self.field, self.one_step, self.shape, self.sums = run, field, one_step, shape, sums
        self.factor = factor
        self.steps = 0  # of all samples together

    def add(self, step: AcceptedStep) -> None:
        """Add the integral over the step."""
        assert step.samples is not None
        assert step.t is not None
        assert step.length is not None
        assert step.end is not None
        self.steps += len(step.samples)
        batch = self.shape[0]
        # The others stand still at a place of one that moves, and contribute nothing.
        y = step.z[:1].repeat(batch, 1).index_copy(0, step.samples, step.z)
        t = step.t[:1].repeat(batch).index_copy(0, step.samples, step.t)
        length = torch.zeros_like(t).index_copy(0, step.samples, step.length)
        end = t.index_copy(0, step.samples, step.end)
        with torch.enable_grad():
            start = torch.cat([y, y.new_zeros(batch, 1)], dim=1)
            final = self.run(unit_step_field(self._slope, t, length, end), start, self.one_step, t0=0.0, t1=1.0).final
            q = final[:, -1]
        if q.requires_grad:
            # Solved backwards, the integral has the other sign.
            self.sums.add(torch.autograd.grad(q, self.sums.tensors, -self.factor.flatten(), allow_unused=True))

    def _slope(self, t: Tensor, y: Tensor) -> Tensor:
        size = (y.shape[1] - 1) // 2
        z, a = (part.reshape(self.shape) for part in torch.split(y[:, :-1].detach(), size, dim=1))
        z.requires_grad_()
        f = self.field(broadcast_to_state(t, z), z)
        by_z = torch.zeros_like(z)
        if f.requires_grad:
            (gradient,) = torch.autograd.grad(f, z, a, retain_graph=True, allow_unused=True)
            by_z = by_z if gradient is None else gradient
        q = (per_sample(a) * per_sample(f)).sum(dim=1, keepdim=True)
        return torch.cat([per_sample(f).detach(), -per_sample(by_z), q], dim=1)
