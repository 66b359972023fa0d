"""Trajectories of two-dimensional samples, and where they cross."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from api.charts.figure import Canvas, Figure
from api.charts.material import Portrait
from api.charts.phase_plane import (
    axes,
    class_colour,
    clipped,
    name_of,
    panel,
    panels_of,
    percent,
    step_of,
    thinned,
    within,
)
from api.charts.theme import INK

_DRAWN_POINTS = 300  # of each trajectory
_WHY_COUNTED = (
    "Straight segments between the states of coarse steps can cross although the flow does not, "
    "which is why the count of exact states stands beside."
)
_CROSS = "M-1,-1L1,1M-1,1L1,-1"


def trajectories_with_crossings(portraits: Sequence[Portrait]) -> Figure:
    """Draw a row for each portrait: its two step sizes and the exact flow.

    Args:
        portraits: results of portrait jobs.
    """
    canvas = Canvas()
    rows = [_row(canvas, portrait) for portrait in portraits]
    title = "Trajectories in the phase plane: those of a flow cannot cross"
    # Of a field that depends on the time trajectories may cross.
    subtitle = _WHY_COUNTED if all(portrait["autonomous"] for portrait in portraits) else ""
    return Figure(title, alt.VConcatChart(vconcat=rows, spacing=30), canvas, subtitle)


def _row(canvas: Canvas, portrait: Portrait) -> alt.HConcatChart:
    panels = [
        _panel(canvas, portrait, view, view["label"], _about(portrait, view), view["crossings"]["shown"])
        for view in portrait["views"]
    ]
    reference = portrait["reference"]
    about = [f"no step size; accuracy {percent(reference['accuracy'])}", "", ""]
    return panels_of(
        [*panels, _panel(canvas, portrait, reference, "exact flow", about, [])],
        f"{name_of(portrait)}; {len(reference['trajectories']['states'])} samples",
    )


def _about(portrait: Portrait, view: Mapping[str, Any]) -> list[str]:
    crossings = view["crossings"]
    found = "1 crossing" if crossings["count"] == 1 else f"{crossings['count'] or 'no'} crossings"
    straight = crossings["of_exact_points"]
    known = "" if straight is None else f"{straight or 'none'} if exact states were joined instead"
    lines = [f"{step_of(view)}; accuracy {percent(view['accuracy'])}", found, known]
    if not portrait["autonomous"]:
        lines[2] = "the field depends on the time: they may cross"
    return lines


def _panel(
    canvas: Canvas,
    portrait: Portrait,
    view: Mapping[str, Any],
    name: str,
    about: list[str],
    crossings: Sequence[Mapping[str, Any]],
) -> alt.LayerChart:
    drawn, labels = view["trajectories"], portrait["labels"]
    plane = drawn["plane"]
    x, y = axes(plane)
    colour = class_colour(portrait["classes"])
    curves = [
        [
            {"x": z[0], "y": z[1], "t": t, "sample": sample, "class": labels[sample]}
            for t, z in thinned(list(zip(drawn["times"], states, strict=True)), _DRAWN_POINTS)
        ]
        for sample, states in enumerate(drawn["states"])
    ]
    ends = within([curve[-1] for curve in curves], plane)
    layers = [
        canvas.draw([point for curve in curves for point in clipped(curve, plane)], "states")
        .mark_line(strokeWidth=1.3, opacity=0.75, clip=True)
        .encode(x=x, y=y, color=colour, detail=["sample:N", "part:N"], order="t:Q"),
        canvas.draw(within([curve[0] for curve in curves], plane), "starts")
        .mark_point(size=12, filled=True, opacity=0.9, shape="circle")
        .encode(x=x, y=y, color=colour),
        canvas.draw(ends, "ends")
        .mark_point(size=42, filled=True, opacity=1, stroke="white", strokeWidth=0.7)
        .encode(x=x, y=y, color=colour, tooltip=["sample:Q", "class:N"]),
    ]
    meetings = within([{"x": each["at"][0], "y": each["at"][1], "step": each["step"]} for each in crossings], plane)
    if meetings:
        layers.append(
            canvas.draw(meetings, "crossings")
            .mark_point(shape=_CROSS, size=18, color=INK, strokeWidth=1.1, opacity=0.8)
            .encode(x=x, y=y, tooltip=["step:Q"])
        )
    beyond = len(curves) - len(ends)
    about = about if not beyond else [f"{about[0]}; {beyond} end beyond the edges", *about[1:]]
    return panel(layers, name, about)
