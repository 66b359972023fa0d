"""What happened over a training: panels of metric series, one below the other, on one axis of iterations."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from api.charts.figure import Canvas, Row
from api.charts.material import Series
from api.charts.theme import PALETTE

WIDTH, HEIGHT = 620, 170
_SMOOTH_OVER = 50  # windows across the width: what is between is noise of single batches


def iterations(last: int) -> alt.X:
    """Return the axis of iterations."""
    return alt.X(
        "iteration:Q",
        scale=alt.Scale(domain=[0, max(last, 1)], nice=False),
        axis=alt.Axis(title="iteration", grid=False, format=",d", tickCount=8),
    )


def last_iteration(series: Series) -> int:
    """Return the last iteration of all series."""
    return max((points[-1][0] for points in series.values() if points), default=1)


def rows_of(series: Series, name: str, **labels: Any) -> list[Row]:
    """Return a series as rows; values that were not finite are left out."""
    return [{"iteration": step, "value": value, **labels} for step, value in series.get(name, ()) if value is not None]


def smoothed(rows: Sequence[Row]) -> list[Row]:
    """Return means over windows of equally many points: about fifty in all, or the rows if there are not many more."""
    window = math.ceil(len(rows) / _SMOOTH_OVER)
    if window <= 2:
        return list(rows)
    means = []
    for start in range(0, len(rows), window):
        part = rows[start : start + window]
        middle = part[len(part) // 2]
        means.append(middle | {"value": sum(row["value"] for row in part) / len(part)})
    return means


def accuracy_panel(
    canvas: Canvas, rows: Sequence[Row], x: alt.X, title: str = "accuracy on the batch"
) -> alt.LayerChart:
    """Return the accuracy of each batch, pale, and its mean over windows."""
    y = alt.Y("value:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(title=title, format="%", tickCount=5))
    return noisy_panel(canvas, rows, x, y, PALETTE[0])


def noisy_panel(canvas: Canvas, rows: Sequence[Row], x: alt.X, y: alt.Y, colour: str) -> alt.LayerChart:
    """Return a series as pale points and, as a line, its mean over windows."""
    points = canvas.draw(rows, "points").mark_point(size=6, filled=True, opacity=0.25, color=colour)
    line = canvas.draw(smoothed(rows), "means").mark_line(strokeWidth=2, color=colour)
    return alt.LayerChart(layer=[points.encode(x=x, y=y), line.encode(x=x, y=y)]).properties(width=WIDTH, height=HEIGHT)


def step_line(canvas: Canvas, rows: Sequence[Row], x: alt.X, y: alt.Y, colour: str) -> alt.Chart:
    """Return a series that keeps its value until the next point."""
    changes = [
        row
        for number, row in enumerate(rows)
        if number in (0, len(rows) - 1) or row["value"] != rows[number - 1]["value"]
    ]
    line: alt.Chart = (
        canvas.draw(changes, "steps").mark_line(interpolate="step-after", strokeWidth=2, color=colour).encode(x=x, y=y)
    )
    return line
