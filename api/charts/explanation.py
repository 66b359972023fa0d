"""How a model in the plane came to its predictions: with the solver asked for, and along the exact flow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from api.charts.figure import Canvas, Figure, Row
from api.charts.phase_plane import (
    INPUTS,
    STATES,
    Names,
    Plane,
    axes,
    class_colour,
    clipped,
    decision_line,
    panel,
    region_layer,
    within,
)
from api.charts.row_numbers import curve_number_layers, number_layers
from api.charts.theme import INK
from api.charts.vector_field import arrow_rows

_ARROWS = 21
_SIZE = 440
_NUMBERED = 12  # rows; of more the numbers would lie on one another
_STEPS_MARKED = 32
_PREDICTED = "predicted class"
_GREY = "#777777"


@dataclass(frozen=True)
class ExplainedRows:
    """The predictions that are explained.

    Attributes:
        version: the model's name and version.
        solver: the one asked for.
        classes: how many there are.
        labels: predicted for each row; None where the solve failed.
        statuses: how each solve ended.
    """

    version: str
    solver: str
    classes: int
    labels: Sequence[int | None]
    statuses: Sequence[str]


def explanation_figure(explanation: Mapping[str, Any], rows: ExplainedRows) -> Figure:
    """Draw what was computed for some rows.

    Args:
        explanation: see ``ode_core.audit.explanation``.
        rows: what was predicted.
    """
    canvas = Canvas()
    in_states = explanation["of"] == "states"
    panels = _of_states(canvas, explanation, rows) if in_states else _of_inputs(canvas, explanation, rows)
    chart = alt.HConcatChart(hconcat=panels, spacing=90, bounds="flush")
    return Figure(f"How {rows.version} predicts with {rows.solver}", chart, canvas, _verdict(explanation, rows))


def _verdict(explanation: Mapping[str, Any], rows: ExplainedRows) -> str:
    """Return in words which rows the exact flow predicts otherwise."""
    exact = explanation["exact_labels"]
    pairs = list(enumerate(zip(rows.labels, exact, strict=True)))
    otherwise = [row for row, (label, other) in pairs if label is not None and other >= 0 and label != other]
    unknown = [row for row, (_, other) in pairs if other < 0]
    failed = [row for row, label in enumerate(rows.labels) if label is None]
    said = [f"{len(otherwise) or 'none'} of {len(exact)} rows predicted otherwise along the exact flow"]
    if otherwise:
        said[0] += f": {_numbers(otherwise)}"
    if unknown:
        said.append(f"not known there: {_numbers(unknown)}")
    if failed:
        said.append(f"failed ({', '.join(sorted({rows.statuses[row] for row in failed}))}): {_numbers(failed)}")
    return "; ".join(said)


def _numbers(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:12]))
    return shown if len(rows) <= 12 else f"{shown}, ..."


def _of_states(canvas: Canvas, explanation: Mapping[str, Any], rows: ExplainedRows) -> list[alt.LayerChart]:
    asked = _curves_of(explanation["times"], explanation["states"], rows)
    exact = _curves_of(explanation["exact_times"], explanation["exact_states"], rows)
    exact_ends = [
        curve[-1] | {"class": label}
        for curve, label in zip(exact, explanation["exact_labels"], strict=True)
        if label >= 0
    ]
    plane, exact_plane = explanation["plane"], explanation["exact_plane"]
    marked = explanation["own_steps"] and len(explanation["times"]) <= _STEPS_MARKED + 1
    solver = f"solid: {rows.solver}{', a dot each step' if marked else ''}"
    exact_layers = _exact_layers(canvas, exact, exact_ends, plane, rows)
    layers = [*_background(canvas, explanation, plane, rows), *exact_layers]
    layers += [*_curves(canvas, asked, plane, rows), *_marks(canvas, asked, plane, rows, marked)]
    dashed = "dashed, to the diamonds: the exact flow"
    away = "; it leaves this plane" if exact_plane is not None else _leaving(exact, plane)
    panels = [_plane_panel(layers, rows.solver, [f"{solver}{_leaving(asked, plane)}", f"{dashed}{away}"])]
    if exact_plane is not None:
        layers = [
            *_background(canvas, explanation, exact_plane, rows),
            *_exact_layers(canvas, exact, exact_ends, exact_plane, rows),
            _starts(canvas, exact, exact_plane),
        ]
        if len(rows.labels) <= _NUMBERED:
            layers += _row_numbers(canvas, within(exact_ends, exact_plane), exact_plane)
        panels.append(
            _plane_panel(layers, "exact flow", [f"in a plane of its own{_leaving(exact, exact_plane)}", dashed])
        )
    distances = _distances(canvas, explanation, rows)
    return panels if distances is None else [*panels, distances]


def _plane_panel(layers: Sequence[alt.Chart], name: str, about: Sequence[str]) -> alt.LayerChart:
    lines = [*about, "shaded: the class read off at the end; arrows: the field at t = 0"]
    return panel(layers, name, lines).properties(width=_SIZE, height=_SIZE)


def _background(
    canvas: Canvas, explanation: Mapping[str, Any], plane: Mapping[str, Any], rows: ExplainedRows
) -> list[alt.Chart]:
    """Return the layers of the classes' regions, the field, and the classifier's line."""
    x, y = axes(plane)
    # An arrow's angle counts clockwise from the top.
    angle = alt.Angle("angle:Q", scale=alt.Scale(domain=[0, 360], range=[0, 360]))
    return [
        region_layer(canvas, plane["regions"], plane, rows.classes, STATES, _PREDICTED),
        canvas.draw(arrow_rows(plane["arrows"], plane, _ARROWS), "field")
        .mark_point(shape="arrow", size=0.5 * (_SIZE / _ARROWS) ** 2, filled=True, color="#9A9A9A", opacity=0.6)
        .encode(x=x, y=y, angle=angle, tooltip=["u:Q", "v:Q", "speed:Q"]),
        *decision_line(canvas, explanation["decision_line"], plane, STATES),
    ]


def _exact_layers(
    canvas: Canvas, curves: Sequence[Sequence[Row]], ends: Sequence[Row], plane: Plane, rows: ExplainedRows
) -> list[alt.Chart]:
    x, y = axes(plane)
    return [
        canvas.draw([point for curve in curves for point in clipped(curve, plane)], "exact states")
        .mark_line(strokeWidth=1.1, strokeDash=[3, 3], opacity=0.85, color=INK, clip=True)
        .encode(x=x, y=y, detail=["row:N", "part:N"], order="t:Q"),
        canvas.draw(within(ends, plane), "exact ends")
        .mark_point(shape="diamond", size=70, filled=False, strokeWidth=1.8, opacity=1)
        .encode(x=x, y=y, color=class_colour(rows.classes, _PREDICTED), tooltip=["row:Q", "class:N"]),
    ]


def _marks(
    canvas: Canvas, curves: Sequence[Sequence[Row]], plane: Plane, rows: ExplainedRows, marked: bool
) -> list[alt.Chart]:
    """Return the layers of where the rows start and end, and of their steps where these are marked."""
    x, y = axes(plane)
    colour = class_colour(rows.classes, _PREDICTED)
    known = [curve for curve in curves if curve[0]["class"] is not None]
    ends = within([curve[-1] for curve in known], plane)
    layers = [_starts(canvas, curves, plane)]
    if marked:
        layers.append(
            canvas.draw(within([point for curve in known for point in curve[1:-1]], plane), "steps")
            .mark_point(size=16, filled=True, opacity=0.9)
            .encode(x=x, y=y, color=colour, tooltip=["row:Q", "t:Q"])
        )
    layers.append(
        canvas.draw(ends, "ends")
        .mark_point(size=70, filled=True, opacity=1, stroke="white", strokeWidth=0.8)
        .encode(x=x, y=y, color=colour, tooltip=["row:Q", "class:N"])
    )
    if len(rows.labels) <= _NUMBERED:
        layers += _row_numbers(canvas, ends, plane)
    return layers


def _starts(canvas: Canvas, curves: Sequence[Sequence[Row]], plane: Plane) -> alt.Chart:
    x, y = axes(plane)
    starts: alt.Chart = (
        canvas.draw(within([curve[0] for curve in curves], plane), "starts")
        .mark_point(size=26, filled=True, fill="white", stroke=INK, strokeWidth=1, opacity=1)
        .encode(x=x, y=y, tooltip=["row:Q"])
    )
    return starts


def _curves_of(times: Sequence[float], states: Sequence[Any], rows: ExplainedRows) -> list[list[Row]]:
    return [
        [{"x": z[0], "y": z[1], "t": t, "row": row, "class": label} for t, z in zip(times, curve, strict=True)]
        for row, (label, curve) in enumerate(zip(rows.labels, states, strict=True))
    ]


def _curves(canvas: Canvas, curves: Sequence[Sequence[Row]], plane: Plane, rows: ExplainedRows) -> list[alt.Chart]:
    """Return the layers of the curves that the solver made: by class, and grey where it failed."""
    x, y = axes(plane)
    layers = []
    for failed in (True, False):
        points = [point for curve in curves if (curve[0]["class"] is None) == failed for point in clipped(curve, plane)]
        if not points:
            continue
        line = canvas.draw(points, "failed states" if failed else "states").mark_line(
            strokeWidth=1.6, opacity=0.9, clip=True, color=_GREY
        )
        encoded = line.encode(x=x, y=y, detail=["row:N", "part:N"], order="t:Q")
        layers.append(encoded if failed else encoded.encode(color=class_colour(rows.classes, _PREDICTED)))
    return layers


def _row_numbers(canvas: Canvas, ends: Sequence[Row], plane: Plane, names: Names = STATES) -> list[alt.Chart]:
    (x0, x1), (y0, y1) = plane["x"], plane["y"]
    pixels = [(_SIZE * (end["x"] - x0) / (x1 - x0), _SIZE * (y1 - end["y"]) / (y1 - y0)) for end in ends]
    return number_layers(canvas, ends, pixels, *axes(plane, names), (_SIZE, _SIZE))


def _leaving(curves: Sequence[Sequence[Row]], plane: Plane) -> str:
    """Return in words which rows leave a plane, nothing where none does."""
    rows = [curve[0]["row"] for curve in curves if len(within(curve, plane)) < len(curve)]
    if not rows:
        return ""
    return f"; row {rows[0]} leaves this plane" if len(rows) == 1 else f"; rows {_numbers(rows)} leave this plane"


def _distances(canvas: Canvas, explanation: Mapping[str, Any], rows: ExplainedRows) -> alt.LayerChart | None:
    """Return the panel of the distances from the exact flow; None where they are less than it is known."""
    points = [
        {"t": t, "distance": distance, "row": row, "class": label}
        for row, (label, distances) in enumerate(zip(rows.labels, explanation["distances"], strict=True))
        for t, distance in zip(explanation["times"], distances, strict=True)
        if label is not None
    ]
    if all(point["distance"] is None for point in points):
        return None
    known = [point["distance"] for point in points if point["distance"] is not None]
    low, high = math.log(min(known)) - 0.1, math.log(max(known)) + 0.1
    x = alt.X(
        "t:Q",
        scale=alt.Scale(domain=[0, explanation["end_time"]]),
        axis=alt.Axis(title="t", grid=False, tickCount=5),
    )
    y = alt.Y(
        "distance:Q",
        scale=alt.Scale(type="log", domain=[math.exp(low), math.exp(high)]),
        axis=alt.Axis(title="distance of the state", tickCount=6, format="~g" if max(known) < 1e5 else "~e"),
    )
    dots = alt.OverlayMarkDef(size=16, filled=True) if explanation["own_steps"] else alt.Undefined
    line = (
        canvas.draw(points, "distances")  # one that is None ends a part of the line
        .mark_line(strokeWidth=1.4, opacity=0.85, point=dots)
        .encode(
            x=x,
            y=y,
            color=class_colour(rows.classes, _PREDICTED),
            detail="row:N",
            tooltip=["row:Q", "t:Q", "distance:Q"],
        )
    )
    about = [f"of the states of {rows.solver}", "from the exact ones, where it is more", "than these are uncertain"]
    layers = [line]
    if len(rows.labels) <= _NUMBERED:
        ends = {point["row"]: point for point in points if point["distance"] is not None}
        heights = [_SIZE * (high - math.log(one["distance"])) / (high - low) for one in ends.values()]
        layers += curve_number_layers(canvas, list(ends.values()), heights, x, y)
    return panel(layers, "Distance", about).properties(width=_SIZE * 0.7, height=_SIZE)


def _of_inputs(canvas: Canvas, explanation: Mapping[str, Any], rows: ExplainedRows) -> list[alt.LayerChart]:
    exact = [None if label < 0 else label for label in explanation["exact_labels"]]
    return [
        _inputs_panel(canvas, explanation, "regions", rows.labels, rows.solver, rows),
        _inputs_panel(canvas, explanation, "exact_regions", exact, "exact flow", rows),
    ]


def _inputs_panel(
    canvas: Canvas,
    explanation: Mapping[str, Any],
    regions: str,
    labels: Sequence[int | None],
    name: str,
    rows: ExplainedRows,
) -> alt.LayerChart:
    plane, names = explanation["plane"], INPUTS
    x, y = axes(plane, names)
    points = [
        {"x": point[0], "y": point[1], "row": row, "class": label}
        for row, (point, label) in enumerate(zip(explanation["points"], labels, strict=True))
    ]
    layers = [
        region_layer(canvas, explanation[regions], plane, rows.classes, names, _PREDICTED),
        canvas.draw([one for one in points if one["class"] is None], "unclassified inputs")
        .mark_point(size=60, filled=False, strokeWidth=1.4, color=_GREY)
        .encode(x=x, y=y, tooltip=["row:Q"]),
        canvas.draw([one for one in points if one["class"] is not None], "inputs")
        .mark_point(size=70, filled=True, opacity=1, stroke="white", strokeWidth=0.8)
        .encode(x=x, y=y, color=class_colour(rows.classes, _PREDICTED), tooltip=["row:Q", "class:N"]),
    ]
    if len(rows.labels) <= _NUMBERED:
        layers += _row_numbers(canvas, points, plane, names)
    return panel(layers, name, ["inputs by predicted class; shaded: what is predicted for others"])
