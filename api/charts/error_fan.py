"""Lady Windermere's fan at two step sizes: exact continuations of a numerical solution, and where they end."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from api.charts.figure import Canvas, Figure, Row
from api.charts.material import NothingToDraw, Portrait
from api.charts.phase_plane import (
    FINAL_STATES,
    STATES,
    Names,
    Plane,
    around_most,
    axes,
    class_colour,
    clipped,
    decision_line,
    name_of,
    panel,
    panels_of,
    region_layer,
    step_of,
    thinned,
    within,
)
from api.charts.theme import INK

_DRAWN_POINTS = 500  # of each numerical solution
_STAR = "M0,-1L0.29,-0.4L0.95,-0.31L0.48,0.15L0.59,0.81L0,0.5L-0.59,0.81L-0.48,0.15L-0.95,-0.31L-0.29,-0.4Z"

Fans = Sequence[Mapping[str, Any]]


def error_fan(portrait: Portrait) -> Figure:
    """Draw for each of the two step sizes the fans of the samples and, below, how their ends are moved.

    A fan: the numerical solution, dark; from its grid points the exact flow is followed to the end, pale. Below it the
    ends of these continuations are joined in the order of their start: from the exact end (star) to the numerical one
    (square), each piece being the error of some steps as it arrives at the end.

    Args:
        portrait: the result of a portrait job.

    Raises:
        NothingToDraw: there is no fan that converged.
    """
    drawable = [[fan for fan in view["fans"] if fan["problem"] is None] for view in portrait["views"]]
    if not all(drawable):
        problems = {fan["problem"] for view in portrait["views"] for fan in view["fans"] if fan["problem"]}
        reason = "; ".join(sorted(problems)) or "the portrait was submitted with fan_samples 0"
        raise NothingToDraw(f"there is no fan to draw: {reason}")
    canvas = Canvas()
    views = list(zip(portrait["views"], drawable, strict=True))
    chart = alt.VConcatChart(
        vconcat=[
            panels_of([_fans(canvas, portrait, view, fans) for view, fans in views], name_of(portrait)),
            panels_of([_ends(canvas, portrait, view, fans) for view, fans in views], _KEY),
        ],
        spacing=26,
    )
    return Figure("Lady Windermere's fan: how the errors of single steps reach the end", chart, canvas)


_KEY = (
    "Their ends, joined in the order of their start; star: exact end, square: numerical end, dashed: classifier's line"
)


def _fans(canvas: Canvas, portrait: Portrait, view: Mapping[str, Any], fans: Fans) -> alt.LayerChart:
    numerical = [
        [
            {"x": z[0], "y": z[1], "t": t, "sample": fan["sample"], "class": fan["label"]}
            for t, z in thinned(
                list(zip(fan["numerical"]["times"], fan["numerical"]["states"], strict=True)), _DRAWN_POINTS
            )
        ]
        for fan in fans
    ]
    plane = around_most([*(point for line in numerical for point in line), *_ends_of(fans, 0)])
    continuations = [
        point
        for fan in fans
        for start, curve in zip(fan["starts"], fan["curves"], strict=True)
        for point in clipped(
            [
                {"x": z[0], "y": z[1], "point": k, "start": start, "sample": fan["sample"], "class": fan["label"]}
                for k, z in enumerate(curve)
            ],
            plane,
        )
    ]
    x, y = axes(plane)
    begin = min(line[0]["t"] for line in numerical)
    layers = [
        canvas.draw(continuations, "continuations")
        .mark_line(strokeWidth=0.9, opacity=0.45, clip=True)
        .encode(
            x=x, y=y, color=class_colour(portrait["classes"]), detail=["sample:N", "start:N", "part:N"], order="point:Q"
        ),
        canvas.draw([point for line in numerical for point in clipped(line, plane)], "numerical solutions")
        .mark_line(strokeWidth=1.4, color=INK, opacity=0.9, clip=True)
        .encode(x=x, y=y, detail=["sample:N", "part:N"], order="t:Q"),
        *_end_marks(canvas, fans, plane, portrait["classes"], STATES),
    ]
    span = f"; from t = {begin:.3g} on" if begin > 0 else ""
    left_out = [_missing(view), _beyond([*_ends_of(fans, 0), *_ends_of(fans, -1)], plane)]
    about = [
        f"{step_of(view)}{span}",
        "dark: numerical, pale: exact from its grid points on",
        "; ".join(part for part in left_out if part),
    ]
    return panel(layers, view["label"], about)


def _missing(view: Mapping[str, Any]) -> str:
    missing = sum(fan["problem"] is not None for fan in view["fans"])
    return f"{missing} of {len(view['fans'])} samples left out: did not converge" if missing else ""


def _beyond(ends: Sequence[Row], plane: Plane) -> str:
    beyond = len(ends) - len(within(ends, plane))
    return f"{beyond} of {len(ends)} ends beyond the edges" if beyond else ""


def _ends(canvas: Canvas, portrait: Portrait, view: Mapping[str, Any], fans: Fans) -> alt.LayerChart:
    moved_ends = [
        [
            {"x": z[0], "y": z[1], "start": start, "sample": fan["sample"], "class": fan["label"]}
            for start, z in zip([*fan["starts"], view["steps"]], fan["ends"], strict=True)
        ]
        for fan in fans
    ]
    everything = [row for line in moved_ends for row in line]
    plane, classes = around_most(everything), portrait["classes"]
    x, y = axes(plane, FINAL_STATES)
    layers = [
        *_half_planes(canvas, portrait, plane),
        *decision_line(canvas, portrait["decision_line"], plane, FINAL_STATES),
        canvas.draw([row for line in moved_ends for row in clipped(line, plane)], "joined ends")
        .mark_line(strokeWidth=1.4, clip=True)
        .encode(x=x, y=y, color=class_colour(classes), detail=["sample:N", "part:N"], order="start:Q"),
        canvas.draw(within(everything, plane), "ends")
        .mark_point(size=12, filled=True, opacity=1)
        .encode(x=x, y=y, color=class_colour(classes), tooltip=["start:Q"]),
        *_end_marks(canvas, fans, plane, classes, FINAL_STATES),
    ]
    wrong = sum(fan["margins"][-1] <= 0 for fan in fans)
    moved = sum((fan["margins"][0] > 0) != (fan["margins"][-1] > 0) for fan in fans)
    about = [
        f"of {len(fans)} numerical ends {'all right' if not wrong else f'{wrong} wrong'}",
        f"{moved or 'none'} in another class than the exact end",
        _beyond(everything, plane),
    ]
    return panel(layers, f"Ends of {view['label']}", about)


def _half_planes(canvas: Canvas, portrait: Portrait, plane: Plane, cells: int = 60) -> list[alt.Chart]:
    """Return the layer of the two classes' sides of the classifier's line; none where there is no line."""
    line = portrait["decision_line"]
    if line is None:
        return []
    (nx, ny), offset = line["normal"], line["offset"]
    (x0, x1), (y0, y1) = plane["x"], plane["y"]
    shares = [(k + 0.5) / cells for k in range(cells)]
    regions = [
        [int(nx * (x0 + s * (x1 - x0)) + ny * (y0 + t * (y1 - y0)) + offset > 0) for s in shares] for t in shares
    ]
    return [region_layer(canvas, regions, plane, portrait["classes"], FINAL_STATES)]


def _end_marks(canvas: Canvas, fans: Fans, plane: Plane, classes: int, names: Names) -> list[alt.Chart]:
    x, y = axes(plane, names)
    colour = class_colour(classes)
    return [
        canvas.draw(within(_ends_of(fans, 0), plane), "exact ends")
        .mark_point(shape=_STAR, size=80, filled=True, opacity=1, stroke=INK, strokeWidth=0.8)
        .encode(x=x, y=y, color=colour),
        canvas.draw(within(_ends_of(fans, -1), plane), "numerical ends")
        .mark_point(shape="square", size=70, filled=True, opacity=1, stroke=INK, strokeWidth=1.2)
        .encode(x=x, y=y, color=colour),
    ]


def _ends_of(fans: Fans, which: int) -> list[Row]:
    return [{"x": fan["ends"][which][0], "y": fan["ends"][which][1], "class": fan["label"]} for fan in fans]
