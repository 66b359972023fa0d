"""What is predicted for the inputs of a plane, at two step sizes and exactly."""

from collections.abc import Mapping
from typing import Any

import altair as alt

from api.charts.figure import Canvas, Figure
from api.charts.material import NothingToDraw, Portrait
from api.charts.phase_plane import (
    INPUTS,
    axes,
    class_colour,
    name_of,
    panel,
    panels_of,
    percent,
    region_layer,
    views_and_exact,
)


def decision_regions(portrait: Portrait) -> Figure:
    """Draw the regions of the plane of inputs by the class predicted there, and the samples by their true class.

    Args:
        portrait: the result of a portrait job.

    Raises:
        NothingToDraw: the inputs are not points of a plane.
    """
    if portrait["input_plane"] is None:
        raise NothingToDraw("the model's inputs are not points of a plane, so it has no regions to draw")
    canvas = Canvas()
    panels = [_panel(canvas, portrait, view, name, step) for view, name, step in views_and_exact(portrait)]
    title = "Inputs by true class; shaded: the class that is predicted"
    return Figure(title, alt.VConcatChart(vconcat=[panels_of(panels, name_of(portrait))]), canvas)


def _panel(canvas: Canvas, portrait: Portrait, view: Mapping[str, Any], name: str, step: str) -> alt.LayerChart:
    plane, classes = portrait["input_plane"], portrait["classes"]
    x, y = axes(plane, INPUTS)
    points = [
        {"x": x, "y": y, "class": label} for (x, y), label in zip(portrait["inputs"], portrait["labels"], strict=True)
    ]
    layers = [
        region_layer(canvas, view["input_regions"], plane, classes, INPUTS),
        canvas.draw(points, "inputs")
        .mark_point(size=70 if len(points) <= 20 else 10, filled=True, opacity=0.75)
        .encode(x=x, y=y, color=class_colour(classes)),
    ]
    return panel(layers, name, [f"{step}; accuracy {percent(view['accuracy'])}"])
