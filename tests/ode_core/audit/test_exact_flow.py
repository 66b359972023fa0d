"""The exact flow says how exact it is."""

import math

import numpy as np
import torch
from torch import Tensor

from ode_core.audit.exact_flow import ACCURACY, flow_to_end


def rotation(t: Tensor, z: Tensor) -> Tensor:
    return 3 * torch.stack([-z[:, 1], z[:, 0]], dim=1)


def test_samples_run_from_their_own_times_to_one_end() -> None:
    states = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)
    starts = torch.tensor([0.0, 1.0, 1.9])

    flow = flow_to_end(rotation, states, starts, 2.0, points=4)

    for sample, start in enumerate(starts.tolist()):
        for point in range(4):
            angle = 3 * (2.0 - start) * point / 3
            np.testing.assert_allclose(flow.curves[point, sample], [math.cos(angle), math.sin(angle)], atol=2e-5)
    assert bool(flow.converged.all())


def test_the_estimate_is_no_smaller_than_the_error() -> None:
    states = torch.tensor([[1.0, 0.0], [0.0, -2.0]], dtype=torch.float64)

    flow = flow_to_end(rotation, states, torch.zeros(2), 20.0)

    exact = torch.tensor([[math.cos(60), math.sin(60)], [2 * math.sin(60), -2 * math.cos(60)]], dtype=torch.float64)
    assert bool(((flow.ends - exact).abs().amax(dim=1) <= flow.error).all())
    assert bool((flow.error <= ACCURACY * 2).all())


def test_a_state_that_stays_is_converged() -> None:
    flow = flow_to_end(rotation, torch.zeros(1, 2, dtype=torch.float64), torch.zeros(1), 1.0)

    assert flow.ends.tolist() == [[0.0, 0.0]]
    assert flow.converged.tolist() == [True]


def test_a_solve_beyond_its_evaluations_is_not_converged() -> None:
    flow = flow_to_end(rotation, torch.ones(1, 2, dtype=torch.float64), torch.zeros(1), 100.0, max_evaluations=50)

    assert flow.converged.tolist() == [False]
    assert bool(flow.ends.isnan().all())
