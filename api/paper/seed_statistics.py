"""Mean and standard deviation over seeds, as the tables print them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class OverSeeds:
    """One number of every seed.

    Attributes:
        values: those that are there.
        missing: seeds without one, for example those whose training diverged.
    """

    values: tuple[float, ...]
    missing: int = 0

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "OverSeeds":
        """Return the numbers; None and what is not finite count as missing."""
        given = list(values)
        known = tuple(value for value in given if value is not None and math.isfinite(value))
        return cls(known, len(given) - len(known))

    @property
    def mean(self) -> float | None:
        """Their mean; None without a number."""
        return sum(self.values) / len(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Their standard deviation with n - 1 in the denominator; None below two numbers."""
        mean = self.mean
        if mean is None or len(self.values) < 2:
            return None
        return math.sqrt(sum((value - mean) ** 2 for value in self.values) / (len(self.values) - 1))


def spread(values: Iterable[float | None], *, digits: int = 1, factor: float = 1.0) -> str:
    """Return ``mean ± deviation`` with ``digits`` after the point, each number times ``factor``; a dash for none.

    Missing seeds are told.
    """
    numbers = OverSeeds.of(values)
    scaled = OverSeeds(tuple(factor * value for value in numbers.values))
    if scaled.mean is None:
        return "-" if not numbers.missing else f"- ({numbers.missing} missing)"
    text = f"{scaled.mean:.{digits}f}"
    if scaled.deviation is not None:
        text += f" ± {scaled.deviation:.{digits}f}"
    return text + (f" ({numbers.missing} missing)" if numbers.missing else "")


def percent(values: Iterable[float | None]) -> str:
    """Return shares as ``mean ± deviation`` in percent."""
    return spread(values, digits=1, factor=100.0)


def seeds_in_words(seeds: Sequence[int]) -> str:
    """Return seeds for a sentence: ``seed 3`` or ``seeds 1, 3``."""
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))
