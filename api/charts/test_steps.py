"""Accuracy against the steps or evaluations of test solvers: where a model is an ODE, the curves are flat."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from api.charts.figure import Canvas, Figure, Row
from api.charts.material import NothingToDraw, XAxis
from api.charts.study_accuracy import TITLES, axis_for, left_out
from api.charts.theme import FAINT, INK, PALETTE, SHAPES

PANEL_WIDTH, PANEL_HEIGHT = 400, 300


def accuracy_against_steps(
    rows: Sequence[Mapping[str, Any]],
    subtitles: Mapping[str, str] | None = None,
    title: str = "",
    x: XAxis | None = None,
) -> Figure:
    """Draw a panel for each model and in it a curve for each test method.

    The point of the solver that a model was trained with is marked.

    Args:
        rows: result rows, as ``GET /v1/results`` gives them; used are ``model``, ``test_method``, ``test_steps``,
            ``nfe``, ``accuracy``, ``train_method``, ``train_steps`` and ``test_solver``. Rows without an accuracy are
            left out, those without a place on the axis, too, which the subtitle says.
        subtitles: a line below a model's name.
        title: above everything.
        x: what the axis shows; None for steps, or evaluations where some test solvers have no steps.

    Raises:
        NothingToDraw: no row has an accuracy and a place on the axis.
    """
    tested = [row for row in rows if row["accuracy"] is not None]
    x = axis_for(tested, x)
    field = "test_steps" if x == "steps" else "nfe"
    points = [_point(row, row[field]) for row in tested if row[field]]
    if not points:
        remedy = (
            "; test solvers with tolerances have evaluations only: ask for x=nfe" if tested and x == "steps" else ""
        )
        raise NothingToDraw(f"there is no result with an accuracy and {TITLES[x]}{remedy}")
    canvas = Canvas()
    methods = list(dict.fromkeys(point["method"] for point in points))
    largest = max(point["steps"] for point in points)
    panels = [
        _panel(canvas, [point for point in points if point["model"] == model], methods, largest, x).properties(
            width=PANEL_WIDTH,
            height=PANEL_HEIGHT,
            title=alt.TitleParams(model, subtitle=(subtitles or {}).get(model, ""), subtitlePadding=4, offset=26),
        )
        for model in dict.fromkeys(point["model"] for point in points)
    ]
    return Figure(title, alt.HConcatChart(hconcat=panels, spacing=36), canvas, left_out(tested, x))


def _point(row: Mapping[str, Any], place: float) -> Row:
    trained = row["test_method"] == row["train_method"] and row["test_steps"] == row["train_steps"]
    solver = row["train_method"] + (f"-{row['train_steps']}" if row["train_steps"] else "")
    return {
        "model": row["model"],
        "method": row["test_method"],
        "steps": place,
        "accuracy": row["accuracy"],
        "trained": f"trained with {solver}" if trained and row["train_steps"] else None,
    }


def _panel(
    canvas: Canvas, points: Sequence[Row], methods: Sequence[str], largest: float, x_axis: XAxis
) -> alt.LayerChart:
    powers = [2**k for k in range(int(largest).bit_length())]
    x = alt.X(
        "steps:Q",
        scale=alt.Scale(type="log", base=2, domain=[1, max(largest, 2)], nice=False, padding=14),
        axis=alt.Axis(values=powers, format="d", title=TITLES[x_axis], grid=False, labelOverlap=True),
    )
    y = alt.Y(
        "accuracy:Q",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1], title="accuracy on held-out samples"),
    )
    colour = alt.Color(
        "method:N", scale=alt.Scale(domain=methods, range=list(PALETTE[: len(methods)])), title="test solver"
    )
    shape = alt.Shape(
        "method:N", scale=alt.Scale(domain=methods, range=list(SHAPES[: len(methods)])), title="test solver"
    )
    curves = canvas.draw(points, "results")
    lines = curves.mark_line(strokeWidth=2.5, clip=True).encode(x=x, y=y, color=colour)
    marks = curves.mark_point(size=70, filled=True, opacity=1).encode(x=x, y=y, color=colour, shape=shape)
    # Once: the test grid and the training solver may meet in two rows.
    trained = list({point["steps"]: point for point in points if point["trained"]}.values())
    if not trained:
        return alt.LayerChart(layer=[lines, marks])
    where = canvas.draw(trained, "trained")
    rule = where.mark_rule(color=FAINT, strokeWidth=1.5, strokeDash=[4, 3]).encode(x=x)
    ring = where.mark_point(size=320, filled=False, color=INK, strokeWidth=2.5, opacity=1).encode(x=x, y=y)
    left = trained[0]["steps"] <= largest**0.5
    label = where.mark_text(
        align="left" if left else "right", dx=-12 if left else 12, fontSize=13, fontWeight="bold", color=INK
    ).encode(x=x, y=alt.value(-14), text="trained:N")  # above the panel, where no curve is
    return alt.LayerChart(layer=[rule, lines, marks, ring, label])
