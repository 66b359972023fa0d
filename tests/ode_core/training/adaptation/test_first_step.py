import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import RK23
from torch import Tensor

from ode_core.solvers.more_accurate_solver import steps_for
from ode_core.training.adaptation.first_step import first_step

FAR = 10**9  # a limit on steps that does not bind


def decay(t: Tensor, z: Tensor) -> Tensor:
    return -3.0 * z


def test_the_first_step_of_a_decay_is_what_the_book_gives_by_hand() -> None:
    # z0 = 2, f = -6: h0 = 0.01 * 2 / 6. One Euler step leads to 1.98, where f = -5.94: d2 = 0.06 / h0 = 18.
    step = first_step(decay, torch.tensor([[2.0]], dtype=torch.float64), order=1, end_time=1.0, max_steps=FAR)
    assert step == pytest.approx(math.sqrt(0.01 / 18), rel=1e-12)


def test_a_slow_field_is_bounded_by_a_hundred_times_the_first_guess() -> None:
    # f = 0.3 everywhere: d2 = 0, so h1 = sqrt(0.01 / 0.3) = 0.18, but 100 h0 = 1e-4 / 0.3 * 100 = 0.0333.
    z0 = torch.tensor([[1e-2]], dtype=torch.float64)
    step = first_step(lambda t, z: torch.full_like(z, 0.3), z0, order=1, end_time=1.0, max_steps=FAR)
    assert step == pytest.approx(100 * 0.01 * 1e-2 / 0.3, rel=1e-12)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=4), st.floats(0.1, 20), st.floats(0.5, 5), st.floats(0.5, 40))
def test_the_first_step_is_scipys_with_the_tolerances_taken_out(
    start: list[float], speed: float, frequency: float, end_time: float
) -> None:
    def field(t: float, y: np.ndarray) -> np.ndarray:
        return -speed * y * np.cos(frequency * t) + np.sin(y)

    # SciPy divides by atol + rtol |y| and takes the root of the mean, not of the sum, of squares: with
    # atol = 1/sqrt(n) and next to no rtol both norms are the same. RK23 asks with order 2.
    atol = 1 / math.sqrt(len(start))
    expected = RK23(field, 0.0, np.array(start), end_time, rtol=1e-13, atol=atol).h_abs
    step = first_step(
        lambda t, z: -speed * z * torch.cos(frequency * t) + torch.sin(z),
        torch.tensor([start], dtype=torch.float64),
        order=2,
        end_time=end_time,
        max_steps=FAR,
    )
    assert step * end_time == pytest.approx(expected, rel=1e-9)


def test_the_first_step_does_not_depend_on_the_batch_size() -> None:
    z0 = torch.tensor([[2.0, 1.0]])
    one, many = (first_step(decay, z0.repeat(n, 1), order=1, end_time=1.0, max_steps=500) for n in (1, 128))
    assert one == pytest.approx(many, rel=1e-6)  # a mean of equal float32 norms


@pytest.mark.parametrize("end_time", [1.0, 20.0])
def test_the_first_step_stays_between_one_step_and_max_steps(end_time: float) -> None:
    z0 = torch.ones(3, 1)
    fast = first_step(lambda t, z: -1e6 * z, z0, order=1, end_time=end_time, max_steps=50)
    slow = first_step(lambda t, z: 1e-4 * z, 1e4 * z0, order=4, end_time=1e-3 * end_time, max_steps=50)
    assert steps_for(fast) == 50
    assert steps_for(slow) == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_a_field_out_of_range_begins_with_the_smallest_step(value: float) -> None:
    step = first_step(
        lambda t, z: value * torch.ones_like(z) * z**4, torch.full((2, 3), 3.0), order=1, end_time=1.0, max_steps=50
    )
    assert steps_for(step) == 50


def test_a_field_at_rest_begins_with_the_smallest_step() -> None:
    assert first_step(lambda t, z: 0 * z, torch.ones(2, 3), order=1, end_time=1.0, max_steps=50) == 1 / 50
