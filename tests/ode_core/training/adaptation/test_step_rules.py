"""The talk's rule and the look-ahead rule, on hand-made accuracies."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ode_core.solvers.more_accurate_solver import steps_for
from ode_core.specs import METHODS, MethodName, SolverSpec, StepAdaptation
from ode_core.training.adaptation.look_ahead import LookAheadRule
from ode_core.training.adaptation.rule import Decision, Measured
from ode_core.training.adaptation.talk import TalkRule
from tests.ode_core.training.adaptation.stub_probe import StubProbe


class Accuracies(StubProbe):
    """A classifier known by its accuracy by method and steps; remembers what it was asked."""

    def __init__(self, accuracy: Callable[[MethodName, int], float]) -> None:
        self._accuracy = accuracy
        self.asked: list[tuple[MethodName, int]] = []

    def accuracy(self, solver: SolverSpec, *, exact: bool = False) -> Measured:
        assert solver.steps is not None
        assert not exact
        self.asked.append((solver.method, solver.steps))
        return Measured(self._accuracy(solver.method, solver.steps), METHODS[solver.method].evaluations(solver.steps))


@dataclass(frozen=True)
class Checked:
    """A decision with the step it came to."""

    step: float
    decision: Decision

    @property
    def difference(self) -> float:
        return self.decision.measures["adaptation_difference"]

    @property
    def accepted(self) -> bool:
        return self.decision.accepted

    @property
    def evaluations(self) -> float:
        return self.decision.evaluations


def check_step(
    spec: StepAdaptation, method: MethodName, step: float, accuracies: Accuracies, *, may_grow: bool
) -> Checked:
    """One check of a rule that is at ``step``, in the middle of its training or, where it may not grow, in the end."""
    spec = spec.model_copy(update={"settle_fraction": 0.1})
    make = TalkRule if spec.rule == "talk" else LookAheadRule
    rule = make(spec, SolverSpec(method=method, steps=1), 100)
    rule.restore({"step": step})
    decision = rule.check(50 if may_grow else 95, accuracies)
    assert decision.solver == rule.solver == SolverSpec(method=method, steps=steps_for(rule.state()["step"]))
    return Checked(rule.state()["step"], decision)


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


def test_the_first_check_begins_with_the_estimated_step_and_counts_its_evaluations() -> None:
    rule = TalkRule(StepAdaptation(), SolverSpec(method="euler", steps=3), 100)
    probe = euler_loses(0.0)
    probe.estimated_step = 0.04
    decision = rule.check(0, probe)
    # 25 steps of Euler, then the test solver: midpoint with sqrt(0.04/50) = 1/35.4, 36 steps of two evaluations.
    assert decision.tested == SolverSpec(method="euler", steps=25)
    assert decision.evaluations == 2 + 25 + 2 * 36
    assert rule.state() == {"step": pytest.approx(0.044)}
    assert rule.solver.steps == 23  # 1/0.044 = 22.7


def test_one_reject_undoes_seven_accepts_so_the_talks_rule_oscillates() -> None:
    # Euler loses where its steps are fewer than 60: from 1/100 up by a tenth six times is 1/56.4, which is rejected.
    rule = TalkRule(StepAdaptation(), SolverSpec(method="euler", steps=1), 10_000)
    rule.restore({"step": 1 / 100})
    probe = Accuracies(lambda method, steps: 0.9 if method != "euler" or steps >= 60 else 0.5)
    decisions = [rule.check(i, probe) for i in range(7 + 8)]
    steps = [1 / 100 * 1.1**i for i in range(7)]
    steps += [steps[-1] / 2 * 1.1**i for i in range(8)]  # half of 1/56.4 is 1/112.9; seven growths lead to 1/57.9
    assert [decision.tested.steps for decision in decisions] == [math.ceil(1 / step) for step in steps]
    actions = [decision.action for decision in decisions]
    assert actions == [*[1] * 6, -1, *[1] * 7, -1]


def test_looking_ahead_comes_to_rest_before_the_step_that_disagrees() -> None:
    rule = LookAheadRule(StepAdaptation(rule="look_ahead"), SolverSpec(method="euler", steps=1), 10_000)
    rule.restore({"step": 1 / 100})
    probe = Accuracies(lambda method, steps: 0.9 if method != "euler" or steps >= 60 else 0.5)
    actions = [rule.check(i, probe).action for i in range(20)]
    assert actions == [*[1] * 5, *[0] * 15]  # 1/100 * 1.1^5 = 1/62.1, and the next would be 1/56.4
    assert rule.solver.steps == 63


@pytest.mark.parametrize(("ceiling", "steps"), [("clamp", [80, 100, 100]), ("average", [80, 90, 95])])
def test_near_the_ceiling_a_halving_is_cut_off_or_goes_half_of_the_way(ceiling: str, steps: list[int]) -> None:
    rule = TalkRule(StepAdaptation(max_steps=100, ceiling=ceiling), SolverSpec(method="euler", steps=1), 100)
    rule.restore({"step": 1 / 40})
    came_to = []
    for i in range(3):
        rule.check(i, euler_loses(0.5))
        came_to.append(rule.solver.steps)
    assert came_to == steps


@given(
    st.sampled_from(["talk", "look_ahead"]),
    st.sampled_from(["clamp", "average"]),
    st.integers(1, 300),
    st.floats(1e-3, 1.0),
    st.lists(st.floats(0, 0.3), min_size=1, max_size=60),
)
def test_whatever_is_seen_the_steps_stay_between_one_and_the_ceiling(
    rule_name: str, ceiling: str, max_steps: int, step: float, losses: list[float]
) -> None:
    spec = StepAdaptation(rule=rule_name, max_steps=max_steps, ceiling=ceiling)
    rule = (TalkRule if rule_name == "talk" else LookAheadRule)(spec, SolverSpec(method="euler", steps=1), 1000)
    rule.restore({"step": max(step, 1 / max_steps)})
    for i, loss in enumerate(losses):
        before = rule.state()["step"]
        decision = rule.check(i, euler_loses(loss))
        assert rule.solver.steps is not None
        assert 1 <= rule.solver.steps <= max_steps
        assert (rule.state()["step"] > before) - (rule.state()["step"] < before) == decision.action
