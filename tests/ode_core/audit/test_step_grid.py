import pytest
import torch
from torch import Tensor

from ode_core.audit.step_grid import fixed_grid, frozen_grid, numerical_path
from ode_core.solvers.solve import solve
from ode_core.solvers.step_map import step_map
from ode_core.specs import SolverSpec


def swirl(t: Tensor, z: Tensor) -> Tensor:
    """Faster the further out, and slowly turning with the time."""
    x, y = z[:, :1], z[:, 1:]
    rate = 1 + 2 * (x**2 + y**2)
    return torch.cat([-rate * y + t * x, rate * x], dim=1)


def starts() -> Tensor:
    return torch.linspace(0.1, 1.2, 12, dtype=torch.float64).reshape(-1, 1) * torch.tensor([[0.8, -0.6]]).double()


@pytest.mark.parametrize(
    "solver",
    [
        SolverSpec(method="heun", steps=9),
        SolverSpec(method="euler", step_size=0.3),
        SolverSpec(method="rk4", step_size=0.3, grid="truncate"),
        SolverSpec(method="implicit_midpoint", steps=9),
        SolverSpec(method="kvaerno3", step_size=0.3),
    ],
)
def test_a_fixed_grids_path_ends_where_the_solve_does(solver: SolverSpec) -> None:
    grid = fixed_grid(solver, len(starts()), 1.0)
    path = numerical_path(step_map(swirl, solver.method), grid, starts())
    torch.testing.assert_close(path[-1], solve(swirl, starts(), solver).final, rtol=1e-12, atol=1e-12)
    assert (grid.ends[-1] == 1.0).all()
    torch.testing.assert_close(grid.starts[1:], grid.ends[:-1])


def test_an_adaptive_solve_frozen_is_a_grid_for_each_sample_that_gives_its_solution() -> None:
    solver = SolverSpec(method="dopri5", rtol=1e-4, atol=1e-4)
    grid, solution = frozen_grid(swirl, starts(), solver, 1.0)
    path = numerical_path(step_map(swirl, "dopri5"), grid, starts())

    assert torch.equal(grid.taken.sum(dim=0), solution.accepted)
    assert len(set(solution.accepted.tolist())) > 1
    torch.testing.assert_close(grid.lengths.sum(dim=0), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(path[-1], solution.final, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(solution.final, solve(swirl, starts(), solver).final, rtol=0, atol=0)


def test_the_accepted_steps_of_an_implicit_method_give_its_solution_up_to_newtons_share_of_the_tolerance() -> None:
    solver = SolverSpec(method="kvaerno3", rtol=1e-3, atol=1e-3)
    grid, solution = frozen_grid(swirl, starts(), solver, 1.0)
    end = numerical_path(step_map(swirl, "kvaerno3"), grid, starts())[-1]
    exact = solve(swirl, starts(), SolverSpec(method="dopri8", rtol=1e-12, atol=1e-12), compilation="never").final

    assert torch.equal(grid.taken.sum(dim=0), solution.accepted)
    assert len(set(solution.accepted.tolist())) > 1
    own, whole = (end - solution.final).abs().max(), (exact - solution.final).abs().max()
    # Each step's stages are solved to a hundredth of what its error may be.
    assert own < 0.1 * whole


def test_a_sample_that_fails_keeps_its_steps_up_to_there() -> None:
    solver = SolverSpec(method="heun_euler", rtol=1e-4, atol=1e-4, max_steps=100)
    grid, solution = frozen_grid(swirl, starts(), solver, 1.0)
    assert 0 < int(solution.succeeded.sum()) < 12
    failed = ~solution.succeeded
    assert (grid.lengths.sum(dim=0)[failed] < 1).all()
