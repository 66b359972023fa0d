"""The search by itself: against models of which every outcome is known beforehand."""

import math

from hypothesis import given
from hypothesis import strategies as st

from ode_core.specs.critical_step import Bracket, Violation, bracket, next_steps, powers_of_two, violations

EXPONENTS = st.integers(0, 16)


def searched(candidates: list[int], passes: dict[int, bool], *, confirm: bool = False) -> dict[int, bool]:
    """Run a search to its end; return what it measured, in its order."""
    outcomes: dict[int, bool] = {}
    while (steps := next_steps(candidates, outcomes, confirm=confirm)) is not None:
        assert steps not in outcomes, "nothing is measured twice"
        outcomes[steps] = passes[steps]
    return outcomes


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[int], dict[int, bool]]:
    """Candidates, and for each whether it passes, in any pattern."""
    lowest, more = draw(EXPONENTS), draw(st.integers(0, 9))
    candidates = powers_of_two(2**lowest, 2 ** (lowest + more))
    return candidates, dict(zip(candidates, draw(st.tuples(*[st.booleans()] * len(candidates))), strict=True))


@given(lowest=EXPONENTS, more=st.integers(0, 12), confirm=st.booleans(), data=st.data())
def test_the_bracket_of_a_monotone_world_is_exact_and_found_in_few_runs(lowest, more, confirm, data):
    candidates = [2**exponent for exponent in range(lowest, lowest + more + 1)]
    first = data.draw(st.integers(0, len(candidates)), label="the first that passes; all fail if beyond the end")
    passes = {steps: position >= first for position, steps in enumerate(candidates)}

    outcomes = searched(candidates, passes, confirm=confirm)

    assert bracket(candidates, outcomes) == Bracket(
        candidates[first - 1] if first > 0 else None, candidates[first] if first < len(candidates) else None
    )
    assert len(outcomes) <= math.floor(math.log2(len(candidates))) + 1 + confirm


@given(world=worlds(), confirm=st.booleans())
def test_a_bracket_claims_only_what_was_measured_whatever_the_world(world, confirm):
    candidates, passes = world

    outcomes = searched(candidates, passes, confirm=confirm)
    found = bracket(candidates, outcomes)

    assert found.last_failing is None or outcomes[found.last_failing] is False
    assert found.first_passing is None or outcomes[found.first_passing] is True
    # Nothing lies between the two.
    below = -1 if found.last_failing is None else candidates.index(found.last_failing)
    above = len(candidates) if found.first_passing is None else candidates.index(found.first_passing)
    assert above - below == 1
    assert not any(outcomes.get(steps) is False for steps in candidates[above:])
    if confirm and above + 1 < len(candidates):
        assert outcomes[candidates[above + 1]] is True


@given(world=worlds())
def test_the_state_of_a_search_is_its_outcomes_in_whatever_order_they_are_kept(world):
    candidates, passes = world
    outcomes = searched(candidates, passes)

    assert next_steps(candidates, dict(sorted(outcomes.items()))) is None
    assert bracket(candidates, dict(sorted(outcomes.items(), reverse=True))) == bracket(candidates, outcomes)


def test_the_papers_grid_takes_four_of_ten_step_counts():
    candidates = powers_of_two(1, 512)

    outcomes = searched(candidates, {steps: steps >= 128 for steps in candidates})

    assert bracket(candidates, outcomes) == Bracket(64, 128)
    assert list(outcomes) == [16, 128, 32, 64]


def test_the_step_count_above_a_bracket_that_fails_moves_the_bracket_up():
    candidates = powers_of_two(1, 16)
    passes = {1: False, 2: True, 4: True, 8: False, 16: True}

    assert bracket(candidates, searched(candidates, passes)) == Bracket(1, 2)
    confirmed = searched(candidates, {**passes, 4: False}, confirm=True)

    assert bracket(candidates, confirmed) == Bracket(8, 16)


def test_a_seed_that_passes_at_a_coarser_step_only_is_named():
    passed = {16: {0: True, 1: False}, 64: {0: False, 1: True}, 32: {0: True, 1: False}}

    assert violations(passed) == [Violation(seed=0, passes_at=32, fails_at=64)]


@given(st.dictionaries(st.integers(0, 9).map(lambda k: 2**k), st.dictionaries(st.integers(0, 3), st.booleans())))
def test_there_is_no_violation_exactly_where_every_seed_is_monotone(passed):
    seeds = {seed for by_seed in passed.values() for seed in by_seed}
    monotone = all(
        sorted(pattern) == pattern
        for seed in seeds
        if (pattern := [passed[steps][seed] for steps in sorted(passed) if seed in passed[steps]]) is not None
    )

    assert (violations(passed) == []) == monotone
