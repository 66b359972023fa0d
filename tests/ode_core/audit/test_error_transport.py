import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ode_core.audit.error_transport import concentration, error_transport, margin_attribution
from ode_core.audit.step_grid import fixed_grid, frozen_grid, numerical_path
from ode_core.solvers.step_map import step_map
from ode_core.specs import SolverSpec


def decay(t: Tensor, z: Tensor) -> Tensor:
    return -2 * z


def swirl(t: Tensor, z: Tensor) -> Tensor:
    x, y = z[:, :1], z[:, 1:]
    rate = 1 + 2 * (x**2 + y**2)
    return torch.cat([-rate * y + t * x, rate * x], dim=1)


def test_each_steps_error_arrives_as_the_exact_flow_carries_it() -> None:
    steps, z0 = 5, torch.tensor([[1.0, -3.0, 0.5], [0.2, 0.1, 4.0]], dtype=torch.float64)
    psi, grid = step_map(decay, "euler"), fixed_grid(SolverSpec(method="euler", steps=steps), 2, 1.5)
    found = error_transport(decay, grid, numerical_path(psi, grid, z0), accuracy=1e-9)
    h = 1.5 / steps
    for k in range(steps + 1):
        expected = z0 * (1 - 2 * h) ** k * math.exp(-2 * (1.5 - k * h))
        torch.testing.assert_close(found.ends[k], expected, rtol=1e-8, atol=1e-9)
    assert found.bounds == [0, 1, 2, 3, 4, 5]
    assert found.converged.all()
    assert float(found.residual().max()) < 1e-14
    torch.testing.assert_close(
        found.contributions.sum(dim=0), z0 * ((1 - 2 * h) ** 5 - math.exp(-3)), rtol=0, atol=1e-8
    )


def test_stretches_of_steps_add_up_what_their_steps_contribute() -> None:
    z0 = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 2
    psi, grid = step_map(swirl, "midpoint"), fixed_grid(SolverSpec(method="midpoint", steps=11), 6, 1.0)
    states = numerical_path(psi, grid, z0)
    each = error_transport(swirl, grid, states, accuracy=1e-9)
    some = error_transport(swirl, grid, states, stretches=4, accuracy=1e-9)
    assert some.bounds == [0, 3, 6, 9, 11]
    sums = torch.stack([each.contributions[a:b].sum(dim=0) for a, b in ((0, 3), (3, 6), (6, 9), (9, 11))])
    torch.testing.assert_close(some.contributions, sums, rtol=0, atol=1e-8)


def test_the_accepted_steps_of_an_adaptive_solve_are_taken_apart_sample_by_sample() -> None:
    z0 = torch.linspace(0.1, 1.0, 8, dtype=torch.float64).reshape(-1, 1) * torch.tensor([[0.8, -0.6]]).double()
    grid, solution = frozen_grid(swirl, z0, SolverSpec(method="bosh3", rtol=1e-2, atol=1e-2), 1.0)
    found = error_transport(swirl, grid, numerical_path(step_map(swirl, "bosh3"), grid, z0), accuracy=1e-8)
    assert len(set(solution.accepted.tolist())) > 1
    for i in range(8):
        exact = solve_ivp(
            lambda t, z: swirl(torch.tensor(t), torch.from_numpy(z)[None])[0].numpy(),
            (0, 1),
            z0[i].numpy(),
            method="DOP853",
            rtol=1e-11,
            atol=1e-11,
        ).y[:, -1]
        whole = solution.final[i].numpy() - exact
        np.testing.assert_allclose(found.contributions[:, i].sum(dim=0).numpy(), whole, atol=3e-8)
        assert np.abs(whole).max() > 1e-5
        assert not found.contributions[int(solution.accepted[i]) :, i].any()


def test_the_margin_is_attributed_to_the_steps_and_the_turning_step_is_named() -> None:
    # z' = 0 but for the second of four steps, which Euler takes for full speed and the flow for nothing.
    def push(t: Tensor, z: Tensor) -> Tensor:
        return torch.sin(8 * math.pi * (t - 0.125)) * torch.ones_like(z) * (t < 1)

    grid = fixed_grid(SolverSpec(method="euler", steps=4), 2, 1.0)
    z0 = torch.tensor([[0.3], [-2.0]], dtype=torch.float64)
    states = numerical_path(step_map(push, "euler"), grid, z0)

    def head(z: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(z), z], dim=1)

    found = margin_attribution(error_transport(push, grid, states, accuracy=1e-9), head)
    # Every step begins at sin(-pi) = 0 up to rounding: nothing is contributed, and nothing flips.
    assert not found.flipped.any()
    assert found.contributions.abs().max() < 1e-8
    assert found.turning.tolist() == [-1, -1]


def test_a_step_that_carries_a_sample_over_the_boundary_is_its_turning_step() -> None:
    # Euler on z' = a(t), a = 1 at the grid points and 0 on average: each step adds h, the flow nothing.
    def push(t: Tensor, z: Tensor) -> Tensor:
        return torch.cos(8 * math.pi * t) * torch.ones_like(z)

    grid = fixed_grid(SolverSpec(method="euler", steps=4), 3, 1.0)
    z0 = torch.tensor([[-0.6], [-0.1], [0.4]], dtype=torch.float64)
    states = numerical_path(step_map(push, "euler"), grid, z0)

    def head(z: Tensor) -> Tensor:
        return torch.cat([-z, z], dim=1)

    found = margin_attribution(error_transport(push, grid, states, accuracy=1e-9), head)
    torch.testing.assert_close(found.contributions, torch.full((4, 3), 0.5).double(), rtol=0, atol=1e-7)
    assert found.flipped.tolist() == [True, True, False]
    assert found.turning.tolist() == [2, 0, -1]  # -0.6 + 3/4 > 0, -0.1 + 1/4 > 0
    assert found.rivals.tolist() == [0, 0, 0]
    told = found.to_json()
    assert told["turned_by_step"] == [1, 0, 1, 0]
    assert told["in_top_tenth_of_steps"] == pytest.approx(0.25, abs=1e-6)


def test_concentration_is_the_share_of_the_largest_tenth() -> None:
    sizes = torch.tensor([10.0, *[1.0] * 18, 2.0])
    assert concentration(sizes) == pytest.approx(12 / 30)
    assert concentration(torch.ones(40)) == pytest.approx(0.1)
    assert concentration(torch.zeros(4)) is None
