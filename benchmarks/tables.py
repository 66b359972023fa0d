"""What a benchmark prints: a Markdown table, and below it each target with whether it was met."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A title, a line on what was measured, a header, rows of text, and lines below."""

    title: str
    what: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    below: Sequence[str] = ()

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [f"| {' | '.join(cells)} |" for cells in (self.header, *self.rows)]
        lines.insert(1, f"|{'---|' * len(self.header)}")
        below = [f"* {line}" for line in self.below]
        return "\n".join([f"## {self.title}", "", self.what, "", *lines, "", *below, ""])


def verdict(what: str, measured: float, target: float) -> str:
    """Return the line that holds a measured ratio against the most it should be.

    ``what`` says what is divided by what, for example ``odeness / torchdiffeq, time a step``.
    """
    excess = measured / target
    missed = f"missed by {excess - 1:.0%}" if excess < 2 else f"missed by a factor of {excess:.1f}"
    outcome = "met" if measured <= target else missed
    return f"Target: {what}, at most {ratio_text(target)}. Measured {ratio_text(measured)}: **{outcome}**."


def ratio_text(ratio: float) -> str:
    """Return a ratio as people read it: ``1/12`` for small ones, else a decimal."""
    return f"1/{1 / ratio:.3g}" if ratio < 0.7 else f"{ratio:.3f}"
