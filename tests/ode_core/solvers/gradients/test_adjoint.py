import numpy as np
import pytest
import torch
import torchdiffeq
from torch import nn

from ode_core.solvers.solution import SolveFailed
from ode_core.solvers.solve import solve
from ode_core.solvers.status import SolveStatus
from ode_core.specs import METHODS, SolverSpec
from tests.ode_core.solvers.gradients.losses import STARTS, TIMES, function_of, gradients, largest_difference
from tests.ode_core.solvers.gradients.saved_memory import peak_of_saved_bytes
from tests.ode_core.solvers.problems import Watched, coupled

BOTH = ["adjoint", "adjoint_seminorm"]
TIGHT = SolverSpec(method="dopri5", rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("times", [None, TIMES], ids=["end", "outputs"])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.3, 0.2)])
@pytest.mark.parametrize("gradient", BOTH)
def test_with_tight_tolerances_it_is_the_gradient_of_the_discrete_map(gradient, t0, t1, times):
    # Both are the gradient of the solution up to some tolerances, times the growth of errors along the interval.
    ours = gradients(gradient, TIGHT, t0=t0, t1=t1, times=times)
    theirs = gradients("backprop", TIGHT, t0=t0, t1=t1, times=times)
    assert largest_difference(ours, theirs) < 1e-7


@pytest.mark.parametrize("method", ["euler", "midpoint", "bosh3", "rk4"])
def test_on_a_grid_it_differs_from_the_discrete_gradient_by_the_error_of_the_method(method):
    order, counts = METHODS[method].order, np.array([8, 16, 32])
    differences = []
    for steps in counts:
        solver = SolverSpec(method=method, steps=int(steps))
        differences.append(largest_difference(gradients("adjoint", solver), gradients("backprop", solver)))
    slope = -np.polyfit(np.log(counts), np.log(differences), 1)[0]
    assert abs(slope - order) < 0.3


def test_with_ten_steps_of_euler_it_is_some_percent_off():
    solver = SolverSpec(method="euler", steps=10)
    assert 0.02 < largest_difference(gradients("adjoint", solver), gradients("backprop", solver)) < 0.1


def test_on_a_grid_both_kinds_are_the_same():
    solver = SolverSpec(method="rk4", steps=5)
    kinds = [gradients(gradient, solver, times=TIMES) for gradient in BOTH]
    assert all(torch.equal(a, b) for a, b in zip(*kinds, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (0.7, 0.1)])
def test_outputs_at_grid_points_leave_the_grid_as_it_is(t0, t1, dtype):
    field = Watched(coupled, t0, t1)
    z0 = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    times = torch.linspace(t0, t1, 11, dtype=dtype)
    solver = SolverSpec(method="midpoint", steps=30)
    solution = solve(field, z0, solver, t0=t0, t1=t1, times=times, gradient="adjoint", parameters=[])
    forward = len(field.calls)
    solution.trajectory.sum().backward()
    assert len(field.calls) - forward == forward == 60


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Parameter(torch.randn(2, 8, generator=generator, dtype=torch.float64))
        self.outer = nn.Parameter(torch.randn(8, 2, generator=generator, dtype=torch.float64) / 3)

    def forward(self, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z @ self.inner + torch.sin(t)) @ self.outer


@pytest.mark.parametrize("gradient", BOTH)
@pytest.mark.parametrize("times", [[0.0, 2.0], [0.0, 0.3, 1.1, 2.0]])
def test_it_is_that_of_torchdiffeqs_adjoint(gradient, times):
    field, outputs = Network(), torch.tensor(times, dtype=torch.float64)
    z0 = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    solution = solve(field, z0, TIGHT, t1=2.0, times=outputs, gradient=gradient)
    theirs = torchdiffeq.odeint_adjoint(field, z0, outputs, method="dopri5", rtol=1e-9, atol=1e-9)
    wanted = (z0, *field.parameters())
    ours, expected = (
        torch.autograd.grad(states.sin().sum() + states[-1].square().sum(), wanted)
        for states in (solution.trajectory, theirs)
    )
    assert largest_difference(ours, expected) < 1e-7


@pytest.mark.parametrize("gradient", BOTH)
def test_the_gradient_is_that_of_the_solution_by_finite_differences(gradient):
    z0 = torch.tensor(STARTS[:1], dtype=torch.float64, requires_grad=True)
    factor = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    # Errors of the solve are 1e-9, divided by the differences' step of 1e-4.
    assert torch.autograd.gradcheck(function_of(gradient, TIGHT), (z0, factor), eps=1e-4, atol=2e-5, rtol=0)


@pytest.mark.parametrize("rule", [{"steps": 7}, {"rtol": 1e-5, "atol": 1e-5}])
@pytest.mark.parametrize("gradient", BOTH)
def test_the_field_is_asked_within_the_interval_only(gradient, rule):
    field = Watched(coupled, 0.1, 0.7)
    z0 = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    times = torch.tensor([0.1, 0.33, 0.7], dtype=torch.float64)
    solver = SolverSpec(method="dopri5", **rule)
    solution = solve(field, z0, solver, t0=0.1, t1=0.7, times=times, gradient=gradient, parameters=[])
    forward = len(field.calls)
    (solution.final.sum() + solution.trajectory.sum()).backward()
    assert len(field.calls) > forward


@pytest.mark.parametrize("gradient", BOTH)
def test_memory_does_not_grow_with_the_steps(gradient):
    few, many = (peak_of_saved_bytes(gradient, SolverSpec(method="rk4", steps=n)) for n in (16, 64))
    assert few == many
    loose, tight = (
        peak_of_saved_bytes(gradient, SolverSpec(method="bosh3", rtol=tolerance, atol=tolerance))
        for tolerance in (1e-3, 1e-7)
    )
    assert loose == tight


def test_each_sample_keeps_its_gradient_whoever_its_batch_mates_are():
    # Batch mates that need short steps, and whose gradients are a million times larger.
    results = []
    for mates in ([], [[40.0, -3.0], [25.0, 9.0]]):
        z0 = torch.tensor([STARTS[0], *mates], dtype=torch.float64, requires_grad=True)
        solver = SolverSpec(method="bosh3", rtol=1e-4, atol=1e-4)
        solution = solve(coupled, z0, solver, gradient="adjoint_seminorm", parameters=[], throw=True)
        weights = torch.tensor([1.0] + [1e6] * len(mates), dtype=torch.float64)[:, None]
        (start,) = torch.autograd.grad((weights * solution.final).sum(), z0)
        results.append(start[0])
    assert torch.allclose(*results, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gradient", BOTH)
def test_the_size_of_the_loss_does_not_change_the_accuracy(gradient):
    # The mean over a large batch makes gradients far below the absolute tolerance.
    z0 = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    solver = SolverSpec(method="dopri5", rtol=1e-6, atol=1e-6)
    starts = []
    for size in (1.0, 1e-9):
        solution = solve(coupled, z0, solver, gradient=gradient, parameters=[])
        starts.append(torch.autograd.grad(size * solution.final.sum(), z0)[0] / size)
    assert torch.allclose(*starts, rtol=1e-9, atol=0)


@pytest.mark.parametrize("gradient", BOTH)
@pytest.mark.parametrize("rule", [{"steps": 40}, {"rtol": 1e-8, "atol": 1e-8}])
def test_a_sample_that_fails_leaves_the_others_alone_and_keeps_the_gradients_of_its_outputs(gradient, rule):
    # z' = factor z^2 from z0 is z0 / (1 - factor t z0): 1.5 ends at t = 2/3.
    factor = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    z0 = torch.tensor([[1.5], [0.5], [torch.nan]], dtype=torch.float64, requires_grad=True)
    solution = solve(
        lambda t, z: factor * torch.where(z > 50, torch.nan, z * z),
        z0,
        SolverSpec(method="dopri5", **rule),
        times=torch.tensor([0.25], dtype=torch.float64),
        gradient=gradient,
        parameters=[factor],
    )
    assert solution.status.tolist()[1:] == [SolveStatus.SUCCESS, SolveStatus.NON_FINITE]
    assert solution.status[0] != SolveStatus.SUCCESS
    (solution.final[1].sum() + solution.trajectory[0, :2].sum()).backward()
    by_start = [1 / (1 - 0.25 * 1.5) ** 2, 1 / (1 - 0.25 * 0.5) ** 2 + 1 / (1 - 0.5) ** 2]
    assert torch.allclose(z0.grad[:2, 0], torch.tensor(by_start, dtype=torch.float64), rtol=1e-6)
    assert float(z0.grad[2]) == 0.0
    by_factor = 0.25 * (1.5**2 * by_start[0] + 0.5**2 / (1 - 0.25 * 0.5) ** 2) + 0.5**2 / (1 - 0.5) ** 2
    assert abs(float(factor.grad) / by_factor - 1) < 1e-6


@pytest.mark.parametrize("gradient", BOTH)
def test_a_backward_solve_that_fails_is_an_error_with_a_remedy(gradient):
    # Forwards the state is damped by exp(-1000); backwards it grows beyond all numbers.
    z0 = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    solver = SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3)
    solution = solve(lambda t, z: -200 * z, z0, solver, t1=5.0, gradient=gradient, parameters=[], throw=True)
    with pytest.raises(SolveFailed, match=r"backwards from t = 5: .*non_finite.*; gradient checkpoint does not"):
        solution.final.sum().backward()


@pytest.mark.parametrize("gradient", BOTH)
def test_a_loss_that_is_no_number_has_a_gradient_that_is_none(gradient):
    field = Network()
    z0 = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    solution = solve(field, z0, SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3), gradient=gradient)
    (solution.final.sum() * torch.nan).backward()
    assert all(bool(torch.isnan(tensor.grad).all()) for tensor in (z0, field.inner, field.outer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [{"steps": 8}, {"rtol": 1e-5, "atol": 1e-5}])
@pytest.mark.parametrize("gradient", BOTH)
def test_a_gradient_whose_square_is_too_small_for_the_type_is_solved_for(gradient, rule, dtype):
    # The smallest normal numbers: their squares are 0, and so would be those of a smaller scale.
    tiny = 8 * torch.finfo(dtype).tiny
    z0 = torch.ones(2, 3, dtype=dtype, requires_grad=True)
    solution = solve(lambda t, z: -z, z0, SolverSpec(method="dopri5", **rule), gradient=gradient, parameters=[])
    (tiny * solution.final).sum().backward()
    assert torch.allclose(z0.grad / tiny, torch.full_like(z0, np.exp(-1)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("rule", [{"steps": 8}, {"rtol": 1e-5, "atol": 1e-5}])
@pytest.mark.parametrize("gradient", [*BOTH, "checkpoint"])
def test_the_execution_says_that_the_gradient_decides_and_not_that_compilation_is_off(gradient, rule):
    z0 = torch.ones(2, 3, requires_grad=True)
    solution = solve(lambda t, z: -z, z0, SolverSpec(method="dopri5", **rule), gradient=gradient, parameters=[])
    assert "gradient" in solution.execution.reason
    assert "compilation" not in solution.execution.reason
