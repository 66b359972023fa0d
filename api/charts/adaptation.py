"""A training under adaptation: how the accuracy and the solver's effort went over its iterations."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from api.charts.figure import Canvas, Figure, Row
from api.charts.material import NothingToDraw, Series
from api.charts.theme import INK, PALETTE
from api.charts.training_curves import (
    HEIGHT,
    WIDTH,
    accuracy_panel,
    iterations,
    last_iteration,
    noisy_panel,
    rows_of,
    step_line,
)

_ACCEPTED, _REJECTED = "accepted", "rejected"
_CERTIFIED, _NOT_CERTIFIED, _UNTRAINED = "certified", "not certified", "untrained, never exported"


def step_adaptation(series: Series, name: str, adaptation: Mapping[str, Any] | None = None) -> Figure:
    """Draw accuracy, steps and, at the checks, the difference of the accuracy to a more accurate solver.

    Args:
        series: metrics of a training job; used are ``train_accuracy``, ``steps``, ``adaptation_accepted``,
            ``adaptation_difference`` and, of a certified adaptation, ``adaptation_flip_rate``,
            ``adaptation_flip_rate_upper`` and ``certified``.
        name: of the model.
        adaptation: what was asked for; its ``threshold`` or ``epsilon`` is drawn as a line.

    Raises:
        NothingToDraw: the job checked no step.
    """
    if not series.get("adaptation_accepted") or not series.get("steps"):
        raise NothingToDraw("this training did not adapt its steps: submit one with adaptation")
    canvas = Canvas()
    x = iterations(last_iteration(series))
    steps = rows_of(series, "steps")
    y = alt.Y("value:Q", scale=alt.Scale(type="log", base=2, nice=True), axis=alt.Axis(title="steps", format="d"))
    panels = [
        accuracy_panel(canvas, rows_of(series, "train_accuracy"), x),
        _with_decisions(canvas, series, step_line(canvas, steps, x, y, PALETTE[2]), steps, x, y),
    ]
    asked = adaptation or {}
    panels += [
        *_differences(canvas, series, x, asked.get("threshold")),
        *_flip_rates(canvas, series, x, asked.get("epsilon")),
    ]
    return Figure(f"Step adaptation of {name}", _one_above_the_other(panels), canvas)


def tolerance_adaptation(series: Series, name: str, adaptation: Mapping[str, Any] | None = None) -> Figure:
    """Draw accuracy, tolerance, evaluations of the field and, of a certified adaptation, the flip rates at the checks.

    Args:
        series: metrics of a training job; used are ``train_accuracy``, ``tolerance``, ``nfe``, ``adaptation_accepted``
            and those of the flip rates, as in ``step_adaptation``.
        name: of the model.
        adaptation: what was asked for; its ``epsilon`` is drawn as a line.

    Raises:
        NothingToDraw: the job adapted no tolerance.
    """
    tolerances = rows_of(series, "tolerance")
    if not tolerances:
        raise NothingToDraw("this training did not adapt its tolerance: submit one with tolerance adaptation")
    canvas = Canvas()
    x = iterations(last_iteration(series))
    y = alt.Y("value:Q", scale=alt.Scale(type="log"), axis=alt.Axis(title="tolerance", format=".0e", tickCount=5))
    nfe = alt.Y("value:Q", axis=alt.Axis(title="evaluations of the field", tickCount=5))
    panels = [
        accuracy_panel(canvas, rows_of(series, "train_accuracy"), x),
        _with_decisions(canvas, series, step_line(canvas, tolerances, x, y, PALETTE[2]), tolerances, x, y),
        noisy_panel(canvas, rows_of(series, "nfe"), x, nfe, PALETTE[3]),
        *_flip_rates(canvas, series, x, (adaptation or {}).get("epsilon")),
    ]
    return Figure(f"Tolerance adaptation of {name}", _one_above_the_other(panels), canvas)


def _one_above_the_other(panels: Sequence[alt.Chart | alt.LayerChart]) -> alt.VConcatChart:
    # Decisions and certificates have colours of their own.
    chart: alt.VConcatChart = alt.VConcatChart(vconcat=panels, spacing=18).resolve_scale(
        color="independent", shape="independent"
    )
    return chart


def _differences(canvas: Canvas, series: Series, x: alt.X, threshold: float | None) -> list[alt.LayerChart]:
    """Return a panel of the differences at the checks; none where there are none."""
    rows = rows_of(series, "adaptation_difference")
    if not rows:
        return []
    y = alt.Y("value:Q", axis=alt.Axis(title="difference", format="%", tickCount=4))
    # Not bars: an axis with bars gets a margin, and is no longer in line with those above.
    stems = canvas.draw([row | {"zero": 0} for row in rows], "differences")
    layers = [
        stems.mark_rule(strokeWidth=1.5, color=PALETTE[3]).encode(x=x, y=y, y2="zero:Q"),
        *_limit(canvas, "threshold", threshold, y),
    ]
    return [alt.LayerChart(layer=layers).properties(width=WIDTH, height=HEIGHT - 50)]


def _limit(canvas: Canvas, name: str, value: float | None, y: alt.Y) -> list[alt.Chart]:
    """Return a dashed line across the panel at ``value``, with its name and value; none where it is not known."""
    if value is None:
        return []
    data = canvas.draw([{"value": value, "limit": f"{name} {100 * value:.3g} %"}], name)
    return [
        data.mark_rule(strokeDash=[5, 4], strokeWidth=1.2, color=INK).encode(y=y),
        data.mark_text(align="right", baseline="bottom", dy=-3, fontSize=12, color=INK).encode(
            x=alt.value(WIDTH), y=y, text="limit:N"
        ),
    ]


def _flip_rates(canvas: Canvas, series: Series, x: alt.X, epsilon: float | None) -> list[alt.LayerChart]:
    """Return a panel of the flip rates at the checks with the upper ends of their intervals; none without them."""
    upper = dict(series.get("adaptation_flip_rate_upper", ()))
    certified = dict(series.get("certified", ()))
    rows = [
        row
        | {
            "upper": upper.get(row["iteration"]),
            "certificate": _certificate(row["iteration"], certified.get(row["iteration"])),
        }
        for row in rows_of(series, "adaptation_flip_rate")
    ]
    if not rows:
        return []
    y = alt.Y("value:Q", axis=alt.Axis(title="flip rate", format="%", tickCount=4))
    domain = [_CERTIFIED, _NOT_CERTIFIED, *([_UNTRAINED] if rows[0]["certificate"] == _UNTRAINED else [])]
    colour = alt.Color(
        "certificate:N",
        scale=alt.Scale(domain=domain, range=[PALETTE[2], PALETTE[4], "#999999"][: len(domain)]),
        title="up to the upper bound",
    )
    data = canvas.draw(rows, "flip rates")
    layers = [
        data.mark_rule(strokeWidth=1.5).encode(x=x, y=y, y2="upper:Q", color=colour),
        data.mark_point(size=28, filled=True, opacity=1).encode(x=x, y=y, color=colour),
        *_limit(canvas, "epsilon", epsilon, y),
    ]
    return [alt.LayerChart(layer=layers).properties(width=WIDTH, height=HEIGHT - 50)]


def _certificate(iteration: int, certified: float | None) -> str:
    if iteration == 0:
        return _UNTRAINED
    return _CERTIFIED if certified else _NOT_CERTIFIED


def _with_decisions(
    canvas: Canvas, series: Series, line: alt.Chart, values: Sequence[Row], x: alt.X, y: alt.Y
) -> alt.LayerChart:
    """Return the line with a mark at each check: accepted or rejected."""
    known = {row["iteration"]: row["value"] for row in values}
    checks = [
        {"iteration": step, "value": known[step], "decision": _ACCEPTED if accepted else _REJECTED}
        for step, accepted in series.get("adaptation_accepted", ())
        if step in known and accepted is not None
    ]
    domain = [_ACCEPTED, _REJECTED]
    marks = (
        canvas.draw(checks, "checks")
        .mark_point(size=34, filled=True, opacity=0.9)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "decision:N", scale=alt.Scale(domain=domain, range=[PALETTE[5], PALETTE[1]]), title="at a check"
            ),
            shape=alt.Shape(
                "decision:N", scale=alt.Scale(domain=domain, range=["circle", "triangle-down"]), title="at a check"
            ),
            tooltip=["iteration:Q", "value:Q", "decision:N"],
        )
    )
    return alt.LayerChart(layer=[line, marks]).properties(width=WIDTH, height=HEIGHT)
