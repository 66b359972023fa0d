"""Test accuracy against the steps or evaluations of the test solver, for each training configuration."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from api.charts.figure import Canvas, Figure, Row
from api.charts.material import NothingToDraw, XAxis
from api.charts.theme import INK, SHAPES

TITLES: dict[XAxis, str] = {"steps": "steps of the test solver", "nfe": "evaluations of the field in a test solve"}

_WIDTH, _HEIGHT = 380, 300


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


def accuracy_of_study(rows: Sequence[Mapping[str, Any]], x: XAxis | None = None) -> Figure:
    """Draw a panel for each test method and in it a curve for each training configuration.

    Of several seeds: their mean as a line, one standard deviation around it as a band, each seed as a point. The test
    solver that a configuration was trained with is ringed.

    Args:
        rows: one for each training configuration and test solver, with ``label``, ``train_solver``, ``adaptation``,
            ``test_solver``, ``test_method``, ``test_steps``, ``nfe``, ``accuracy`` (``mean``, ``sd``, ``n``,
            ``by_seed``) and ``failed_seeds``. Rows without a mean are left out, those without a place on the axis, too,
            which the subtitle says.
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
    canvas = Canvas()
    labels = list(dict.fromkeys(point["label"] for point in points))
    span = (min(point["x"] for point in points), max(point["x"] for point in points))
    methods = list(dict.fromkeys(point["method"] for point in points))
    panels = [
        _panel(canvas, method, [point for point in points if point["method"] == method], labels, x, span)
        for method in methods
    ]
    return Figure(_title(rows, points), alt.HConcatChart(hconcat=panels, spacing=30), canvas, left_out(tested, x))


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


def _panel(
    canvas: Canvas, method: str, points: Sequence[Row], labels: Sequence[str], x: XAxis, span: tuple[float, float]
) -> alt.LayerChart:
    axis = alt.X(
        "x:Q", scale=_steps_scale(span), axis=alt.Axis(title=TITLES[x], values=_powers(span), format="~s", grid=False)
    )
    y = alt.Y(
        "accuracy:Q",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1], title="accuracy on held-out samples"),
    )
    colour, shape = _colour(labels), _shape(labels)
    means = [{key: value for key, value in point.items() if key != "by_seed"} for point in points]
    seeds = [
        {"label": point["label"], "x": point["x"], "accuracy": value, "seed": seed}
        for point in points
        if point["n"] > 1
        for seed, value in point["by_seed"].items()
        if value is not None
    ]
    data = canvas.draw(means, method)
    # Adaptive solvers have no order along the axis but that of their evaluations, which is a line's, too.
    layers = [
        data.mark_line(strokeWidth=2.2).encode(x=axis, y=y, color=colour),
        data.mark_point(size=60, filled=True, opacity=1).encode(
            x=axis, y=y, color=colour, shape=shape, tooltip=["label:N", "x:Q", "accuracy:Q", "sd:Q", "n:Q"]
        ),
    ]
    if any(point["n"] > 1 for point in points):
        band = data.mark_area(opacity=0.18).encode(x=axis, y="low:Q", y2="high:Q", color=colour)
        dots = canvas.draw(seeds, "seeds").mark_point(size=10, filled=True, opacity=0.55)
        layers = [band, dots.encode(x=axis, y=y, color=colour, tooltip=["label:N", "seed:N", "accuracy:Q"]), *layers]
    own = [point for point in means if point["own"]]
    if own:
        ring = canvas.draw(own, "own").mark_point(size=260, filled=False, color=INK, strokeWidth=2, opacity=1)
        layers.append(ring.encode(x=axis, y=y))
    about = "ringed: the solver of the training" if own else ""  # an empty line keeps the panels level
    heading = alt.TitleParams(f"tested with {method}", subtitle=[about], fontSize=15, subtitlePadding=4, offset=10)
    return alt.LayerChart(layer=layers).properties(width=_WIDTH, height=_HEIGHT, title=heading)


def _steps_scale(span: tuple[float, float]) -> alt.Scale:
    low, high = span
    return alt.Scale(type="log", base=2, domain=[low, max(high, low * 2)], nice=False, padding=14)


def _powers(span: tuple[float, float]) -> list[int]:
    low, high = math.floor(math.log2(span[0])), math.ceil(math.log2(span[1]))
    return [2**k for k in range(max(low, 0), high + 1) if 2**k <= max(span[1], 2 * span[0])]


def _colour(labels: Sequence[str]) -> alt.Color:
    # The configurations are in an order, from coarse to fine: one scale of light to dark, whatever their number.
    return alt.Color(
        "label:N",
        scale=alt.Scale(domain=list(labels), scheme=alt.SchemeParams(name="viridis", extent=[0.0, 0.88])),
        legend=alt.Legend(title="trained with", columns=8, labelLimit=240, symbolOpacity=1),
    )


def _shape(labels: Sequence[str]) -> alt.Shape:
    shapes = [SHAPES[number % len(SHAPES)] for number in range(len(labels))]
    return alt.Shape("label:N", scale=alt.Scale(domain=list(labels), range=shapes), title="trained with")
