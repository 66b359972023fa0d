"""Test accuracy against the steps or evaluations of the test solver, for each training configuration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from api.charts.figure import Canvas, Figure, Row
from api.charts.material import NothingToDraw, XAxis
from api.charts.theme import INK, PALETTE, SHAPES

TITLES: dict[XAxis, str] = {"steps": "steps of the test solver", "nfe": "evaluations of the field in a test solve"}

# More curves than this in one panel, and their bands and points hide one another.
_MOST_CURVES = 4
_MOST_PANELS = 60


def axis_for(rows: Sequence[Mapping[str, Any]], asked: XAxis | None) -> XAxis:
    """Return the axis asked for, or else the one that has a place for every row: steps, or evaluations."""
    return asked or ("steps" if all(row["test_steps"] for row in rows) else "nfe")


def left_out(rows: Sequence[Mapping[str, Any]], x: XAxis) -> str:
    """Return how many test solvers have no steps and are not on the axis, in words; empty where none is left out."""
    solvers = {str(sorted(row["test_solver"].items())) for row in rows if not row["test_steps"]}
    if x == "nfe" or not solvers:
        return ""
    plural = "solver" if len(solvers) == 1 else "solvers"
    return f"left out: {len(solvers)} test {plural} with tolerances (x=nfe shows all)"


@dataclass(frozen=True)
class _Layout:
    """What has a panel of its own and what a curve in it: test methods and training configurations, or the reverse."""

    panel: Literal["label", "method"]
    heading: str
    curve: Literal["label", "method"]
    curves: Sequence[str]
    legend: str
    columns: int
    width: int
    height: int

    @property
    def banded(self) -> bool:
        """Whether there are few enough curves in a panel to tell their bands apart."""
        return len(self.curves) <= _MOST_CURVES


@dataclass(frozen=True)
class _Axes:
    x: XAxis
    span: tuple[float, float]


def accuracy_of_study(rows: Sequence[Mapping[str, Any]], x: XAxis | None = None) -> Figure:
    """Draw accuracies by training configuration and test solver.

    Up to four configurations are curves, in a panel for each test method. More of them have a panel each, and in it a
    curve for each test method.

    Of several seeds: their mean as a line, one standard deviation around it as a band where a panel has few curves,
    each seed as a point. The test solver that a configuration was trained with is ringed; under step adaptation, where
    each seed has its own, ticks at the axis say with which they ended.

    Args:
        rows: one for each training configuration and test solver, with ``label``, ``train_solver``, ``adaptation``,
            ``test_solver``, ``test_method``, ``test_steps``, ``nfe``, ``accuracy`` (``mean``, ``sd``, ``n``,
            ``by_seed``) and ``failed_seeds``, of adapted ones ``final_steps``, too. Rows without a mean are left out,
            those without a place on the axis, too, which the subtitle says.
        x: what the axis shows; None for steps, or evaluations where some test solvers have no steps.

    Raises:
        NothingToDraw: no row has an accuracy and a place on the axis.
    """
    tested = [row for row in rows if row["accuracy"]["mean"] is not None]
    if not tested:
        raise NothingToDraw("no test has given an accuracy yet")
    x = axis_for(tested, x)
    points = [point for point in (_point(row, x) for row in tested) if point is not None]
    if not points:
        remedy = "" if x == "nfe" else "; test solvers with tolerances have evaluations only: ask for x=nfe"
        raise NothingToDraw(f"there is no accuracy with {TITLES[x]} to draw{remedy}")
    labels = list(dict.fromkeys(point["label"] for point in points))
    shown = set(labels[:_MOST_PANELS])
    points = [point for point in points if point["label"] in shown]
    ends = _ends(tested, shown) if x == "steps" else []
    places = [row["x"] for row in [*points, *ends]]
    canvas = Canvas()
    chart = _panels(canvas, points, ends, _layout(points), _Axes(x, (min(places), max(places))))
    notes = [
        "ringed: the solver of the training" if any(point["own"] for point in points) else "",
        "ticks: the steps each training ended with" if ends else "",
        left_out(tested, x),
        f"the first {_MOST_PANELS} of {len(labels):,} configurations" if len(labels) > _MOST_PANELS else "",
    ]
    return Figure(_title(rows, points), chart, canvas, "; ".join(note for note in notes if note))


def _title(rows: Sequence[Mapping[str, Any]], points: Sequence[Row]) -> str:
    seeds = max(point["n"] for point in points)
    failed = {(row["label"], seed) for row in rows for seed in row.get("failed_seeds", ())}
    title = "Test accuracy by training configuration"
    if seeds > 1:
        title += f": mean and standard deviation of {seeds} seeds"
    runs = "run" if len(failed) == 1 else "runs"
    return title if not failed else f"{title} ({len(failed)} {runs} failed)"


def _point(row: Mapping[str, Any], x: XAxis) -> Row | None:
    place = row["test_steps"] if x == "steps" else row["nfe"]
    accuracy = row["accuracy"]
    if not place:
        return None
    sd = accuracy["sd"] or 0.0
    return {
        "label": row["label"],
        "method": row["test_method"],
        "x": place,
        "accuracy": accuracy["mean"],
        "low": max(0.0, accuracy["mean"] - sd),
        "high": min(1.0, accuracy["mean"] + sd),
        "sd": accuracy["sd"],
        "n": accuracy["n"],
        "by_seed": accuracy["by_seed"],
        # Adapted, the seeds end with solvers of their own, and the row's is only what they began with.
        "own": row["test_solver"] == row["train_solver"] and row["adaptation"] is None,
    }


def _ends(rows: Sequence[Mapping[str, Any]], labels: set[str]) -> list[Row]:
    """Return the steps with which the adapted trainings ended, each in the panel of its own method."""
    adapted = {row["label"]: row for row in rows if row["adaptation"] is not None and row["label"] in labels}
    return [
        {"label": label, "method": row["train_method"], "x": steps, "seed": seed}
        for label, row in adapted.items()
        for seed, steps in row.get("final_steps", {}).get("by_seed", {}).items()
    ]


def _layout(points: Sequence[Row]) -> _Layout:
    labels = list(dict.fromkeys(point["label"] for point in points))
    methods = list(dict.fromkeys(point["method"] for point in points))
    if len(labels) <= _MOST_CURVES:
        return _Layout("method", "tested with", "label", labels, "trained with", columns=3, width=380, height=300)
    return _Layout("label", "trained with", "method", methods, "tested with", columns=4, width=230, height=170)


def _panels(
    canvas: Canvas, points: Sequence[Row], ends: Sequence[Row], layout: _Layout, axes: _Axes
) -> alt.ConcatChart:
    headings = list(dict.fromkeys(point[layout.panel] for point in points))
    lowest = len(headings) - layout.columns  # from here on no panel is below
    panels = [
        _panel(
            canvas,
            heading,
            [point for point in points if point[layout.panel] == heading],
            [end for end in ends if end[layout.panel] == heading],
            layout,
            _horizontal(axes, titled=number >= lowest),
            _vertical(titled=number % layout.columns == 0),
        )
        for number, heading in enumerate(headings)
    ]
    return alt.ConcatChart(concat=panels, columns=layout.columns, spacing=26)


def _panel(
    canvas: Canvas,
    name: str,
    points: Sequence[Row],
    ends: Sequence[Row],
    layout: _Layout,
    x: alt.X,
    y: alt.Y,
) -> alt.LayerChart:
    colour, shape = _colour(layout), _shape(layout)
    data = canvas.draw([{key: value for key, value in point.items() if key != "by_seed"} for point in points], name)
    about = ["label:N", "method:N", "x:Q", "accuracy:Q", "sd:Q", "n:Q"]
    # Adaptive solvers have no order along the axis but that of their evaluations, which is a line's, too.
    layers = [
        data.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour),
        data.mark_point(size=layout.height // 5, filled=True, opacity=1).encode(
            x=x, y=y, color=colour, shape=shape, tooltip=about
        ),
    ]
    seeds = _seeds(points)
    if seeds:
        dots = canvas.draw(seeds, "seeds").mark_point(size=10, filled=True, opacity=0.55)
        layers.insert(0, dots.encode(x=x, y=y, color=colour, tooltip=["label:N", "method:N", "seed:N", "accuracy:Q"]))
        if layout.banded:
            low = alt.Y("low:Q", scale=y["scale"], axis=y["axis"])
            layers.insert(0, data.mark_area(opacity=0.18).encode(x=x, y=low, y2="high:Q", color=colour))
    own = [point for point in points if point["own"]]
    if own:
        where = canvas.draw([{key: point[key] for key in ("label", "method", "x", "accuracy")} for point in own], "own")
        ring = where.mark_point(size=layout.height * 0.8, filled=False, color=INK, strokeWidth=1.8, opacity=1)
        layers.append(ring.encode(x=x, y=y))
    if ends:
        ticks = canvas.draw(ends, "ends").mark_tick(orient="vertical", size=14, thickness=2, opacity=0.9)
        tooltip = ["label:N", "seed:N", "x:Q"]
        layers.append(ticks.encode(x=x, y=alt.value(layout.height - 7), color=colour, tooltip=tooltip))
    title = alt.TitleParams(f"{layout.heading} {name}", fontSize=14, offset=12, frame="group", limit=layout.width + 20)
    return alt.LayerChart(layer=layers).properties(width=layout.width, height=layout.height, title=title)


def _seeds(points: Sequence[Row]) -> list[Row]:
    return [
        {"label": point["label"], "method": point["method"], "x": point["x"], "accuracy": value, "seed": seed}
        for point in points
        if point["n"] > 1
        for seed, value in point["by_seed"].items()
        if value is not None
    ]


def _horizontal(axes: _Axes, titled: bool) -> alt.X:
    low, high = axes.span
    scale = alt.Scale(type="log", base=2, domain=[low, max(high, low * 2)], nice=False, padding=14)
    title = TITLES[axes.x] if titled else None
    return alt.X(
        "x:Q",
        scale=scale,
        axis=alt.Axis(title=title, values=_powers(axes.span), format="~s", grid=False, labelSeparation=2),
    )


def _vertical(titled: bool) -> alt.Y:
    title = "held-out accuracy" if titled else None
    axis = alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1], title=title)
    # Room for a ring at 100 %: one that sticks out would lift the heading of its panel above those beside it.
    return alt.Y("accuracy:Q", scale=alt.Scale(domain=[0, 1.06], nice=False), axis=axis)


def _powers(span: tuple[float, float]) -> list[int]:
    low, high = math.floor(math.log2(span[0])), math.ceil(math.log2(span[1]))
    return [2**k for k in range(max(low, 0), high + 1) if 2**k <= max(span[1], 2 * span[0])]


def _colour(layout: _Layout) -> alt.Color:
    curves = list(layout.curves)
    scale = alt.Scale(domain=curves, range=[PALETTE[number % len(PALETTE)] for number in range(len(curves))])
    if layout.curve == "label":
        # The configurations are in an order, from coarse to fine: one scale of light to dark.
        scale = alt.Scale(domain=curves, scheme=alt.SchemeParams(name="viridis", extent=[0.0, 0.88]))
    legend = alt.Legend(title=layout.legend, columns=8, labelLimit=240, symbolOpacity=1)
    return alt.Color(f"{layout.curve}:N", scale=scale, legend=legend)


def _shape(layout: _Layout) -> alt.Shape:
    shapes = [SHAPES[number % len(SHAPES)] for number in range(len(layout.curves))]
    scale = alt.Scale(domain=list(layout.curves), range=shapes)
    return alt.Shape(f"{layout.curve}:N", scale=scale, title=layout.legend)
