"""How many samples show an agreement with 95 % confidence. Without SciPy, for where solvers are chosen."""

import math
from collections.abc import Callable

TAIL = 0.025  # of a two-sided 95 % interval
# Tails that differ relatively by less are equal: their own round-off, 1e-13 for a thousand samples and 1e-9 for 10^8,
# and that of a limit which is an interval's end as it was printed, must decide nothing.
ROUND_OFF = 1e-8
MOST_SAMPLES = 100_000_000


def samples_without_disagreement(agreement: float) -> int | None:
    """Return how many samples, all of which agree, show ``agreement`` with 95 % confidence; None for 1.

    The Clopper-Pearson interval of ``n`` hits in ``n`` begins at ``0.025^(1/n)``.
    """
    if agreement >= 1:
        return None
    return max(1, math.ceil((math.log(TAIL) + ROUND_OFF) / math.log(agreement)))


def samples_that_show(agreement: float, disagreeing: int, samples: int) -> int | None:
    """Return about how many samples show ``agreement`` if ever as many disagree as ``disagreeing`` in ``samples`` do.

    More than ``samples``, found by doubling and bisection: the fewest but for the rounding of those that disagree to an
    integer. None where not even 10^8 do: the share that agrees is the agreement, next to it, or below.
    """
    share = disagreeing / samples
    if share >= 1 - agreement:
        return None

    def shows(size: int) -> bool:
        return _at_most(round(share * size), size, agreement) <= TAIL * (1 + ROUND_OFF)

    return first_enough(shows, samples)


def first_enough(enough: Callable[[int], bool], more_than: int, limit: int = MOST_SAMPLES) -> int | None:
    """Return a number of samples above ``more_than`` that is enough, by doubling and bisection.

    The smallest one where a number beyond an enough one is enough, too. None where none up to ``limit`` was found.
    """
    low, high = more_than, more_than + 1
    while not enough(high):
        low, high = high, 2 * high
        if high > limit:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _at_most(hits: int, samples: int, agreement: float) -> float:
    """Return ``P(X <= hits)`` of a binomial ``X`` with the share ``1 - agreement``, for ``hits`` below its mean.

    The largest term comes first. The share is not given itself, as it may round to 1 and would leave no agreement.
    """
    if agreement <= 0:
        return 0.0  # all disagree, and the hits are fewer
    share = 1 - agreement
    term = math.exp(
        math.lgamma(samples + 1)
        - math.lgamma(hits + 1)
        - math.lgamma(samples - hits + 1)
        + hits * math.log(share)
        + (samples - hits) * math.log(agreement)
    )
    total = 0.0
    while term > 1e-17 * total:
        total += term
        term *= hits * agreement / ((samples - hits + 1) * share)
        hits -= 1
    return total
