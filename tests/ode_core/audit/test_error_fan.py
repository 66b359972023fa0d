"""The fan of fields whose flow is known: matrix exponentials, and a growth that depends on the time."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from ode_core.audit.error_fan import ErrorFan, error_fan
from ode_core.solvers.solve import solve
from ode_core.specs import MethodName, SolverSpec

A = np.array([[-0.3, 2.0], [-2.5, 0.4]])
END = 1.5
STARTS = torch.tensor([[1.0, 0.0], [-0.4, 0.7], [0.2, 2.0]], dtype=torch.float64)


def linear(t: Tensor, z: Tensor) -> Tensor:
    return z @ torch.from_numpy(A).T


def numerical(field, method: MethodName, steps: int) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    times = torch.linspace(0, END, steps + 1, dtype=torch.float64)
    solution = solve(field, STARTS, SolverSpec(method=method, steps=steps), t1=END, times=times)
    assert solution.trajectory is not None
    return solution.trajectory, times


def flow(length: float, states: Tensor) -> np.ndarray:
    """Return the exact flow of the linear field over a time ``length``."""
    return states.numpy() @ scipy.linalg.expm(A * length).T


def fan_of(method: MethodName, steps: int, **options: int) -> tuple[ErrorFan, Tensor, Tensor]:
    states, times = numerical(linear, method, steps)
    return error_fan(linear, states, times, **options), states, times


@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_every_continuation_is_the_exact_flow_from_its_grid_point(method: MethodName) -> None:
    fan, states, times = fan_of(method, 6, curve_points=5)

    assert fan.starts == list(range(6))
    for k in fan.starts:
        left = END - float(times[k])
        for point in range(5):
            np.testing.assert_allclose(fan.curves[point, k], flow(left * point / 4, states[k]), atol=1e-4)
        np.testing.assert_allclose(fan.ends[k], flow(left, states[k]), atol=1e-4)
    np.testing.assert_array_equal(fan.ends[-1], states[-1])
    assert bool(fan.converged.all())


def test_a_transported_error_is_the_local_error_carried_on_by_the_flow() -> None:
    fan, states, times = fan_of("euler", 8)

    h = END / 8
    for k in range(8):
        local_error = states[k + 1] - torch.from_numpy(flow(h, states[k]))
        np.testing.assert_allclose(fan.transported[k], flow(END - float(times[k + 1]), local_error), atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 24, 25, 100])
def test_the_transported_errors_add_up_to_the_global_error(steps: int) -> None:
    fan, states, _ = fan_of("euler", steps, branches=24)

    exact = states[-1].numpy() - flow(END, STARTS)
    size = float(states.abs().max())
    np.testing.assert_allclose(fan.global_error, exact, atol=2e-5 * size)
    np.testing.assert_allclose(fan.transported.sum(dim=0), exact, atol=2e-5 * size)
    assert len(fan.starts) <= 24
    # Relative to the sum of the errors' sizes; Euler's are far larger than what the exact solves are off by.
    assert float(fan.residual.max()) < 1e-3
    assert bool(fan.converged.all())


def test_a_field_that_depends_on_the_time_is_followed_from_each_grid_points_own_time() -> None:
    def growing(t: Tensor, z: Tensor) -> Tensor:
        return 2 * t * z

    states, times = numerical(growing, "euler", 4)

    fan = error_fan(growing, states, times)

    for k in range(4):
        factor = math.exp(END**2 - float(times[k]) ** 2)
        np.testing.assert_allclose(fan.ends[k], factor * states[k].numpy(), rtol=1e-4)


def test_an_exact_solution_that_leaves_the_floating_point_range_is_not_called_converged() -> None:
    def exploding(t: Tensor, z: Tensor) -> Tensor:
        return z**2  # from 1 it is infinite at t = 1, from 0 it stays

    times = torch.linspace(0, END, 3, dtype=torch.float64)
    starts = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-0.5, 0.1]], dtype=torch.float64)
    states = solve(exploding, starts, SolverSpec(method="euler", steps=2), t1=END, times=times).trajectory
    assert states is not None

    assert error_fan(exploding, states, times).converged.tolist() == [False, True, True]


def test_a_shape_of_the_state_stays_as_it_is() -> None:
    states, times = numerical(linear, "euler", 3)

    def with_channel(t: Tensor, z: Tensor) -> Tensor:
        assert z.shape[1:] == (1, 2)
        return linear(t, z)

    fan = error_fan(with_channel, states.unsqueeze(2), times)

    assert fan.ends.shape == (4, 3, 1, 2)
    assert bool(fan.converged.all())
