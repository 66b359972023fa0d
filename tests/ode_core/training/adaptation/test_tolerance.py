"""The tolerance rule, on hand-made accuracies and evaluations."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ode_core.specs import SolverSpec, ToleranceAdaptation
from ode_core.training.adaptation.rule import Measured
from ode_core.training.adaptation.tolerance import ToleranceRule
from tests.ode_core.training.adaptation.stub_probe import StubProbe

EPS64 = 2.0**-52
EPS32 = 2.0**-23

Answer = Callable[[SolverSpec, bool], Measured]


class Tolerances(StubProbe):
    """Answers by solver and whether in float64; remembers what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.asked: list[tuple[str, float, bool]] = []

    def accuracy(self, solver: SolverSpec, *, exact: bool = False) -> Measured:
        assert solver.rtol == solver.atol
        assert solver.rtol is not None
        self.asked.append((solver.method, solver.rtol, exact))
        return self._answer(solver, exact)


def agrees(evaluations: float = 10.0, test_evaluations: float = 100.0) -> Answer:
    return lambda solver, exact: Measured(0.9, test_evaluations if exact else evaluations)


def disagrees(solver: SolverSpec, exact: bool) -> Measured:
    return Measured(0.9 if exact else 0.5, 100.0 if exact else 10.0)


def rule_at(tolerance: float, method: str = "dopri5", eps: float = EPS64, **settings: Any) -> ToleranceRule:
    solver = SolverSpec(method=method, rtol=tolerance, atol=tolerance)
    return ToleranceRule(ToleranceAdaptation(**settings), solver, 1000, eps)


@pytest.mark.parametrize(("method", "divisor"), [("fehlberg2", 5), ("dopri5", 10)])
def test_the_test_solver_is_dopri5_in_float64_at_a_fifth_or_a_tenth_of_the_tolerance(method: str, divisor: int) -> None:
    probe = Tolerances(agrees())
    decision = rule_at(1e-3, method).check(0, probe)
    assert probe.asked == [
        (method, 1e-3, False),
        ("dopri5", pytest.approx(1e-3 / divisor), True),
        (method, pytest.approx(1.1e-3), False),
    ]
    assert decision.evaluations == 10 + 100 + 10
    assert decision.accepted
    assert decision.action == 1
    assert decision.measures == {"adaptation_difference": 0.0}
    assert decision.solver.rtol == decision.solver.atol == pytest.approx(1.1e-3)


def test_disagreement_halves_the_tolerance() -> None:
    rule = rule_at(1e-3)
    decision = rule.check(0, Tolerances(disagrees))
    assert (decision.accepted, decision.action, decision.solver.rtol) == (False, -1, 5e-4)
    assert decision.measures["adaptation_difference"] == pytest.approx(0.4)
    assert rule.solver == decision.solver


def test_the_test_tolerance_is_divided_by_ten_until_the_test_works_harder_than_the_training() -> None:
    # The training takes 50 evaluations, the test 20 for every power of ten below 1e-3.
    def answer(solver: SolverSpec, exact: bool) -> Measured:
        assert solver.rtol is not None
        return Measured(0.9, 20.0 * round(-3 - math.log10(solver.rtol)) if exact else 50.0)

    probe = Tolerances(answer)
    decision = rule_at(1e-3).check(0, probe)
    assert [tolerance for _, tolerance, exact in probe.asked if exact] == pytest.approx([1e-4, 1e-5, 1e-6])
    assert decision.evaluations == 50 + 20 + 40 + 60 + 50


@pytest.mark.parametrize("divisions", [0, 3])
def test_the_search_for_a_test_tolerance_ends_after_its_divisions(divisions: int) -> None:
    probe = Tolerances(agrees(evaluations=100, test_evaluations=5))
    rule_at(1e-3, test_divisions=divisions).check(0, probe)
    assert sum(exact for *_, exact in probe.asked) == 1 + divisions


def test_the_search_does_not_go_below_the_rounding_of_float64() -> None:
    probe = Tolerances(agrees(evaluations=100, test_evaluations=5))
    rule_at(1e-12, test_divisions=15).check(0, probe)
    # 50 rounding errors are 1.1e-14.
    assert [tolerance for _, tolerance, exact in probe.asked if exact] == pytest.approx([1e-13])


def test_the_tolerance_does_not_grow_where_the_larger_one_would_disagree() -> None:
    def answer(solver: SolverSpec, exact: bool) -> Measured:
        assert solver.rtol is not None
        return Measured(0.5 if solver.rtol > 1.05e-3 else 0.9, 100.0 if exact else 10.0)

    rule = rule_at(1e-3)
    decision = rule.check(0, Tolerances(answer))
    assert (decision.accepted, decision.action, rule.solver.rtol) == (True, 0, 1e-3)


def test_the_tolerance_stops_growing_once_five_checks_took_the_same_evaluations() -> None:
    rule = rule_at(1e-3)
    actions = [rule.check(i, Tolerances(agrees())).action for i in range(7)]
    assert actions == [1, 1, 1, 1, 0, 0, 0]
    # As soon as the training solver takes another number it goes on.
    assert rule.check(7, Tolerances(agrees(evaluations=11))).action == 1


def test_evaluations_that_vary_never_stop_it() -> None:
    rule = rule_at(1e-6)
    assert [rule.check(i, Tolerances(agrees(10.0 + i % 2))).action for i in range(20)] == [1] * 20


@pytest.mark.parametrize(("eps", "floor"), [(EPS32, 50 * 2.0**-23), (EPS64, 50 * 2.0**-52)])
def test_the_tolerance_never_falls_below_fifty_rounding_errors(eps: float, floor: float) -> None:
    rule = rule_at(1e-4, eps=eps)
    for i in range(60):
        rule.check(i, Tolerances(disagrees))
    assert rule.solver.rtol == pytest.approx(floor)
    assert rule.check(60, Tolerances(disagrees)).action == 0


def test_a_training_in_float32_begins_at_its_floor_where_the_paper_begins_below() -> None:
    assert rule_at(1e-6, eps=EPS32).solver.rtol == pytest.approx(5.96e-6, rel=1e-3)


def test_in_the_last_part_the_tolerance_only_falls() -> None:
    rule = rule_at(1e-3, settle_fraction=0.5)
    assert rule.check(499, Tolerances(agrees())).action == 1
    assert rule.check(500, Tolerances(agrees())).action == 0
    assert rule.check(550, Tolerances(disagrees)).action == -1


def test_checks_come_every_interval_and_not_after_the_last_iteration() -> None:
    rule = rule_at(1e-3, interval=250)
    assert [i for i in range(1001) if rule.due(i)] == [0, 250, 500, 750]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3)), max_size=80), st.integers(0, 80))
def test_the_tolerance_stays_in_its_bounds_and_a_restored_rule_goes_on_alike(
    checks: list[tuple[bool, int]], stop: int
) -> None:
    def answers(agree: bool, evaluations: int) -> Tolerances:
        return Tolerances(agrees(evaluations) if agree else disagrees)

    straight, rule = (rule_at(1e-2, eps=EPS32, max_tolerance=0.05) for _ in range(2))
    for i, check in enumerate(checks):
        if i == stop:
            state = rule.state()
            rule = rule_at(1e-2, eps=EPS32, max_tolerance=0.05)
            rule.restore(state)
        assert straight.check(i, answers(*check)) == rule.check(i, answers(*check))
        assert rule.solver.rtol is not None
        assert 50 * EPS32 <= rule.solver.rtol <= 0.05
