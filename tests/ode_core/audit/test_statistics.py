import math
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ode_core.audit.statistics import clopper_pearson, is_above, is_at_most, mcnemar_exact, samples_to_decide


def binomial_tail(samples: int, share: float, at_least: int) -> float:
    """P(X >= at_least) by summing the binomial distribution."""
    return math.fsum(
        math.comb(samples, k) * share**k * (1 - share) ** (samples - k) for k in range(at_least, samples + 1)
    )


@given(st.integers(1, 120).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=60, deadline=None)
def test_the_interval_ends_where_the_binomial_tails_are_two_and_a_half_percent(case: tuple[int, int]) -> None:
    hits, samples = case
    low, high = clopper_pearson(hits, samples)
    # The ends solve P(X >= hits | low) = 0.025 and P(X <= hits | high) = 0.025; 1e-9 covers summation.
    if hits > 0:
        assert binomial_tail(samples, low, hits) == pytest.approx(0.025, rel=1e-6, abs=1e-9)
    else:
        assert low == 0.0
    if hits < samples:
        assert 1 - binomial_tail(samples, high, hits + 1) == pytest.approx(0.025, rel=1e-6, abs=1e-9)
    else:
        assert high == 1.0


@pytest.mark.parametrize(("hits", "samples"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(hits: int, samples: int) -> None:
    with pytest.raises(ValueError, match="hits"):
        clopper_pearson(hits, samples)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 5), (3, 9), (0, 12), (40, 21)])
def test_mcnemar_is_the_two_sided_binomial_test_of_a_fair_coin(first: int, second: int) -> None:
    n = first + second
    smaller = min(first, second)
    tail = math.fsum(math.comb(n, k) for k in range(smaller + 1)) / 2**n
    assert mcnemar_exact(first, second) == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_no_flips_at_all_need_368_samples_to_show_one_percent() -> None:
    # 1 - 0.025^(1/n) <= 0.01 first holds at this n.
    expected = math.ceil(math.log(0.025) / math.log(0.99))
    assert samples_to_decide(0.0, 0.01) == expected == 368


@pytest.mark.parametrize(("share", "epsilon"), [(0.0, 0.01), (0.02, 0.01), (0.009, 0.01), (0.5, 0.1)])
def test_the_number_of_samples_that_is_said_to_decide_does(share: float, epsilon: float) -> None:
    samples = samples_to_decide(share, epsilon)
    assert samples is not None
    low, high = clopper_pearson(round(share * samples), samples)
    assert high <= epsilon or low > epsilon


def test_no_number_of_samples_decides_a_share_that_is_epsilon() -> None:
    assert samples_to_decide(0.01, 0.01, limit=1_000_000) is None


def exact_tail(samples: int, share: Fraction, hits: range) -> Fraction:
    """P(X in hits) without any rounding."""
    return sum((math.comb(samples, k) * share**k * (1 - share) ** (samples - k) for k in hits), Fraction(0))


@given(
    st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.integers(1, 999).map(lambda thousandths: Fraction(thousandths, 1000)),
)
@settings(max_examples=200, deadline=None)
def test_a_share_is_compared_with_a_limit_as_by_exact_fractions(case: tuple[int, int], limit: Fraction) -> None:
    hits, samples = case
    at_most = exact_tail(samples, limit, range(hits + 1)) <= Fraction(1, 40)
    above = exact_tail(samples, limit, range(hits, samples + 1)) < Fraction(1, 40)
    assert is_at_most(hits, samples, float(limit)) == at_most
    assert is_above(hits, samples, float(limit)) == above


def test_a_limit_that_is_exactly_the_end_of_the_interval_counts_as_reached_from_below_and_not_passed_from_above() -> (
    None
):
    # One sample: P(X <= 0 | 39/40) = P(X >= 1 | 1/40) = 1/40.
    assert is_at_most(0, 1, 0.975)
    assert not is_above(1, 1, 0.025)


@pytest.mark.parametrize("samples", [1, 5, 1000])
def test_every_share_is_at_most_one_also_where_all_are_hits(samples: int) -> None:
    for hits in {0, samples // 2, samples - 1, samples}:
        assert is_at_most(hits, samples, 1.0)
        assert not is_above(hits, samples, 1.0)


ENDS = [(0, 1), (0, 368), (1, 360), (3, 1000), (52, 1000), (487, 899), (99, 100), (12, 10_000), (100_200, 1_000_000)]


@pytest.mark.parametrize(("hits", "samples"), ENDS)
@pytest.mark.parametrize("ulps", [-3, -2, -1, 0, 1, 2, 3])
def test_the_rounding_of_a_limit_copied_from_an_interval_decides_nothing(hits: int, samples: int, ulps: int) -> None:
    shown = stats.binomtest(hits, samples).proportion_ci(method="exact")
    high, low = shown.high, shown.low
    for _ in range(abs(ulps)):
        high, low = (math.nextafter(end, math.copysign(math.inf, ulps)) for end in (high, low))
    assert is_at_most(hits, samples, high)
    assert hits == 0 or not is_above(hits, samples, low)


@pytest.mark.parametrize(("hits", "samples"), ENDS)
def test_a_limit_a_millionth_beside_the_end_of_an_interval_is_told_from_it(hits: int, samples: int) -> None:
    shown = stats.binomtest(hits, samples).proportion_ci(method="exact")
    assert not is_at_most(hits, samples, shown.high * (1 - 1e-6))
    assert hits == 0 or is_above(hits, samples, shown.low * (1 - 1e-6))


@pytest.mark.parametrize("samples", [1, 2, 100, 368, 12_345, 900_000])
def test_as_many_samples_are_needed_for_an_end_as_it_was_the_end_of(samples: int) -> None:
    high = stats.binomtest(0, samples).proportion_ci(method="exact").high
    assert samples_to_decide(0.0, high) == samples


@pytest.mark.parametrize("compare", [is_at_most, is_above])
def test_impossible_counts_are_not_compared(compare: Callable[[int, int, float], bool]) -> None:
    with pytest.raises(ValueError, match="6 hits in 5 samples"):
        compare(6, 5, 0.5)
