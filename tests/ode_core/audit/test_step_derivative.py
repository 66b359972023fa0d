"""The derivative of an adaptive solver's step is taken with the step's length held: the choice of it is no part."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ode_core.audit.mechanism import find_mechanism
from ode_core.audit.step_grid import StepGrid, frozen_grid, numerical_path
from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.implicit_tableaus import IMPLICIT_TABLEAUS
from ode_core.solvers.solve import solve
from ode_core.solvers.step_map import StepMap, TimeStep, step_map
from ode_core.specs import SolverSpec
from tests.ode_core.audit.linear_models import LinearField, circle, classifier_around

# Not normal, so that the derivative is not known from the eigenvalues alone; stiff enough for steps to vary in length.
MATRIX = np.array([[-4.0, 3.0, 0.0], [0.0, -1.0, 2.0], [1.0, 0.0, -2.0]])


def stability(method: str, x: np.ndarray) -> np.ndarray:
    """Return the stability function of a method at a matrix: the derivative of a step of length h of ``z' = A z``."""

    def polynomial(coefficients: list[float]) -> np.ndarray:
        return sum(c * np.linalg.matrix_power(x, k) for k, c in enumerate(coefficients))  # type: ignore[return-value]

    implicit = IMPLICIT_TABLEAUS.get(method)  # type: ignore[call-overload]
    if implicit is None:
        return polynomial([float(c) for c in TABLEAUS[method].stability_polynomial])  # type: ignore[index]
    above, below = (polynomial([float(c) for c in row]) for row in implicit.stability_function)
    found: np.ndarray = np.linalg.solve(below, above)
    return found


def step_of(grid: StepGrid, k: int, z: Tensor) -> TimeStep:
    return grid.step(k, torch.arange(len(z)), z)


def follow(psi: StepMap, grid: StepGrid, z: Tensor) -> Tensor:
    for k in range(grid.steps):
        z = psi(z, step_of(grid, k, z))
    return z


@pytest.mark.parametrize("method", ["heun_euler", "bosh3", "dopri5", "tsit5", "kvaerno3"])
def test_a_frozen_step_of_a_linear_field_has_the_stability_function_for_derivative(method: str) -> None:
    matrix = torch.from_numpy(MATRIX)

    def field(t: Tensor, z: Tensor) -> Tensor:
        return z @ matrix.T

    z0 = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z0 *= torch.tensor([[0.01], [0.1], [1.0], [10.0]], dtype=torch.float64)
    solver = SolverSpec.model_validate({"method": method, "rtol": 1e-3, "atol": 1e-3})
    grid, _ = frozen_grid(field, z0, solver, 2.0)
    psi = step_map(field, solver.method)
    states = numerical_path(psi, grid, z0)

    assert len(set(grid.lengths[0].tolist())) == 4
    for k in range(grid.steps):
        jacobians = psi.jacobian(states[k], step_of(grid, k, z0))
        direction = torch.ones_like(z0)
        products = psi.product(states[k], step_of(grid, k, z0), direction)
        for sample, (jacobian, product) in enumerate(zip(jacobians, products, strict=True)):
            exact = stability(method, float(grid.lengths[k, sample]) * MATRIX)
            np.testing.assert_allclose(jacobian.numpy(), exact, rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(product.numpy(), exact.sum(axis=1), rtol=1e-9, atol=1e-11)


def swirl(t: Tensor, z: Tensor) -> Tensor:
    """Faster the further out, and slowly turning with the time."""
    x, y = z[:, :1], z[:, 1:]
    rate = 1 + 2 * (x**2 + y**2)
    return torch.cat([-rate * y + t * x, rate * x], dim=1)


def test_the_frozen_steps_derivatives_multiply_to_that_of_the_path_and_not_to_that_of_the_solve() -> None:
    solver = SolverSpec(method="bosh3", rtol=1e-2, atol=1e-2)
    z0 = torch.tensor([[0.8, -0.6], [0.5, 0.2], [1.0, 0.4]], dtype=torch.float64)
    grid, solution = frozen_grid(swirl, z0, solver, 1.0)
    psi = step_map(swirl, "bosh3")
    states = numerical_path(psi, grid, z0)
    derivative = torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    for k in range(grid.steps):
        derivative = psi.jacobian(states[k], step_of(grid, k, z0)) @ derivative

    def differences(end) -> Tensor:  # type: ignore[no-untyped-def]
        small = 1e-6
        units = small * torch.eye(2, dtype=torch.float64)
        return torch.stack([(end(z0 + unit) - end(z0 - unit)) / (2 * small) for unit in units], dim=2)

    torch.testing.assert_close(states[-1], solution.final, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(differences(lambda z: follow(psi, grid, z)), derivative, rtol=1e-7, atol=1e-7)
    # A solve from another state makes other steps, which adds a part of its own: that of their choice.
    chosen = differences(lambda z: solve(swirl, z, solver, compilation="never").final)
    assert (chosen - derivative).abs().max() > 1e-3


def test_the_flags_of_a_model_with_tolerances_are_those_of_its_steps_as_long_as_they_are() -> None:
    matrix = [[-30.0, 1.0], [0.0, -1.0]]
    model = classifier_around(LinearField(matrix))
    solver = SolverSpec(method="bosh3", rtol=0.5, atol=0.5)
    labels = torch.zeros(20, dtype=torch.long)

    found = find_mechanism(model, circle(20), labels, solver, labels, stretches=0)

    assert 0 < found.spectrum.flagged_share < 1
    for k, sample in torch.nonzero(found.grid.taken).tolist():
        values = np.linalg.eigvals(stability("bosh3", float(found.grid.lengths[k, sample]) * np.array(matrix)))
        assert found.spectrum.least_real[k, sample] == pytest.approx(values.real.min(), rel=1e-8)
        assert found.spectrum.flagged[k, sample] == (values.real.min() < 0)
