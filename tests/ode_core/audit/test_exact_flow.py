"""The exact flow says how exact it is."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ode_core.audit.exact_flow import FIGURE_ACCURACY, flow, flow_to_end


def rotation(t: Tensor, z: Tensor) -> Tensor:
    return 3 * torch.stack([-z[:, 1], z[:, 0]], dim=1)


def test_samples_run_from_their_own_times_to_one_end() -> None:
    states = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)
    starts = torch.tensor([0.0, 1.0, 1.9])

    found = flow_to_end(rotation, states, starts, 2.0, points=4)

    for sample, start in enumerate(starts.tolist()):
        for point in range(4):
            angle = 3 * (2.0 - start) * point / 3
            np.testing.assert_allclose(found.curves[point, sample], [math.cos(angle), math.sin(angle)], atol=2e-5)
    assert bool(found.converged.all())


def test_the_estimate_is_no_smaller_than_the_error() -> None:
    states = torch.tensor([[1.0, 0.0], [0.0, -2.0]], dtype=torch.float64)

    found = flow_to_end(rotation, states, torch.zeros(2), 20.0)

    exact = torch.tensor([[math.cos(60), math.sin(60)], [2 * math.sin(60), -2 * math.cos(60)]], dtype=torch.float64)
    assert bool(((found.ends - exact).abs().amax(dim=1) <= found.error).all())
    assert bool((found.error <= FIGURE_ACCURACY * 2).all())


def test_a_state_that_stays_is_converged() -> None:
    found = flow_to_end(rotation, torch.zeros(1, 2, dtype=torch.float64), torch.zeros(1), 1.0)

    assert found.ends.tolist() == [[0.0, 0.0]]
    assert found.converged.tolist() == [True]


def test_a_solve_beyond_its_evaluations_is_not_converged() -> None:
    found = flow_to_end(rotation, torch.ones(1, 2, dtype=torch.float64), torch.zeros(1), 100.0, max_evaluations=50)

    assert found.converged.tolist() == [False]
    assert bool(found.ends.isnan().all())


def test_a_curve_depends_neither_on_its_batch_mates_nor_on_its_size() -> None:
    states = torch.tensor([[1.0, 0.5], [2.0**-20, 2.0**-21], [2.0**20, 2.0**19]], dtype=torch.float64)

    together = flow_to_end(rotation, states, torch.zeros(3), 2.0, points=5)

    for i in range(3):
        alone = flow_to_end(rotation, states[i : i + 1], torch.zeros(1), 2.0, points=5)
        torch.testing.assert_close(together.curves[:, i], alone.curves[:, 0], rtol=1e-12, atol=0)
        # Powers of two: nothing is rounded differently.
        torch.testing.assert_close(together.curves[:, i] / states[i, 0], together.curves[:, 0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("points", [2, 3])
def test_two_solves_that_make_the_same_steps_prove_nothing(points: int) -> None:
    # No tolerance changes the end of z' = 0, so all are tried before it counts as found.
    states, starts = torch.full((1, 1), 0.5, dtype=torch.float64), torch.zeros(1)

    several = flow(lambda t, z: torch.zeros_like(z), states, starts, 0.5, points=points, refinements=4)
    one = flow(lambda t, z: torch.zeros_like(z), states, starts, 0.5, points=points, refinements=1)

    assert several.ends.item() == 0.5
    assert several.converged.tolist() == [True]
    assert several.evaluations > 2 * one.evaluations


def test_over_no_time_there_is_nothing_to_refine() -> None:
    found = flow(rotation, torch.tensor([[0.3, 0.7]], dtype=torch.float64), torch.ones(1), 1.0)

    assert found.ends.tolist() == [[0.3, 0.7]]
    assert found.converged.tolist() == [True]
