"""A figure: a chart with its title and the numbers it shows."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt

from api.charts.theme import configuration

Row = dict[str, Any]


@dataclass(frozen=True)
class Canvas:
    """Collects the rows of a figure's layers, so that they are in its document once, and untouched.

    Inside altair's objects every row would be checked against a schema: seconds for some thousand rows.

    Attributes:
        tables: rows by the name of the table.
    """

    tables: dict[str, list[Row]] = field(default_factory=dict)

    def draw(self, rows: Sequence[Row], name: str = "layer") -> alt.Chart:
        """Return a chart of ``rows``; ``name`` begins the name of their table."""
        taken = f"{name} {1 + sum(table.startswith(name) for table in self.tables)}"
        self.tables[taken] = list(rows)
        return alt.Chart(alt.NamedData(name=taken))


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
        title: what is seen.
        chart: without title and configuration.
        canvas: what was drawn on.
        subtitle: what to know when looking at it; empty where there is nothing.
        line: characters of a line of the title, where the chart is narrow: a longer one would widen the picture.
    """

    title: str
    chart: alt.LayerChart | alt.ConcatChart | alt.HConcatChart | alt.VConcatChart
    canvas: Canvas
    subtitle: str = ""
    line: int | None = None

    def document(self) -> dict[str, Any]:
        """Return the figure as a Vega-Lite document that needs nothing else."""
        chart = self.chart
        if self.title:
            # The subtitle's letters are two thirds as wide.
            subtitle = _lines(self.subtitle, self.line and self.line * 3 // 2) if self.subtitle else alt.Undefined
            words = _lines(self.title, self.line)
            title = alt.TitleParams(words, subtitle=subtitle, fontSize=19, subtitlePadding=6, offset=20)
            chart = chart.properties(title=title)
        document: dict[str, Any] = chart.configure(**configuration()).to_dict()
        return document | {"datasets": self.canvas.tables}


def _lines(text: str, width: int | None) -> str | list[str]:
    lines = [text] if width is None else textwrap.wrap(text, width)
    return lines if len(lines) > 1 else text
