import numpy as np
import pytest
import torch

from ode_core.fields.vector_fields import build_field
from ode_core.solvers import linearisation
from ode_core.solvers.implicit_tableaus import IMPLICIT_TABLEAUS
from ode_core.solvers.linearisation import dense_jacobian, solve_transposed
from ode_core.solvers.newton import LONG, StageSolver, round_off
from ode_core.solvers.solution import SolveFailed
from ode_core.solvers.solve import solve
from ode_core.solvers.stage_derivative import attach_derivative
from ode_core.solvers.status import SolveStatus
from ode_core.specs import METHODS, Conv1dField, MlpField, SolverSpec
from tests.ode_core.solvers.problems import bernoulli, coupled

METHOD_NAMES = [name for name, facts in METHODS.items() if facts.family == "implicit"]


@pytest.fixture(params=["dense", "matrix-free"])
def either_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with dense Jacobians, and with products only."""
    if request.param == "matrix-free":
        monkeypatch.setattr(linearisation, "DENSE_JACOBIAN", 0)
    return request.param


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_autograd_through_grid_steps_is_the_derivative_of_the_discrete_map(method, either_path):
    rate = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    z0 = torch.tensor([[1.1, 0.4], [0.3, 2.0]], dtype=torch.float64, requires_grad=True)
    times = torch.tensor([0.13, 1.0], dtype=torch.float64)

    def end(z0: torch.Tensor, rate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        solution = solve(lambda t, z: rate * coupled(t, z), z0, SolverSpec(method=method, steps=2), times=times)
        return solution.final, solution.trajectory

    assert torch.autograd.gradcheck(end, (z0, rate))


def test_autograd_through_accepted_steps_is_the_derivative_of_the_solution(either_path):
    rate = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    z0 = torch.tensor([[1.1, 0.4]], dtype=torch.float64, requires_grad=True)
    times = torch.tensor([0.13, 0.5], dtype=torch.float64)
    tolerance = 1e-4
    solver = SolverSpec(method="kvaerno3", rtol=tolerance, atol=tolerance)

    def end(z0: torch.Tensor, rate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        solution = solve(lambda t, z: rate * coupled(t, z), z0, solver, t1=0.5, times=times)
        return solution.final, solution.trajectory

    # Finite differences see steps and iterations change with the start, autograd does not. The global error of a
    # few tolerances goes with h^3, so it changes three times as fast as h.
    assert torch.autograd.gradcheck(end, (z0, rate), atol=3 * 3 * tolerance, rtol=0)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_the_gradient_of_a_linear_stiff_equation_is_that_of_the_stability_function(method, either_path):
    # One step multiplies by R(h lambda), so the gradient by z0 is R, whatever the iteration did.
    rates = torch.tensor([[-1e4], [-3.0], [2.0]], dtype=torch.float64)
    z0 = torch.ones_like(rates).requires_grad_()
    solve(lambda t, z: rates * z, z0, SolverSpec(method=method, steps=1), t1=0.1).final.sum().backward()
    above, below = (
        np.polynomial.Polynomial([float(c) for c in row]) for row in IMPLICIT_TABLEAUS[method].stability_function
    )
    z = 0.1 * rates.numpy()
    # A few roundings of numbers of the size of the numerator's terms over the denominator, which are about 1.
    np.testing.assert_allclose(z0.grad.numpy(), above(z) / below(z), rtol=1e-12, atol=1e-13)


def test_both_paths_give_a_networks_parameters_the_same_gradient(monkeypatch):
    torch.manual_seed(0)
    field = build_field(MlpField(hidden=(16,), activation="tanh", time_dependent=True), (10,)).double()
    z0 = torch.randn(4, 10, dtype=torch.float64)
    for solver in (
        SolverSpec(method="implicit_midpoint", steps=3),
        SolverSpec(method="kvaerno3", steps=2),
    ):
        gradients = []
        for limit in (64, 0):
            monkeypatch.setattr(linearisation, "DENSE_JACOBIAN", limit)
            field.zero_grad()
            solve(field, z0, solver).final.square().sum().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in field.parameters()]))
        size = float(gradients[0].abs().max())
        assert torch.allclose(*gradients, rtol=0, atol=1e-11 * size)


def test_the_gradient_does_not_depend_on_how_the_stage_was_solved():
    # The exact solution handed in, and one from Newton's iteration.
    s = torch.full((2,), 0.3, dtype=torch.float64)
    base = torch.tensor([[1.0], [-2.0]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor(0.5, dtype=torch.float64)
    exact = -base.detach() / (1 + 0.3)
    newton = StageSolver(lambda t, z: -z, base, LONG, None)
    k = newton.solve(t, base.detach(), s, torch.zeros_like(base), torch.tensor([True, True]), round_off)
    assert torch.allclose(k, exact, rtol=1e-15, atol=0)
    (gradient,) = torch.autograd.grad(attach_derivative(lambda t, z: -z, t, base, s, exact).sum(), base)
    # dk/dbase = J / (1 - s J) with J = -1.
    assert torch.allclose(gradient, torch.full_like(base, -1 / 1.3), rtol=1e-15, atol=0)


def test_gradients_only_when_they_are_wanted_and_then_an_evaluation_a_stage_more():
    z0 = torch.tensor([[0.7, 0.2]], dtype=torch.float64)
    solver = SolverSpec(method="kvaerno3", steps=5)
    plain = solve(bernoulli, z0, solver)
    with_gradient = solve(bernoulli, z0.clone().requires_grad_(), solver)
    assert not plain.final.requires_grad
    assert with_gradient.final.requires_grad
    assert torch.equal(plain.final, with_gradient.final)
    assert (with_gradient.evaluations - plain.evaluations).tolist() == [3 * 5]
    with torch.no_grad():
        assert not solve(bernoulli, z0.clone().requires_grad_(), solver).final.requires_grad


@pytest.mark.parametrize(
    "solver", [SolverSpec(method="trapezoid", steps=3), SolverSpec(method="kvaerno3", rtol=1e-3, atol=1e-3)]
)
def test_solves_run_in_inference_mode_with_a_field_prepared_there(solver, either_path):
    network = build_field(Conv1dField(channels=4), (1, 3))  # a short signal: its matrices are made by for_states
    z0 = torch.rand(2, 1, 3)
    with torch.inference_mode():
        inside = solve(network.for_states((1, 3)), z0 * 1.0, solver)
    assert inside.succeeded.all()
    with torch.no_grad():
        assert torch.equal(inside.final, solve(network.for_states((1, 3)), z0, solver).final)


def circle(t: torch.Tensor, z: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    """``z' = rate sqrt(1 - z^2)``, whose solution is ``sin(rate t)``; a stage beyond 1 is NaN."""
    return rate * torch.sqrt(1 - z * z)


def test_a_rejected_step_that_was_not_finite_leaves_no_nan_in_the_gradient(monkeypatch):
    # Products one by one: a field may look at its values then, which it may not under vmap.
    monkeypatch.setattr(linearisation, "DENSE_JACOBIAN", 0)
    saw_nan = []
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def field(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        slope = circle(t, z, rate)
        saw_nan.append(bool(torch.isnan(slope).any()))
        return slope

    z0 = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    solution = solve(field, z0, SolverSpec(method="kvaerno3", rtol=1e-3, atol=1e-3), t1=1.5)
    assert any(saw_nan)
    assert solution.succeeded.all()
    solution.final.sum().backward()
    # Near z = 1 the slope's derivative is large: ten times the tolerance, for each of two samples.
    assert abs(float(rate.grad) - 2 * 1.5 * np.cos(1.5)) < 2 * 10 * 1e-3
    assert bool(torch.isfinite(z0.grad).all())


def test_a_sample_that_fails_at_the_start_leaves_the_others_gradients_alone():
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    z0 = torch.tensor([[0.2], [1.5]], dtype=torch.float64, requires_grad=True)
    solver = SolverSpec(method="kvaerno3", rtol=1e-6, atol=1e-6)
    solution = solve(lambda t, z: circle(t, z, rate), z0, solver)
    assert solution.status.tolist() == [SolveStatus.SUCCESS, SolveStatus.NON_FINITE]
    solution.final[0].sum().backward()
    # z = sin(asin(0.2) + rate t): the derivative by the rate at t = 1 is cos of that.
    assert abs(float(rate.grad) - np.cos(np.arcsin(0.2) + 1.0)) < 1e-4
    assert z0.grad[1].item() == 0.0


def test_jacobians_are_those_of_every_sample_by_itself():
    field = build_field(MlpField(hidden=(7,), activation="tanh"), (4,)).double()
    t = torch.tensor(0.0, dtype=torch.float64)
    z = torch.randn(3, 4, dtype=torch.float64)
    found = dense_jacobian(field, t, z)
    for i in range(3):
        expected = torch.autograd.functional.jacobian(lambda one: field(t, one[None])[0], z[i])
        assert torch.allclose(found[i], expected, rtol=1e-12, atol=1e-14)


def test_jacobians_of_many_numbers_are_computed_in_blocks(monkeypatch):
    z = torch.rand(2, 3, 4, dtype=torch.float64)
    whole = dense_jacobian(bernoulli, torch.tensor(0.5), z)
    assert torch.allclose(whole, torch.diag_embed((-2 * z).flatten(1)), rtol=1e-15, atol=0)
    monkeypatch.setattr(linearisation, "_NUMBERS_AT_ONCE", 5 * 2 * 12)
    assert torch.equal(dense_jacobian(bernoulli, torch.tensor(0.5), z), whole)


def test_a_transposed_system_that_gmres_cannot_solve_raises_and_gives_no_wrong_gradient():
    # The powers of a shift of 300 numbers tell nothing about the right side before the last of them.
    n = 300
    shift = torch.roll(torch.eye(n, dtype=torch.float64), 1, dims=0)

    def field(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return z @ (torch.eye(n, dtype=torch.float64) - shift).T

    right = torch.zeros(1, n, dtype=torch.float64)
    right[0, 0] = 1.0
    one = torch.ones(1, dtype=torch.float64)
    with pytest.raises(SolveFailed, match="linear system of an implicit step's gradient was not solved for 1 of 1"):
        solve_transposed(field, torch.tensor(0.0), torch.zeros(1, n, dtype=torch.float64), one, right)


def test_the_gradient_of_a_stiff_diffusion_is_exact_without_jacobians(either_path):
    n, steps, t1 = 128, 4, 0.1
    operator = (n + 1) ** 2 * (
        torch.diag(torch.full((n,), -2.0)) + torch.diag(torch.ones(n - 1), 1) + torch.diag(torch.ones(n - 1), -1)
    ).double()
    weights = torch.cos(torch.arange(n, dtype=torch.float64))
    z0 = torch.linspace(0, 1, n, dtype=torch.float64)[None].requires_grad_()
    solution = solve(lambda t, z: z @ operator, z0, SolverSpec(method="trapezoid", steps=steps), t1=t1)
    (solution.final * weights).sum().backward()
    half, identity = operator * (t1 / steps / 2), torch.eye(n, dtype=torch.float64)
    step = torch.linalg.solve(identity - half, identity + half)  # symmetric, so its own transpose
    expected = torch.linalg.matrix_power(step, steps) @ weights
    assert torch.allclose(z0.grad[0], expected, rtol=0, atol=1e-10)
