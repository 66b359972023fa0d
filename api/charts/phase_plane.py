"""What all pictures of the phase plane share: panels, the classes' colours, the line between two classes."""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from api.charts.figure import Canvas, Row
from api.charts.material import Portrait
from api.charts.theme import INK, PALETTE

WIDTH, HEIGHT = 330, 330  # pixels of a panel
_CORE = 0.7  # of the points, the nearest: so that a whole error fan of four may be far from the others
_FAR = 3.0  # times as far from the middle as the core
_WORTH_LEAVING_OUT = 1.5  # times smaller the plane has to be without the far ones
_BEYOND = 0.05  # of a plane's side: how far a line is drawn beyond the edges at which it is clipped


Plane = Mapping[str, Sequence[float]]
"""The edges of a plane along ``x`` and ``y``."""

Names = tuple[str, str]
STATES: Names = ("z1", "z2")
FINAL_STATES: Names = ("z1 at the end", "z2 at the end")
INPUTS: Names = ("x1", "x2")


def axes(plane: Plane, names: Names = STATES) -> tuple[alt.X, alt.Y]:
    """Return the axes of a plane; marks beyond its edges are to be clipped."""
    x = alt.X("x:Q", scale=_scale(plane["x"]), axis=_axis(names[0]))
    y = alt.Y("y:Q", scale=_scale(plane["y"]), axis=_axis(names[1]))
    return x, y


def _scale(edges: Sequence[float]) -> alt.Scale:
    return alt.Scale(domain=list(edges), nice=False, zero=False)


def _axis(name: str) -> alt.Axis:
    return alt.Axis(title=name, grid=False, tickCount=5, titlePadding=4, labelOverlap=True)


def class_colour(classes: int, legend: str = "true class") -> alt.Color:
    """Return the colours of the classes, with their legend."""
    domain = list(range(classes))
    return alt.Color(
        "class:N",
        scale=alt.Scale(domain=domain, range=[PALETTE[label % len(PALETTE)] for label in domain]),
        legend=alt.Legend(title=legend, symbolType="circle", symbolOpacity=1),
    )


def panel(layers: Sequence[alt.Chart], title: str, subtitle: Sequence[str]) -> alt.LayerChart:
    """Return a panel with its title; as many lines of ``subtitle`` in all panels of a row keep them level."""
    heading = alt.TitleParams(title, subtitle=list(subtitle), fontSize=15, subtitlePadding=4, offset=10)
    return alt.LayerChart(layer=list(layers)).properties(width=WIDTH, height=HEIGHT, title=heading)


def panels_of(panels: Sequence[alt.LayerChart], heading: str) -> alt.HConcatChart:
    """Return a row of panels below a heading."""
    title = alt.TitleParams(heading, fontSize=14, fontWeight="normal", offset=12)
    return alt.HConcatChart(hconcat=list(panels), spacing=24).properties(title=title)


def line_across(line: Mapping[str, Any] | None, plane: Plane) -> list[Row]:
    """Return the two points where ``normal . z + offset = 0`` enters and leaves a plane; none where it misses it."""
    if line is None:
        return []
    (nx, ny), offset = line["normal"], line["offset"]
    (x0, x1), (y0, y1) = plane["x"], plane["y"]
    points = []
    if ny:
        points += [(x, -(nx * x + offset) / ny) for x in (x0, x1)]
    if nx:
        points += [(-(ny * y + offset) / nx, y) for y in (y0, y1)]
    slack = 1e-9 * max(x1 - x0, y1 - y0)
    inside = [(x, y) for x, y in points if x0 - slack <= x <= x1 + slack and y0 - slack <= y <= y1 + slack]
    if len(inside) < 2 or min(inside) == max(inside):
        return []
    return [{"x": x, "y": y} for x, y in (min(inside), max(inside))]


def decision_line(canvas: Canvas, line: Mapping[str, Any] | None, plane: Plane, names: Names) -> list[alt.Chart]:
    """Return the layer of the classifier's line in a plane, dashed; none where there is none."""
    ends = line_across(line, plane)
    if not ends:
        return []
    x, y = axes(plane, names)
    return [canvas.draw(ends, "line").mark_line(color=INK, strokeDash=[6, 4], strokeWidth=1.8).encode(x=x, y=y)]


def region_layer(
    canvas: Canvas,
    regions: Sequence[Sequence[int]],
    plane: Plane,
    classes: int,
    names: Names,
    legend: str = "true class",
) -> alt.Chart:
    """Return the layer of the classes' regions, pale."""
    x, y = axes(plane, names)
    layer: alt.Chart = (
        canvas.draw(_cells(regions, plane), "regions")
        .mark_rect(opacity=0.22, clip=True, strokeWidth=0)
        .encode(x=x, y=y, x2="x2:Q", y2="y2:Q", color=class_colour(classes, legend))
    )
    return layer


def _cells(regions: Sequence[Sequence[int]], plane: Plane) -> list[Row]:
    """Return the cells of a grid of classes, runs of one class in a row joined; -1 (no prediction) left out."""
    (x0, x1), (y0, y1) = plane["x"], plane["y"]
    count = len(regions)
    width, height = (x1 - x0) / count, (y1 - y0) / count
    rows: list[Row] = []
    for number, row in enumerate(regions):
        low, start = y0 + number * height, 0
        for end in range(1, count + 1):
            if end < count and row[end] == row[start]:
                continue
            if row[start] >= 0:
                sides = {"x": x0 + start * width, "x2": x0 + end * width, "y": low, "y2": low + height}
                rows.append(sides | {"class": row[start]})
            start = end
    return rows


def clipped(points: Sequence[Row], plane: Plane) -> Iterator[Row]:
    """Yield the points of a line within a plane, and where it enters and leaves, each with the ``part`` it belongs to.

    Lines that run far beyond the edges take long to draw. ``x`` or ``y`` None ends a part.

    Args:
        points: rows with ``x`` and ``y``, in order.
        plane: the plane; a little more of the line is kept.
    """
    edges = []
    for axis in ("x", "y"):
        low, high = plane[axis]
        edges.append((low - _BEYOND * (high - low), high + _BEYOND * (high - low)))
    part, whole = 0, False
    for here, there in itertools.pairwise(points):
        shares = _shares_inside(here, there, edges)
        if shares is None:
            whole = False
            continue
        enter, leave = shares
        if not whole:
            part += 1
            yield here | _between(here, there, enter) | {"part": part}
        yield there | _between(here, there, leave) | {"part": part}
        whole = leave == 1.0
    if len(points) == 1:
        yield points[0] | {"part": 1}


def _shares_inside(here: Row, there: Row, edges: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Return at which shares of a segment it enters and leaves a rectangle (Liang and Barsky), None if it misses."""
    enter, leave = 0.0, 1.0
    for axis, (low, high) in zip(("x", "y"), edges, strict=True):
        a, b = here[axis], there[axis]
        if a is None or b is None:
            return None
        if a == b:
            if not low <= a <= high:
                return None
            continue
        first, last = sorted(((low - a) / (b - a), (high - a) / (b - a)))
        enter, leave = max(enter, first), min(leave, last)
    return (enter, leave) if enter <= leave else None


def _between(here: Row, there: Row, share: float) -> Row:
    if share in (0.0, 1.0):
        end = there if share else here
        return {"x": end["x"], "y": end["y"]}
    return {axis: here[axis] + share * (there[axis] - here[axis]) for axis in ("x", "y")}


def within(points: Sequence[Row], plane: Plane) -> list[Row]:
    """Return the points that lie in a plane."""
    (x0, x1), (y0, y1) = plane["x"], plane["y"]
    return [
        point
        for point in points
        if point["x"] is not None and point["y"] is not None and x0 <= point["x"] <= x1 and y0 <= point["y"] <= y1
    ]


def around(points: Sequence[Row], padding: float = 0.1) -> Plane:
    """Return the plane that holds all points, with some space around them."""
    sides = {}
    ranges = {axis: (min(p[axis] for p in points), max(p[axis] for p in points)) for axis in ("x", "y")}
    longest = max(high - low for low, high in ranges.values()) or 1.0
    for axis, (low, high) in ranges.items():
        half = max(high - low, longest / 10) * (0.5 + padding)
        sides[axis] = [(low + high) / 2 - half, (low + high) / 2 + half]
    return sides


def around_most(points: Sequence[Row]) -> Plane:
    """Return the plane that holds the points but those that are far from all others, if it is much smaller then.

    Far: more than three times as far from the middle as 70 % of the points, the middle being the median.
    """
    everything = around(points)
    middle = {axis: statistics.median(point[axis] for point in points) for axis in ("x", "y")}
    distances = [max(abs(point[axis] - middle[axis]) for axis in middle) for point in points]
    core = sorted(distances)[math.ceil(_CORE * len(points)) - 1]
    most = around([point for point, distance in zip(points, distances, strict=True) if distance <= _FAR * core])
    return most if core and _longer_side(most) * _WORTH_LEAVING_OUT <= _longer_side(everything) else everything


def _longer_side(plane: Plane) -> float:
    return max(plane[axis][1] - plane[axis][0] for axis in ("x", "y"))


def percent(share: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * share:.1f} %"


def name_of(portrait: Portrait) -> str:
    """Return the model version of a portrait, with what it was trained with."""
    train = portrait["train_solver"]
    if "steps" in train:
        grid = f"-{train['steps']}"
    elif "step_size" in train:
        grid = f" h={train['step_size']:g}"
    else:
        grid = f" rtol={train['rtol']:g}"
    return f"{portrait['model']} version {portrait['version']}, trained with {train['method']}{grid}"


def step_of(view: Mapping[str, Any]) -> str:
    """Return the step size of a view in words."""
    return f"step {view['step']:.3g}"


def thinned(points: Sequence[Any], most: int) -> list[Any]:
    """Return at most about ``most`` of the points, evenly, with the last."""
    stride = math.ceil(len(points) / most)
    return list(points) if stride <= 1 else [*points[:-1:stride], points[-1]]


def views_and_exact(portrait: Portrait) -> list[tuple[Mapping[str, Any], str, str]]:
    """Return each view with its name and its step in words, and last the exact flow."""
    views = [(view, view["label"], step_of(view)) for view in portrait["views"]]
    return [*views, (portrait["reference"], "exact flow", "no step size")]
