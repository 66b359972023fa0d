"""Exact statistics for shares of samples."""

from scipy import stats


def clopper_pearson(hits: int, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval for a share of which ``hits`` in ``samples`` were seen.

    Source: Clopper & Pearson, Biometrika 26, 1934.

    Raises:
        ValueError: no samples, or more hits than samples.
    """
    if not 0 <= hits <= samples or samples == 0:
        raise ValueError(f"{hits} hits in {samples} samples")
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(stats.beta.ppf(tail, hits, samples - hits + 1))
    high = 1.0 if hits == samples else float(stats.beta.ppf(1 - tail, hits + 1, samples - hits))
    return low, high


def mcnemar_exact(only_first_right: int, only_second_right: int) -> float:
    """Return the two-sided p-value that two classifiers on the same samples are equally accurate.

    Only the samples on which exactly one of them is right count. Source: McNemar 1947, exact binomial form.
    """
    discordant = only_first_right + only_second_right
    if discordant == 0:
        return 1.0
    return float(stats.binomtest(only_first_right, discordant, 0.5).pvalue)


def samples_to_decide(share: float, epsilon: float, *, more_than: int = 0, limit: int = 100_000_000) -> int | None:
    """Return how many samples decide whether a share is above ``epsilon``, if it stays as observed.

    A size above ``more_than`` at which the Clopper-Pearson interval around ``round(share n)`` hits excludes
    ``epsilon``, found by doubling and bisection: the smallest one but for the rounding of the hits to an integer.
    None when not even ``limit`` would do (the share is ``epsilon``, or next to it).
    """

    def decides(samples: int) -> bool:
        low, high = clopper_pearson(round(share * samples), samples)
        return high <= epsilon or low > epsilon

    low, high = more_than, more_than + 1
    while not decides(high):
        low, high = high, 2 * high
        if high > limit:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
