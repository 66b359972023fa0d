import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ode_core.audit.statistics import clopper_pearson, mcnemar_exact, samples_to_decide


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
