"""The certified rule, on hand-made flips."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from ode_core.specs import CertifiedAdaptation, SolverSpec
from ode_core.specs.adaptation import samples_without_flips
from ode_core.training.adaptation.certified import CertifiedRule
from ode_core.training.adaptation.rule import Certificate, Decision, Flips
from ode_core.training.adaptation.solver_ladder import SolverLadder, StepLadder, ToleranceLadder
from tests.ode_core.training.adaptation.stub_probe import StubProbe

SAMPLES = 500
EPS32 = 2.0**-23
# Of 500 samples: without a flip the interval ends at 0.74 %, with 3 at 1.74 %, with 4 at 2.04 %; 10 are 2 %, epsilon.
MOST_THAT_CLIMB, MOST_THAT_CERTIFY, MOST_THAT_PASS = 0, 3, 10


class FlipsBySteps(StubProbe):
    """Answers flips by the solver's number of steps, or its tolerance; remembers what it was asked."""

    reference_evaluations = 1000.0

    def __init__(self, flips_at: Callable[[float], int], unsettled: int = 0) -> None:
        self._flips_at, self._unsettled = flips_at, unsettled
        self.asked: list[float] = []

    def flips(self, solver: SolverSpec) -> Flips:
        rule = solver.steps if solver.steps is not None else solver.rtol
        assert rule is not None
        assert rule not in self.asked, "each solver is asked once"
        self.asked.append(rule)
        fewest = self._flips_at(rule)
        return Flips(fewest, fewest + self._unsettled, SAMPLES, float(rule))


def rule_at(steps: int, *, iterations: int = 1000, **settings: Any) -> CertifiedRule:
    spec = CertifiedAdaptation(**settings)
    return CertifiedRule(spec, SolverSpec(method="euler", steps=steps), StepLadder(spec, 1.0), iterations)


@pytest.mark.parametrize(("flips", "samples"), [(0, 500), (3, 500), (4, 500), (10, 500), (500, 500), (1, 1000)])
def test_the_interval_is_scipys_exact_one(flips: int, samples: int) -> None:
    expected = binomtest(flips, samples).proportion_ci(0.95, method="exact")
    assert Flips(flips, flips, samples, 0.0).interval == pytest.approx((expected.low, expected.high))


def test_the_numbers_of_flips_the_other_tests_rest_on() -> None:
    def upper(flips: int) -> float:
        return float(binomtest(flips, SAMPLES).proportion_ci(0.95, method="exact").high)

    assert upper(MOST_THAT_CLIMB) <= 0.0075 < upper(MOST_THAT_CLIMB + 1)
    assert upper(MOST_THAT_CERTIFY) <= 0.02 < upper(MOST_THAT_CERTIFY + 1)
    assert MOST_THAT_PASS / SAMPLES <= 0.02 < (MOST_THAT_PASS + 1) / SAMPLES


@pytest.mark.parametrize("share", [0.001, 0.0075, 0.02, 0.1])
def test_the_samples_needed_without_a_flip_are_the_fewest_whose_exact_interval_will_do(share: float) -> None:
    needed = samples_without_flips(share)
    assert binomtest(0, needed).proportion_ci(0.95, method="exact").high <= share
    assert binomtest(0, needed - 1).proportion_ci(0.95, method="exact").high > share


def check(rule: CertifiedRule, flips_at: Callable[[float], int], iteration: int = 100) -> tuple[Decision, list[float]]:
    probe = FlipsBySteps(flips_at)
    return rule.check(iteration, probe), probe.asked


def certified(decision: Decision) -> bool:
    return decision.certificate is not None


def test_no_flip_and_a_coarser_grid_that_would_be_certified_make_it_coarser() -> None:
    rule = rule_at(100)
    decision, asked = check(rule, lambda steps: 0 if steps == 100 else MOST_THAT_CERTIFY)
    assert asked == [100, 90]  # 100 / 1.1 = 90.9
    assert (decision.action, rule.solver.steps) == (1, 90)
    assert (decision.accepted, certified(decision)) == (True, True)
    assert decision.tested == SolverSpec(method="euler", steps=100)
    assert decision.evaluations == 1000 + 100 + 90
    assert decision.measures == {
        "adaptation_flip_rate": 0.0,
        "adaptation_flip_rate_upper": pytest.approx(1 - 0.025 ** (1 / SAMPLES)),
    }


@pytest.mark.parametrize(
    ("now", "coarser", "sure"),
    [
        (0, MOST_THAT_CERTIFY + 1, True),  # the coarser grid would not be certified
        (MOST_THAT_CLIMB + 1, 0, True),  # not far enough below
        (MOST_THAT_CERTIFY, 0, True),
        (MOST_THAT_CERTIFY + 1, 0, False),
        (MOST_THAT_PASS, 0, False),
    ],
)
def test_between_the_thresholds_it_stays(now: int, coarser: int, sure: bool) -> None:
    rule = rule_at(100)
    decision, _ = check(rule, lambda steps: now if steps == 100 else coarser)
    assert (decision.action, decision.accepted, certified(decision)) == (0, True, sure)
    assert rule.solver.steps == 100


def test_more_flips_than_epsilon_halve_the_step_until_they_are_few_again() -> None:
    rule = rule_at(10)
    decision, asked = check(rule, lambda steps: round(400 / steps))  # 40, 20, 10
    assert asked == [10, 20, 40]
    assert (decision.action, decision.accepted, certified(decision)) == (-1, False, False)
    assert rule.solver.steps == 40


def test_the_finest_grid_is_the_ceiling() -> None:
    rule = rule_at(300)
    decision, asked = check(rule, lambda steps: SAMPLES)
    assert asked == [300, 500]
    assert (decision.action, rule.solver.steps) == (-1, 500)
    assert check(rule, lambda steps: SAMPLES)[0].action == 0


def test_the_coarsest_grid_is_the_floor() -> None:
    rule = rule_at(5, min_steps=4)
    assert [check(rule, lambda steps: 0)[0].action for _ in range(3)] == [1, 0, 0]
    assert rule.solver.steps == 4


def test_from_two_steps_one_step_is_coarser() -> None:
    rule = rule_at(2)
    check(rule, lambda steps: 0)
    assert rule.solver.steps == 1


@pytest.mark.parametrize("iteration", [900, 950, 998])
def test_in_the_last_tenth_it_never_gets_coarser(iteration: int) -> None:
    assert check(rule_at(100), lambda steps: 0, iteration=899)[0].action == 1
    assert check(rule_at(100), lambda steps: 0, iteration)[0].action == 0


@pytest.mark.parametrize("iteration", [900, 998, 1000])
def test_in_the_last_tenth_weights_that_pass_are_certified_with_the_first_finer_grid_that_can(iteration: int) -> None:
    rule = rule_at(100)
    decision, asked = check(rule, lambda steps: round(800 / steps), iteration)  # 8, 4, 2: all pass, 2 certify
    assert asked == [100, 200, 400]
    assert (decision.accepted, decision.action) == (True, -1)
    finer = SolverSpec(method="euler", steps=400)
    assert decision.certificate == Certificate(finer, Flips(2, 2, SAMPLES, 400.0))
    assert decision.solver == rule.solver == finer
    assert decision.measures["adaptation_flip_rate"] == 8 / SAMPLES


def test_in_the_last_tenth_weights_that_do_not_pass_get_a_finer_grid_and_no_certificate() -> None:
    rule = rule_at(100)
    decision, _ = check(rule, lambda steps: 20 if steps == 100 else 0, 950)
    assert (decision.accepted, certified(decision), decision.action) == (False, False, -1)
    assert rule.solver.steps == 200


@pytest.mark.parametrize("flips_at", [lambda steps: SAMPLES, lambda steps: 20 if steps == 100 else 0, lambda steps: 5])
def test_after_the_last_iteration_weights_without_a_certificate_keep_the_solver_they_were_trained_with(
    flips_at: Callable[[float], int],
) -> None:
    rule = rule_at(100)
    decision, _ = check(rule, flips_at, iteration=1000)
    assert (certified(decision), decision.action, rule.solver.steps) == (False, 0, 100)


def test_after_the_last_iteration_weights_that_certify_keep_theirs_too() -> None:
    rule = rule_at(100)
    decision, asked = check(rule, lambda steps: 0, iteration=1000)
    assert asked == [100]
    assert (certified(decision), decision.action, rule.solver.steps) == (True, 0, 100)


def test_samples_without_a_settled_reference_count_against_the_certificate_and_not_for_a_finer_grid() -> None:
    for iteration in (100, 950):
        rule = rule_at(100)
        decision = rule.check(iteration, FlipsBySteps(lambda steps: 0, unsettled=50))
        assert (decision.accepted, certified(decision), decision.action) == (True, False, 0)
        assert decision.measures["adaptation_flip_rate"] == 0
        assert decision.measures["adaptation_flip_rate_upper"] > 0.1


@pytest.mark.parametrize(
    ("iterations", "interval", "due"),
    [(10, 4, [0, 4, 8, 10]), (10, 3, [0, 3, 6, 10]), (1, 5, [1]), (9, 3, [0, 3, 6, 9])],
)
def test_checks_come_every_interval_and_after_the_last_iteration(
    iterations: int, interval: int, due: list[int]
) -> None:
    # With 10 iterations and interval 3 a check before the tenth would be in the same iteration as the last one.
    rule = rule_at(100, iterations=iterations, interval=interval)
    assert [i for i in range(iterations + 1) if rule.due(i)] == due


def tolerance_rule(rtol: float, atol: float) -> CertifiedRule:
    spec = CertifiedAdaptation(max_tolerance=0.02)
    ladder: SolverLadder = ToleranceLadder(spec, EPS32)
    return CertifiedRule(spec, SolverSpec(method="bosh3", rtol=rtol, atol=atol), ladder, 1000)


def test_with_tolerances_both_are_scaled_between_the_rounding_and_the_largest() -> None:
    rule = tolerance_rule(1e-3, 1e-4)
    check(rule, lambda tolerance: 0)
    assert (rule.solver.rtol, rule.solver.atol) == (pytest.approx(1.1e-3), pytest.approx(1.1e-4))
    decision, asked = check(rule, lambda tolerance: 100 if tolerance > 3e-4 else 0)
    assert asked == pytest.approx([1.1e-3, 5.5e-4, 2.75e-4])
    assert (rule.solver.rtol, rule.solver.atol) == (pytest.approx(2.75e-4), pytest.approx(2.75e-5))
    assert decision.action == -1
    check(rule, lambda tolerance: SAMPLES)
    assert rule.solver.rtol == pytest.approx(50 * EPS32)
    assert check(rule, lambda tolerance: SAMPLES)[0].action == 0
    rule = tolerance_rule(0.019, 0.019)
    check(rule, lambda tolerance: 0)
    assert rule.solver.rtol == pytest.approx(0.02)
    assert check(rule, lambda tolerance: 0)[0].action == 0


@given(
    st.integers(1, 20),
    st.integers(0, 200),
    st.floats(1.01, 2.0),
    st.lists(st.tuples(st.integers(0, 30), st.floats(0.0, 2.0)), min_size=20, max_size=20),
    st.integers(0, 20),
)
def test_whatever_is_seen_the_steps_stay_in_their_bounds_and_never_climb_in_the_last_tenth(
    floor: int, room: int, growth: float, seen: list[tuple[int, float]], stop: int
) -> None:
    ceiling = floor + room
    settings = {"min_steps": floor, "max_steps": ceiling, "growth": growth, "interval": 1}
    straight, rule = (rule_at(floor + room // 2, iterations=20, **settings) for _ in range(2))
    for i in filter(rule.due, range(21)):
        if i == stop:
            state = rule.state()
            rule = rule_at(floor, iterations=20, **settings)
            rule.restore(state)
        flips, order = seen[i - 1]
        before = rule.solver.steps
        assert before is not None

        def flips_at(steps: float, flips: int = flips, order: float = order, before: int = before) -> int:
            return min(round(flips * (before / steps) ** order), SAMPLES)

        decision, _ = check(rule, flips_at, i)
        assert check(straight, flips_at, i)[0] == decision
        after = rule.solver.steps
        assert after is not None
        assert floor <= after <= ceiling
        assert math.copysign(1, before - after) * (before != after) == decision.action
        if i >= 18:
            assert after >= before
        upper = binomtest(flips, SAMPLES).proportion_ci(0.95, method="exact").high
        if i < 18:
            assert certified(decision) == (upper <= 0.02)
        if decision.certificate is not None:
            proof = decision.certificate
            assert proof.solver in (decision.tested, decision.solver)
            assert binomtest(proof.flips.most, SAMPLES).proportion_ci(0.95, method="exact").high <= 0.02
            assert proof.flips == decision.flips or decision.accepted
        if decision.action == 1:
            assert upper <= 0.0075


@pytest.mark.parametrize(
    ("begin_fraction", "due"),
    [(0.0, [0, 50, 100, 150, 200]), (0.5, [100, 150, 200]), (0.6, [150, 200]), (0.9, [200])],
)
def test_the_checks_begin_after_the_first_part(begin_fraction: float, due: list[int]) -> None:
    rule = rule_at(4, iterations=200, begin_fraction=begin_fraction)
    assert [iteration for iteration in range(201) if rule.due(iteration)] == due


def test_a_first_part_that_reaches_into_the_last_is_refused() -> None:
    with pytest.raises(ValueError, match="lower one of them"):
        CertifiedAdaptation(begin_fraction=0.8, certify_fraction=0.3)
