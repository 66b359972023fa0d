import math

import numpy as np
import pytest
import torch
from scipy.integrate import RK23, RK45
from scipy.integrate._ivp.rk import rk_step

from ode_core.solvers.local_errors import solve_with_local_errors
from ode_core.solvers.solve import solve
from ode_core.solvers.status import SolveStatus
from ode_core.specs import METHODS, SolverSpec

EXPLICIT = [name for name, facts in METHODS.items() if facts.family == "explicit"]
START = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=torch.float64)


def oscillator(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """``z' = z cos t`` in every component, of which the flow is ``exp(sin t - sin s)``."""
    return z * torch.cos(t)


@pytest.mark.parametrize("method", EXPLICIT)
def test_the_solution_is_that_of_a_plain_solve_and_every_evaluation_is_counted(method):
    calls = 0

    def counted(t, z):
        nonlocal calls
        calls += 1
        return torch.tanh(z.flip(1)) * torch.cos(t)

    solver = SolverSpec(method=method, steps=7)
    solution, errors = solve_with_local_errors(counted, START, solver, t0=0.2, t1=1.9)
    assert calls == int(solution.evaluations[0])
    plain = solve(counted, START, solver, t0=0.2, t1=1.9)
    assert torch.equal(solution.final, plain.final)
    assert bool(solution.succeeded.all())
    assert errors.shape == (7, 2, 2)


# Those whose estimate is that of the step itself: Fehlberg's 4(5) propagates the solution of lower order.
@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "ralston", "heun3", "rk4", "rk4_38", "fehlberg45"])
def test_the_estimate_is_the_error_of_the_step_to_leading_order(method):
    deviations = []
    for steps in (16, 32):
        solver = SolverSpec(method=method, steps=steps)
        _, errors = solve_with_local_errors(oscillator, START, solver)
        grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        states = solve(oscillator, START, solver, times=grid).trajectory
        assert states is not None
        flow = torch.exp(torch.sin(grid[1:]) - torch.sin(grid[:-1]))[:, None, None] * states[:-1]
        true = states[1:] - flow
        deviations.append(float((errors - true).norm() / true.norm()))
    # The next term of the series is smaller by h times a ratio of derivatives, here of about 1: half as large a share
    # at half the step, up to terms of h^2.
    assert deviations[1] < 2 / 32
    assert deviations[1] == pytest.approx(deviations[0] / 2, rel=2 / 16)


@pytest.mark.parametrize(("method", "scipy_method"), [("bosh3", RK23), ("dopri5", RK45)])
def test_an_embedded_estimate_is_that_of_scipys_step_control(method, scipy_method):
    steps, h, y = 5, 0.2, START[0].numpy()

    def f(t, state):
        return state * math.cos(t)

    slope, expected = f(0.0, y), []
    stages = np.empty((scipy_method.n_stages + 1, 2))
    for k in range(steps):
        y, slope = rk_step(f, k * h, y, slope, h, scipy_method.A, scipy_method.B, scipy_method.C, stages)
        expected.append(stages.T @ scipy_method.E * h)
    _, errors = solve_with_local_errors(oscillator, START, SolverSpec(method=method, steps=steps))
    # SciPy subtracts the other way round.
    np.testing.assert_allclose(errors[:, 0].numpy(), -np.array(expected), rtol=1e-6, atol=1e-15)


def test_the_errors_have_the_gradient_of_eulers_closed_form():
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    solver, h = SolverSpec(method="euler", steps=4), 0.25
    _, errors = solve_with_local_errors(lambda t, z: a * z, START, solver)
    k = torch.arange(4, dtype=torch.float64)
    # h/2 (f(z_k) - f(z_(k+1))) of z_k = (1 + a h)^k z_0
    closed = -(a * h).square() / 2 * ((1 + a * h) ** k)[:, None, None] * START
    (gradient,) = torch.autograd.grad(errors.square().sum(), a)
    (expected,) = torch.autograd.grad(closed.square().sum(), a)
    torch.testing.assert_close(errors, closed)
    torch.testing.assert_close(gradient, expected)


def test_a_solve_beyond_its_evaluations_is_not_begun_and_one_that_overflows_says_so():
    solver = SolverSpec(method="euler", steps=4)
    refused, errors = solve_with_local_errors(oscillator, START, solver, max_evaluations=4)
    assert refused.status.tolist() == [SolveStatus.BUDGET_EXCEEDED] * 2
    assert bool(errors.isnan().all())
    exploded, _ = solve_with_local_errors(lambda t, z: z.double() * 1e200, START, solver)
    assert exploded.status.tolist() == [SolveStatus.NON_FINITE] * 2


@pytest.mark.parametrize(
    "solver",
    [
        SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3),
        SolverSpec(method="trapezoid", steps=4),
        SolverSpec(method="euler", step_size=0.3, grid="truncate"),
    ],
)
def test_other_solvers_are_refused(solver):
    with pytest.raises(ValueError, match="explicit methods on uniform grids"):
        solve_with_local_errors(oscillator, START, solver)
