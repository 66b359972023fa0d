import numpy as np
import pytest
import torch
from scipy.integrate._ivp.common import select_initial_step

from ode_core.solvers.initial_step import initial_step
from tests.ode_core.solvers.problems import coupled

STARTS = np.array([[1.1, 0.4], [0.0, 0.0], [1e4, -3.0], [1e-7, 1e-7]])


@pytest.mark.parametrize(("t0", "t1"), [(0.3, 2.0), (2.0, 0.3), (0.3, 0.300001)])
@pytest.mark.parametrize("order", [2, 3, 5])
def test_the_first_step_of_every_sample_is_scipys(order, t0, t1):
    direction = 1.0 if t1 > t0 else -1.0
    rtol, atol = 1e-5, 1e-7

    def f(t: float, z: np.ndarray) -> np.ndarray:
        return coupled(torch.tensor(t, dtype=torch.float64), torch.from_numpy(z)[None])[0].numpy()

    expected = [select_initial_step(f, t0, z, t1, np.inf, f(t0, z), direction, order - 1, rtol, atol) for z in STARTS]
    z0 = torch.from_numpy(STARTS)
    times = torch.full((len(z0),), t0, dtype=torch.float64)
    steps = initial_step(
        coupled,
        z0,
        coupled(times[:, None], z0),
        times,
        torch.full_like(times, abs(t1 - t0)),
        direction=direction,
        order=order,
        rtol=rtol,
        atol=atol,
    )
    # Ours is rounded to float32's digits.
    np.testing.assert_allclose(steps.numpy(), expected, rtol=2**-23)


@pytest.mark.parametrize("slope", [0.0, 1e30, float("inf")])
def test_the_first_step_is_positive_and_within_the_interval_whatever_the_field(slope):
    z0 = torch.ones(3, 2)
    step = initial_step(
        lambda t, z: torch.full_like(z, slope),
        z0,
        torch.full_like(z0, slope),
        torch.zeros(3, dtype=torch.float64),
        torch.full((3,), 0.5, dtype=torch.float64),
        direction=1.0,
        order=5,
        rtol=1e-5,
        atol=1e-9,
    )
    assert bool((step > 0).all())
    assert bool((step <= 0.5).all())
