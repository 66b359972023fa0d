"""Automatic differentiation through every step, without the steps of samples that failed."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from ode_core.solvers.solution import Solution, broadcast_to_state


def solve_with_graph(solve_from: Callable[[Tensor], Solution], z0: Tensor) -> Solution:
    """Return the solution from ``z0`` with a graph in which every sample is finite.

    Backwards, NaN times the zero that reaches it is NaN: a failed sample would spoil the gradients of all. So the
    solve is repeated with another sample in its place, which is not counted. A failed sample has no gradient, not
    even by the outputs that it reached.

    Args:
        solve_from: solves from a start on a fixed grid, where no sample changes the steps of another. In
            ``implicit_adams`` one that fails may change how often the others are corrected; the repeated solve is
            free of that, too.
        z0: the start.
    """
    solution = solve_from(z0)
    succeeded = solution.succeeded
    if not solution.final.requires_grad or bool(succeeded.all()):
        return solution
    mask = broadcast_to_state(succeeded, z0)
    if not bool(succeeded.any()):
        return _detached(solution, final=torch.where(mask, z0, torch.nan))
    clean = solve_from(torch.where(mask, z0, z0[succeeded][0]))
    final = torch.where(mask, clean.final, torch.nan)
    if solution.trajectory is None or clean.trajectory is None:
        return dataclasses.replace(solution, final=final)
    trajectory = torch.where(mask, clean.trajectory, solution.trajectory.detach())
    return dataclasses.replace(solution, final=final, trajectory=trajectory)


def _detached(solution: Solution, *, final: Tensor) -> Solution:
    trajectory = None if solution.trajectory is None else solution.trajectory.detach()
    return dataclasses.replace(solution, final=final, trajectory=trajectory)
