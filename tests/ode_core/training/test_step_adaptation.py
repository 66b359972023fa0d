import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import RK23
from torch import Tensor

from ode_core.specs import MethodName, StepAdaptation
from ode_core.training.step_adaptation import check_step, first_step, more_accurate_solver, steps_for

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


def test_one_over_n_makes_n_steps() -> None:
    assert all(steps_for(1 / n) == n for n in range(1, 5001))


@given(st.floats(1e-4, 1.0))
def test_any_other_step_makes_the_least_number_that_is_at_most_as_large(step: float) -> None:
    steps = steps_for(step)
    assert 1 / steps <= step * (1 + 1e-9)
    assert steps == 1 or 1 / (steps - 1) > step * (1 - 1e-9)


@pytest.mark.parametrize(
    ("method", "steps", "test_method", "test_steps"),
    [
        ("euler", 100, "midpoint", 100),  # fine enough: the same step
        ("euler", 51, "midpoint", 51),
        ("euler", 50, "midpoint", 50),  # sqrt(1/50/50) = 1/50
        ("euler", 2, "midpoint", 10),  # sqrt(1/2/50) = 1/10
        ("euler", 1, "midpoint", 8),  # sqrt(1/50) = 1/7.07
        ("midpoint", 10, "rk4", 10),  # 1/h^2 = 100 > 50
        ("midpoint", 7, "rk4", 8),  # (1/49/50)^(1/4) = 1/7.04
        ("midpoint", 2, "rk4", 4),  # (1/4/50)^(1/4) = 1/3.76
        ("midpoint", 1, "rk4", 3),  # (1/50)^(1/4) = 1/2.66
    ],
)
def test_the_papers_test_solver(method: MethodName, steps: int, test_method: MethodName, test_steps: int) -> None:
    assert more_accurate_solver(method, 1 / steps) == (test_method, test_steps)


def test_the_paper_names_no_test_solver_for_other_methods() -> None:
    with pytest.raises(ValueError, match="rk4"):
        more_accurate_solver("rk4", 0.1)


class Accuracies:
    """Stands in for a classifier: its accuracy by method and steps; remembers what it was asked."""

    def __init__(self, accuracy: Callable[[MethodName, int], float]) -> None:
        self._accuracy = accuracy
        self.asked: list[tuple[MethodName, int]] = []

    def __call__(self, method: MethodName, steps: int) -> float:
        self.asked.append((method, steps))
        return self._accuracy(method, steps)


def euler_loses(share: float) -> Accuracies:
    return Accuracies(lambda method, steps: 0.9 - (share if method == "euler" else 0.0))


def test_agreement_makes_the_step_a_tenth_larger() -> None:
    check = check_step(StepAdaptation(), "euler", 0.1, euler_loses(0.05), may_grow=True)
    assert check.accepted
    assert check.difference == pytest.approx(0.05)
    assert check.step == pytest.approx(0.11)


@pytest.mark.parametrize("share", [0.2, -0.2])
def test_disagreement_in_either_direction_halves_the_step(share: float) -> None:
    check = check_step(StepAdaptation(), "euler", 0.1, euler_loses(share), may_grow=True)
    assert not check.accepted
    assert check.difference == pytest.approx(0.2)
    assert check.step == 0.05


def test_a_difference_of_exactly_the_threshold_is_agreement() -> None:
    accuracies = Accuracies(lambda method, steps: 0.5 if method == "euler" else 0.75)
    assert check_step(StepAdaptation(threshold=0.25), "euler", 0.1, accuracies, may_grow=True).accepted


def test_the_step_never_leaves_one_step_to_max_steps() -> None:
    rule = StepAdaptation(max_steps=100)
    assert steps_for(check_step(rule, "euler", 0.015, euler_loses(0.2), may_grow=True).step) == 100
    assert check_step(rule, "euler", 0.95, euler_loses(0.0), may_grow=True).step == 1.0


def test_while_settling_the_step_is_halved_but_never_grows() -> None:
    for rule in (StepAdaptation(rule="talk"), StepAdaptation(rule="look_ahead")):
        assert check_step(rule, "euler", 0.1, euler_loses(0.0), may_grow=False).step == 0.1
        assert check_step(rule, "euler", 0.1, euler_loses(0.2), may_grow=False).step == 0.05


def needs_nine_steps(method: MethodName, steps: int) -> float:
    return 0.9 if method != "euler" or steps >= 9 else 0.5


def test_looking_ahead_keeps_the_step_where_the_larger_one_disagrees() -> None:
    step = 0.115  # 9 steps; 1.1 times as large 8
    talk, look_ahead = (
        check_step(StepAdaptation(rule=rule), "euler", step, Accuracies(needs_nine_steps), may_grow=True)
        for rule in ("talk", "look_ahead")
    )
    assert talk.step == pytest.approx(1.1 * step)
    assert look_ahead.accepted
    assert look_ahead.step == step


def test_looking_ahead_grows_where_the_larger_step_agrees() -> None:
    # 1.1/20 makes 19 steps.
    accuracies = Accuracies(needs_nine_steps)
    check = check_step(StepAdaptation(rule="look_ahead"), "euler", 1 / 20, accuracies, may_grow=True)
    assert check.step == pytest.approx(1.1 / 20)
    assert ("euler", 19) in accuracies.asked


def test_the_check_counts_its_evaluations_and_asks_each_solver_once() -> None:
    # Test solver: midpoint with sqrt(0.1/50) = 1/22.4, so 23 steps of two evaluations; Euler with 10; and for the
    # look-ahead 1.1 * 0.1 = 1/9.09, which is 10 steps again.
    accuracies = euler_loses(0.0)
    check = check_step(StepAdaptation(rule="look_ahead"), "euler", 0.1, accuracies, may_grow=True)
    assert accuracies.asked == [("midpoint", 23), ("euler", 10)]
    assert check.evaluations == 2 * 23 + 10
    accuracies = euler_loses(0.0)
    check = check_step(StepAdaptation(rule="look_ahead", growth=1.5), "euler", 0.1, accuracies, may_grow=True)
    assert accuracies.asked == [("midpoint", 23), ("euler", 10), ("euler", 7)]
    assert check.evaluations == 2 * 23 + 10 + 7


def right_share(steps_of: dict[MethodName, Callable[[int], complex]], angle: float) -> Accuracies:
    """Points on the circle turned by ``angle`` and judged by the sign of the first coordinate.

    Labels are right under the exact rotation. One step of a method multiplies by its stability polynomial at
    ``i angle / steps``.
    """
    points = np.exp(1j * (np.arange(1000) + 0.5) * 2 * np.pi / 1000)
    labels = (points * np.exp(1j * angle)).real > 0
    return Accuracies(
        lambda method, steps: float(np.mean(((points * steps_of[method](steps) ** steps).real > 0) == labels))
    )


@pytest.mark.parametrize(("steps", "accepted"), [(2, False), (3, False), (4, True), (20, True)])
def test_on_a_rotation_the_check_rejects_the_steps_whose_angle_is_off_by_more_than_the_threshold(
    steps: int, accepted: bool
) -> None:
    angle = 2.0

    def euler(n: int) -> complex:
        return 1 + 1j * angle / n

    def midpoint(n: int) -> complex:
        return 1 + 1j * angle / n + (1j * angle / n) ** 2 / 2

    # Euler turns by steps * atan(angle / steps): 1.571, 1.764, 1.855 and 1.993 instead of 2. Between two turns that
    # differ by d lie d / pi of the points: 0.137, 0.075, 0.046, 0.002.
    threshold = 0.06
    turned = steps * math.atan(angle / steps)
    assert ((angle - turned) / math.pi <= threshold) is accepted
    accuracies = right_share({"euler": euler, "midpoint": midpoint}, angle)
    check = check_step(StepAdaptation(threshold=threshold), "euler", 1 / steps, accuracies, may_grow=True)
    assert check.accepted is accepted
