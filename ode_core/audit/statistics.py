"""Exact statistics for shares of samples."""

from scipy import stats

from ode_core.audit.shown_agreement import MOST_SAMPLES, ROUND_OFF, first_enough


def clopper_pearson(hits: int, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval for a share of which ``hits`` in ``samples`` were seen.

    Source: Clopper & Pearson, Biometrika 26, 1934.

    Raises:
        ValueError: no samples, or more hits than samples.
    """
    _check(hits, samples)
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(stats.beta.ppf(tail, hits, samples - hits + 1))
    high = 1.0 if hits == samples else float(stats.beta.ppf(1 - tail, hits + 1, samples - hits))
    return low, high


def is_at_most(hits: int, samples: int, limit: float, confidence: float = 0.95) -> bool:
    """Return whether ``hits`` in ``samples`` show a share of at most ``limit``: their interval ends there or below.

    Decided by the tail ``P(X <= hits)`` of the binomial distribution at ``limit`` itself, which does not depend on how
    the interval's end was rounded. A tail that is the permitted one but for ``ROUND_OFF`` counts as equal to it.

    Raises:
        ValueError: no samples, or more hits than samples.
    """
    _check(hits, samples)
    if limit >= 1:
        return True  # every interval ends there or below; where all are hits, the tail at 1 is 1
    return float(stats.binom.cdf(hits, samples, limit)) <= (1 - confidence) / 2 * (1 + ROUND_OFF)


def is_above(hits: int, samples: int, limit: float, confidence: float = 0.95) -> bool:
    """Return whether ``hits`` in ``samples`` show a share above ``limit``: their interval begins above it.

    Decided by the tail ``P(X >= hits)`` at ``limit``, as ``is_at_most``.

    Raises:
        ValueError: no samples, or more hits than samples.
    """
    _check(hits, samples)
    return float(stats.binom.sf(hits - 1, samples, limit)) < (1 - confidence) / 2 * (1 - ROUND_OFF)


def mcnemar_exact(only_first_right: int, only_second_right: int) -> float:
    """Return the two-sided p-value that two classifiers on the same samples are equally accurate.

    Only the samples on which exactly one of them is right count. Source: McNemar 1947, exact binomial form.
    """
    discordant = only_first_right + only_second_right
    if discordant == 0:
        return 1.0
    return float(stats.binomtest(only_first_right, discordant, 0.5).pvalue)


def samples_to_decide(share: float, epsilon: float, *, more_than: int = 0, limit: int = MOST_SAMPLES) -> int | None:
    """Return how many samples decide whether a share is above ``epsilon``, if it stays as observed.

    A size above ``more_than`` at which the Clopper-Pearson interval around ``round(share n)`` hits excludes
    ``epsilon``, found by doubling and bisection: the smallest one but for the rounding of the hits to an integer.
    None when not even ``limit`` would do (the share is ``epsilon``, or next to it).
    """

    def decides(samples: int) -> bool:
        hits = round(share * samples)
        return is_at_most(hits, samples, epsilon) or is_above(hits, samples, epsilon)

    return first_enough(decides, more_than, limit)


def _check(hits: int, samples: int) -> None:
    if not 0 <= hits <= samples or samples == 0:
        raise ValueError(f"{hits} hits in {samples} samples")
