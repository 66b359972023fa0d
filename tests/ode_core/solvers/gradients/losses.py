"""A loss of a solve and its gradients, by any mode."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ode_core.solvers.solve import solve
from ode_core.specs import METHODS, GradientMode, SolverSpec
from tests.ode_core.solvers.problems import coupled

EXPLICIT = [name for name, facts in METHODS.items() if facts.family == "explicit"]
EMBEDDED = [name for name in EXPLICIT if METHODS[name].adaptive]
# Twice the start, twice the same, at and between grid points of 8 steps, the end.
TIMES = [0.0, 0.0, 0.13, 0.25, 0.4, 0.5, 0.5, 0.97, 1.0]
STARTS = [[1.1, 0.4], [0.3, 2.0], [-0.5, 0.2]]


def solvers(methods: Sequence[str] = EXPLICIT) -> list[SolverSpec]:
    """Each method on a grid of 8 steps, and with tolerances where it can."""
    grids = [SolverSpec(method=method, steps=8) for method in methods]
    return grids + [SolverSpec(method=m, rtol=1e-4, atol=1e-6) for m in methods if METHODS[m].adaptive]


def gradients(
    gradient: GradientMode,
    solver: SolverSpec,
    *,
    t0: float = 0.0,
    t1: float = 1.0,
    times: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """Gradients of a loss of the end and the outputs of ``coupled``, by the starts and by two factors of the field."""
    z0 = torch.tensor(STARTS, dtype=dtype, requires_grad=True)
    factors = torch.tensor([0.8, 1.2], dtype=dtype, requires_grad=True)
    shift = torch.tensor(0.1, dtype=dtype, requires_grad=True)
    outputs = None if times is None else t0 + (t1 - t0) * torch.tensor(times, dtype=torch.float64)

    def field(t: Tensor, z: Tensor) -> Tensor:
        return factors * coupled(t, z) + shift

    solution = solve(
        field, z0, solver, t0=t0, t1=t1, times=outputs, gradient=gradient, parameters=[factors, shift], throw=True
    )
    loss = solution.final.square().sum()
    if solution.trajectory is not None:
        weights = torch.arange(1, len(solution.trajectory) + 1, dtype=dtype)[:, None, None]
        loss = loss + (weights * solution.trajectory.sin()).sum()
    return list(torch.autograd.grad(loss, (z0, factors, shift)))


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference of two lists of gradients, relative to the largest of the second list's."""
    scale = max(float(g.abs().max()) for g in theirs)
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) / scale


def function_of(gradient: GradientMode, solver: SolverSpec, **interval: Any) -> Callable[[Tensor, Tensor], Any]:
    """The end and three outputs as a function of the start and a factor, for a check by finite differences."""
    times = torch.tensor([0.13, 0.5, 1.0], dtype=torch.float64)

    def ends(z0: Tensor, factor: Tensor) -> tuple[Tensor, Tensor | None]:
        solution = solve(
            lambda t, z: factor * coupled(t, z),
            z0,
            solver,
            times=times,
            gradient=gradient,
            parameters=[factor],
            **interval,
        )
        return solution.final, solution.trajectory

    return ends
