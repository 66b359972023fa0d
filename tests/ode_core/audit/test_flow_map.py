import math

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ode_core.audit.exact_flow import flow


def test_each_sample_follows_the_flow_over_an_interval_of_its_own() -> None:
    def field(t: Tensor, z: Tensor) -> Tensor:
        return torch.cat([z[:, 1:] * torch.cos(3 * t), -torch.sin(2 * z[:, :1])], dim=1)

    z0 = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    begins, ends = torch.tensor([0.0, 0.5, 1.0, 2.0, 0.3]).double(), torch.tensor([2.0, 0.6, -1.0, 2.0, 7.0]).double()
    found = flow(field, z0, begins, ends, accuracy=1e-8)
    for i in range(5):
        if begins[i] == ends[i]:
            assert torch.equal(found.ends[i], z0[i])
            continue
        oracle = solve_ivp(
            lambda t, z: [z[1] * np.cos(3 * t), -np.sin(2 * z[0])],
            (float(begins[i]), float(ends[i])),
            z0[i].numpy(),
            method="DOP853",
            rtol=1e-12,
            atol=1e-12,
        )
        error = np.abs(found.ends[i].numpy() - oracle.y[:, -1]).max()
        assert error <= 1e-8 * max(1.0, float(z0[i].abs().max()))
        assert float(found.error[i]) <= 1e-8 * max(1.0, float(found.ends[i].abs().max()), float(z0[i].abs().max()))
    assert found.converged.all()


def test_images_keep_their_shape() -> None:
    z0 = torch.rand(3, 2, 4, 4, dtype=torch.float64)
    found = flow(lambda t, z: -z, z0, torch.zeros(3), torch.full((3,), 0.7), accuracy=1e-7)
    torch.testing.assert_close(found.ends, z0 * math.exp(-0.7), rtol=1e-6, atol=1e-6)


def test_a_state_that_leaves_the_numbers_is_nan_and_the_others_are_not() -> None:
    z0 = torch.tensor([[0.5], [2.0]], dtype=torch.float64)  # z' = z^2 is at infinity at t = 1 / z0
    found = flow(lambda t, z: z**2, z0, torch.zeros(2), torch.ones(2), accuracy=1e-7)
    torch.testing.assert_close(found.ends[0], torch.tensor([1.0], dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert found.ends[1].isnan().all()
    assert found.converged.tolist() == [True, False]


def test_no_samples_are_no_work() -> None:
    found = flow(lambda t, z: z, torch.zeros(0, 2), torch.zeros(0), torch.zeros(0))
    assert found.ends.shape == (0, 2)
    assert found.evaluations == 0


def test_a_samples_flow_depends_neither_on_its_batch_mates_nor_on_its_size() -> None:
    def turn(t: Tensor, z: Tensor) -> Tensor:
        return torch.stack([-z[:, 1], z[:, 0]], dim=1) * (1 + torch.relu(torch.sin(9 * t)))

    # Powers of two, so that nothing is rounded differently.
    z0 = torch.tensor([[1.0], [2.0**-20], [2.0**20]]).double() * torch.tensor([[1.0, 0.5]]).double()
    together = flow(turn, z0, torch.zeros(3), torch.ones(3))
    for i in range(3):
        alone = flow(turn, z0[i : i + 1], torch.zeros(1), torch.ones(1))
        torch.testing.assert_close(together.ends[i], alone.ends[0], rtol=1e-13, atol=0)
        torch.testing.assert_close(together.ends[i] / z0[i, 0], together.ends[0], rtol=1e-10, atol=0)
    assert together.converged.all()
