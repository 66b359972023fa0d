import numpy as np
import pytest
import torch

from ode_core.solvers.leapfrog import LeapfrogGrid, leapfrog_step, walk_leapfrog
from ode_core.solvers.solve import solve
from ode_core.specs import METHODS, SolverSpec
from tests.ode_core.solvers.problems import bernoulli, bernoulli_solution, coupled


def step_matrix(x: float) -> np.ndarray:
    """The step of ``y' = -y`` with ``h = x`` as a matrix for ``(y, v)``."""
    columns = [
        leapfrog_step(lambda t, z: -z, LeapfrogGrid(1, 0.0, x), 0, *torch.tensor(pair, dtype=torch.float64).unbind())
        for pair in ([[[1.0]], [[0.0]]], [[[0.0]], [[1.0]]])
    ]
    return np.array([[float(part) for part in column] for column in columns]).T


@pytest.mark.parametrize("x", [1e-3, 0.1, 1.0, 3.0])
def test_no_step_is_stable_on_the_negative_real_axis(x):
    eigenvalues = np.sort(np.linalg.eigvals(step_matrix(x)))
    # Their product is -1: one is outside the unit circle for every x > 0.
    assert np.allclose(eigenvalues, [-x - np.sqrt(1 + x * x), -x + np.sqrt(1 + x * x)])
    assert max(abs(eigenvalues)) > 1
    assert METHODS["asynchronous_leapfrog"].stability_limit == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_lines_with_the_opposite_step_undo_a_solve(dtype):
    z0 = torch.tensor([[1.1, 0.4], [0.3, 2.0]], dtype=dtype)
    solution, v = walk_leapfrog(coupled, z0, 20, t0=0.2, t1=1.2)
    y, back = solution.final, LeapfrogGrid(20, 1.2, 0.2)
    for k in range(20):
        y, v = leapfrog_step(coupled, back, k, y, v)
    # Roundings of 20 steps grow by less than exp(3).
    assert torch.allclose(y, z0, rtol=0, atol=20 * torch.finfo(dtype).eps)
    assert torch.allclose(v, coupled(torch.tensor(0.2, dtype=dtype), z0), rtol=0, atol=100 * torch.finfo(dtype).eps)


def test_one_step_is_the_formula():
    # y' = y^2 from 1 with h = 0.5: y_half = 1 + 0.25, v_hat = 1.5625, v' = 2.125, y' = 1.25 + 0.53125.
    final = solve(
        lambda t, z: z * z,
        torch.ones(1, 1, dtype=torch.float64),
        SolverSpec(method="asynchronous_leapfrog", steps=1),
        t1=0.5,
    ).final
    assert float(final) == 1.78125


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_outputs_between_grid_points_have_the_order_of_the_method(t0, t1):
    errors, counts = [], (16, 32, 64, 128)
    z0 = bernoulli_solution(t0, torch.tensor([[1.5]], dtype=torch.float64))
    for steps in counts:
        shares = (torch.arange(steps, dtype=torch.float64) + 0.37) / steps
        times = t0 + (t1 - t0) * shares
        solution = solve(
            bernoulli, z0, SolverSpec(method="asynchronous_leapfrog", steps=steps), t0=t0, t1=t1, times=times
        )
        exact = bernoulli_solution(times, torch.tensor(1.5, dtype=torch.float64))
        errors.append(float((solution.trajectory[:, 0, 0] - exact).abs().max()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - 2) < 0.3
