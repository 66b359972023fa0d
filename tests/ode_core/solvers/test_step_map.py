import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import jvp

from ode_core.solvers import linearisation
from ode_core.solvers import step_map as step_maps
from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.implicit_tableaus import IMPLICIT_TABLEAUS
from ode_core.solvers.solve import solve
from ode_core.solvers.step_map import TimeStep, step_map
from ode_core.specs import METHODS, MethodName, SolverSpec

EXPLICIT = [name for name, facts in METHODS.items() if facts.family == "explicit"]
IMPLICIT = [name for name, facts in METHODS.items() if facts.family == "implicit"]
MATRIX = torch.tensor([[-1.0, 4.0], [-2.0, 0.5]], dtype=torch.float64)


def pendulum(t: Tensor, z: Tensor) -> Tensor:
    """A pendulum with a push that depends on the time."""
    angle, speed = z[:, :1], z[:, 1:]
    return torch.cat([speed, -3 * torch.sin(angle) + torch.cos(4 * t) * angle], dim=1)


def states(samples: int = 6) -> Tensor:
    return torch.randn(samples, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("method", [*EXPLICIT, *IMPLICIT])
def test_steps_one_after_another_are_the_solve(method: MethodName) -> None:
    psi, z = step_map(pendulum, method), states()
    for k in range(7):
        z = psi(z, TimeStep(number(1.4 * k / 7), number(0.2), number(1.4 * (k + 1) / 7)))
    solved = solve(pendulum, states(), SolverSpec(method=method, steps=7), t1=1.4, compilation="never")
    torch.testing.assert_close(z, solved.final, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("method", ["euler", "heun3", "dopri8", *IMPLICIT])
def test_each_sample_may_have_a_step_of_its_own(method: MethodName) -> None:
    psi, z = step_map(pendulum, method), states(3)
    start, length = torch.tensor([[0.0], [0.5], [0.9]]).double(), torch.tensor([[0.2], [-0.4], [0.0]]).double()
    together = psi(z, TimeStep(start, length, start + length))
    for i in range(3):
        alone = psi(z[i : i + 1], TimeStep(start[i, 0], length[i, 0], start[i, 0] + length[i, 0]))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-14, atol=1e-14)
    assert torch.equal(together[2], z[2])


@pytest.mark.parametrize("method", [*EXPLICIT, *IMPLICIT])
def test_the_derivative_is_that_of_the_step(method: MethodName) -> None:
    psi, z = step_map(pendulum, method), states(4)
    step = TimeStep(number(0.3), number(0.25), number(0.55))
    expected = torch.stack([torch.autograd.functional.jacobian(lambda x: psi(x[None], step)[0], row) for row in z])
    v = states(8)[4:]

    torch.testing.assert_close(psi.jacobian(z, step), expected)
    torch.testing.assert_close(psi.product(z, step, v), torch.einsum("bij,bj->bi", expected, v))


def test_the_derivative_of_a_linear_step_is_the_stability_polynomial_of_its_matrix() -> None:
    step = TimeStep(number(0.0), number(0.7), number(0.7))
    for method in EXPLICIT:
        jacobian = step_map(lambda t, z: z @ MATRIX.T, method).jacobian(states(2), step)
        expected, power = torch.zeros(2, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
        for coefficient in TABLEAUS[method].stability_polynomial:
            expected, power = expected + float(coefficient) * power, power @ (0.7 * MATRIX)
        torch.testing.assert_close(jacobian, expected.expand(2, 2, 2), rtol=1e-12, atol=1e-12)


def test_a_step_never_calls_the_field_outside_of_itself() -> None:
    seen: list[Tensor] = []

    def field(t: Tensor, z: Tensor) -> Tensor:
        seen.append(t)
        return z

    end = number(0.1) * 3
    for method in EXPLICIT:
        step_map(field, method)(states(), TimeStep(number(0.2), number(0.1) * 3 - 0.2, number(0.3)))
    assert max(seen) <= min(end, number(0.3))
    assert min(seen) >= 0.2


def test_methods_whose_step_is_not_a_map_of_the_state_are_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"asynchronous_leapfrog.*one of euler"):
        step_map(nn.Identity(), "asynchronous_leapfrog")


def implicit_step(method: MethodName, matrix: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Return ``D`` of a linear step from all stages at once: ``I + (b (x) A)(I - a (x) A)^-1 (1 (x) I)``."""
    tableau, n = IMPLICIT_TABLEAUS[method], len(matrix)
    a = np.array([[*map(float, row)] + [0.0] * (tableau.stages - len(row)) for row in tableau.a])
    b, ones = np.array([[*map(float, tableau.b)]]), np.ones((tableau.stages, 1))
    system = np.eye(tableau.stages * n) - np.kron(a, matrix)
    return np.asarray(np.eye(n) + np.kron(b, matrix) @ np.linalg.solve(system, np.kron(ones, np.eye(n))))


@pytest.mark.parametrize("products_only", [False, True])
@pytest.mark.parametrize("method", IMPLICIT)
def test_the_derivative_of_a_linear_implicit_step_is_its_rational_function(
    method: MethodName, products_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if products_only:
        for module in (linearisation, step_maps):
            monkeypatch.setattr(module, "DENSE_JACOBIAN", 0)
    step, z, v = TimeStep(number(0.0), number(0.7), number(0.7)), states(3), states(6)[3:]
    psi = step_map(lambda t, z: z @ MATRIX.T, method)
    expected = v @ torch.from_numpy(implicit_step(method, 0.7 * MATRIX.numpy())).T
    torch.testing.assert_close(psi.product(z, step, v), expected, rtol=1e-12, atol=1e-12)
    several = psi.products(z, step)(v[1:], torch.tensor([1, 2]))
    torch.testing.assert_close(several, expected[1:], rtol=1e-12, atol=1e-12)


def test_a_derivative_goes_through_an_implicit_step_within_a_field() -> None:
    # What the modified field of an implicit method is: there autograd and tangents pass through inner steps.
    step = TimeStep(number(0.3), number(0.25), number(0.55))
    inner = step_map(pendulum, "kvaerno3")
    outer = step_map(lambda t, z: (inner(z, step) - z) / 0.25, "trapezoid")
    z, v, e = states(4), states(8)[4:], 1e-5
    with torch.no_grad():
        expected = (outer(z + e * v, step) - outer(z - e * v, step)) / (2 * e)
        tangent = outer.product(z, step, v)
        torch.testing.assert_close(tangent, expected, rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(torch.einsum("bij,bj->bi", outer.jacobian(z, step), v), tangent)


def test_a_sample_whose_stage_has_no_solution_has_no_number_and_leaves_the_others_alone() -> None:
    # k = (z + k/2)^2 + 1 with h = 1 has no real solution for z > 0.
    def field(t: Tensor, z: Tensor) -> Tensor:
        return z**2 + 1

    psi, step = step_map(field, "implicit_midpoint"), TimeStep(number(0.0), number(1.0), number(1.0))
    z = torch.tensor([[-3.0], [1.0]], dtype=torch.float64)
    after, (_, tangent) = psi(z, step), jvp(lambda state: psi(state, step), (z,), (torch.ones_like(z),))
    slope = float(after[0, 0] + 3)
    assert slope == pytest.approx((-3 + slope / 2) ** 2 + 1, rel=1e-13)
    assert after[1].isnan()
    assert tangent[1].isnan()
    assert torch.isfinite(tangent[0])
    assert torch.equal(after[:1], psi(z[:1], step))
    assert psi.jacobian(z, step)[1].isnan()
