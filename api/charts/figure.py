"""A figure: a chart with its title and the numbers it shows."""

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
    """

    title: str
    chart: alt.LayerChart | alt.ConcatChart | alt.HConcatChart | alt.VConcatChart
    canvas: Canvas
    subtitle: str = ""

    def document(self) -> dict[str, Any]:
        """Return the figure as a Vega-Lite document that needs nothing else."""
        chart = self.chart
        if self.title:
            subtitle = self.subtitle or alt.Undefined
            title = alt.TitleParams(self.title, subtitle=subtitle, fontSize=19, subtitlePadding=6, offset=20)
            chart = chart.properties(title=title)
        document: dict[str, Any] = chart.configure(**configuration()).to_dict()
        return document | {"datasets": self.canvas.tables}
