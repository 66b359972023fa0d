import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import DOP853

from ode_core.solvers.step_control import (
    ErrorHistory,
    StepControl,
    combined_ratio,
    error_ratio,
    inverse_root,
    sample_rms,
)

CONTROLLERS = ("i", "pi", "pid")


def factor(
    ratio: float,
    *,
    accepted: bool,
    rejected_before: bool = False,
    order: int = 5,
    name: str = "i",
    before: tuple[float, float] = (1.0, 1.0),
) -> float:
    history = ErrorHistory(*(torch.tensor([r], dtype=torch.float64) for r in before))
    values = StepControl(order, name).factor(
        torch.tensor([ratio], dtype=torch.float64), history, torch.tensor([accepted]), torch.tensor([rejected_before])
    )
    return values.item()


RATIOS = st.floats(0, 1)


@given(ratio=RATIOS, order=st.integers(1, 8), name=st.sampled_from(CONTROLLERS), before=st.tuples(RATIOS, RATIOS))
def test_a_step_never_shrinks_after_an_accept_and_grows_at_most_tenfold(ratio, order, name, before):
    before = tuple(max(r, 1e-30) for r in before)
    assert 1.0 <= factor(ratio, accepted=True, order=order, name=name, before=before) <= 10.0


@given(ratio=st.floats(1, 1e300), order=st.integers(1, 8), name=st.sampled_from(CONTROLLERS))
def test_a_step_shrinks_after_a_reject_and_at_most_fivefold(ratio, order, name):
    assert 0.2 <= factor(ratio, accepted=False, order=order, name=name) <= 0.9 + 1e-6


@given(ratio=RATIOS, name=st.sampled_from(CONTROLLERS))
def test_the_first_accept_after_a_reject_keeps_the_step(ratio, name):
    assert factor(ratio, accepted=True, rejected_before=True, name=name) == 1.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 0.9 (1/32)^(-0.6/5) (1/1024)^(0.2/5) = 0.9 2^(3/5) 2^(-2/5)
        ("pi", 0.9 * 2**0.2),
        # 0.9 (1/32)^(-0.49/5) (1/1024)^(0.34/5) (1/32)^(-0.1/5) = 0.9 2^(0.49 - 0.68 + 0.1)
        ("pid", 1.0),
    ],
)
def test_the_controllers_with_memory_weigh_the_ratios_of_the_steps_before(name, expected):
    before = (1 / 1024, 1 / 32)
    assert factor(1 / 32, accepted=True, name=name, before=before) == pytest.approx(expected, rel=2**-22)


def test_a_controller_with_memory_repeats_the_step_at_constant_error_like_the_elementary_one():
    # At r_n = r_(n-1) = r_(n-2) the exponents add up: 0.4 and 0.25 in place of 1.
    for name, exponent in (("i", 1.0), ("pi", 0.4), ("pid", 0.25)):
        found = factor(0.01, accepted=True, name=name, before=(0.01, 0.01))
        assert found == pytest.approx(0.9 * 0.01 ** (-exponent / 5), rel=2**-22)


def test_only_accepted_steps_enter_the_history():
    history = ErrorHistory(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.25]))
    after = history.after(torch.tensor([0.125, torch.inf]), torch.tensor([True, False]))
    assert after.last.tolist() == [0.125, 0.5]
    assert after.before.tolist() == [0.5, 0.25]


@pytest.mark.parametrize("ratio", [math.nan, math.inf])
def test_an_error_that_is_no_number_shrinks_the_step_as_far_as_allowed(ratio):
    assert factor(ratio, accepted=False) == 0.2


@pytest.mark.parametrize(("ratio", "order", "expected"), [(0.25, 2, 1.8), (32.0, 5, 0.45), (1 / 32, 5, 1.8)])
def test_the_factor_is_that_of_the_elementary_controller(ratio, order, expected):
    # 0.9 ratio^(-1/order); rounded to float32's 24 binary digits.
    assert factor(ratio, accepted=ratio <= 1, order=order) == pytest.approx(expected, rel=2**-23)


def test_the_root_of_a_number_does_not_depend_on_its_place_in_the_batch():
    values = torch.rand(1003, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 100
    together = inverse_root(values, 5)
    alone = torch.cat([inverse_root(value[None].clone(), 5) for value in values])
    assert torch.equal(together, alone)


def test_the_root_stays_positive_and_finite_at_the_ends_of_the_range():
    values = inverse_root(torch.tensor([1e-300, 1e300], dtype=torch.float64), 1)
    assert bool((values > 0).all())
    assert bool(torch.isfinite(values).all())


def test_the_error_ratio_is_the_rms_over_each_sample_of_error_over_tolerance():
    error = torch.tensor([[3e-3, 4e-3], [0.0, 0.0]], dtype=torch.float64)
    z, z_new = torch.tensor([[1.0, -9.0], [0.0, 0.0]]).double(), torch.tensor([[-4.0, 2.0], [0.0, 0.0]]).double()
    # Tolerances 0.1 + 0.01 * (4, 9) = (0.14, 0.19).
    expected = math.sqrt(((3e-3 / 0.14) ** 2 + (4e-3 / 0.19) ** 2) / 2)
    assert error_ratio(error, z, z_new, 0.01, 0.1).tolist() == pytest.approx([expected, 0.0], rel=1e-14)


def test_the_rms_of_a_sample_of_one_number_is_its_size():
    assert sample_rms(torch.tensor([-3.0, 4.0])).tolist() == [3.0, 4.0]


def test_two_error_estimates_are_combined_as_in_dop853():
    ratio = torch.tensor([3.0, 0.0, 0.0, 1e200, 1e-200, 2.0], dtype=torch.float64)
    low = torch.tensor([40.0, 5.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    # 3^2 / sqrt(3^2 + 0.01 40^2) = 9/5. Neither the largest nor the smallest numbers overflow on the way.
    expected = torch.tensor([1.8, 0.0, 0.0, 1e200, 1e-200, 2.0], dtype=torch.float64)
    assert torch.allclose(combined_ratio(ratio, low), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize(("ratio", "low"), [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (math.inf, math.inf)])
def test_an_estimate_that_is_no_number_makes_no_number(ratio, low):
    values = combined_ratio(torch.tensor([ratio], dtype=torch.float64), torch.tensor([low], dtype=torch.float64))
    assert not torch.isfinite(values).any()


@pytest.mark.parametrize("seed", range(5))
def test_the_combined_estimate_is_scipys_dop853(seed):
    generator = np.random.default_rng(seed)
    slopes, scale, h = generator.normal(size=(13, 7)), generator.uniform(1e-6, 1e-3, 7), 0.3
    stepper = DOP853(lambda t, z: z, 0.0, np.ones(7), 1.0)
    ratio, low = (
        sample_rms(torch.from_numpy(h * weights @ slopes / scale)[None]) for weights in (DOP853.E5, DOP853.E3)
    )
    expected = stepper._estimate_error_norm(slopes.copy(), h, scale)
    assert combined_ratio(ratio, low).item() == pytest.approx(expected, rel=1e-12)
