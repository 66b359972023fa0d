"""Where the samples end, and on which side of the classifier's line, at two step sizes and exactly."""

from collections.abc import Mapping
from typing import Any

import altair as alt

from api.charts.figure import Canvas, Figure
from api.charts.material import Portrait
from api.charts.phase_plane import (
    FINAL_STATES,
    axes,
    class_colour,
    decision_line,
    name_of,
    panel,
    panels_of,
    percent,
    region_layer,
    views_and_exact,
    within,
)


def output_clusters(portrait: Portrait) -> Figure:
    """Draw the final states by their true class, over the regions in which the classifier reads each class.

    Args:
        portrait: the result of a portrait job.
    """
    canvas = Canvas()
    panels = [_panel(canvas, portrait, view, name, step) for view, name, step in views_and_exact(portrait)]
    title = "Where samples end; shaded: the class that is read off there"
    return Figure(title, alt.VConcatChart(vconcat=[panels_of(panels, name_of(portrait))]), canvas)


def _panel(canvas: Canvas, portrait: Portrait, view: Mapping[str, Any], name: str, step: str) -> alt.LayerChart:
    final, classes = view["final"], portrait["classes"]
    plane = final["plane"]
    x, y = axes(plane, FINAL_STATES)
    points = [
        {"x": z[0], "y": z[1], "class": label, "predicted": predicted}
        for z, label, predicted in zip(final["states"], portrait["labels"], final["predictions"], strict=True)
    ]
    shown = within(points, plane)
    separation, beyond = view["separation"], len(points) - len(shown)
    about = [
        f"{step}; accuracy {percent(view['accuracy'])}",
        f"best line's relative margin {separation['relative_margin']:+.2g}" if separation else "",
        f"{beyond} of {len(points)} states beyond the edges" if beyond else "",
    ]
    layers = [
        region_layer(canvas, final["regions"], plane, classes, FINAL_STATES),
        *decision_line(canvas, portrait["decision_line"], plane, FINAL_STATES),
        canvas.draw(shown, "final states")
        .mark_point(size=70 if len(points) <= 20 else 14, filled=True, opacity=0.8)
        .encode(x=x, y=y, color=class_colour(classes), tooltip=["class:N", "predicted:N", "x:Q", "y:Q"]),
    ]
    return panel(layers, name, about)
