"""Agreement of solvers against what they cost: which to serve a model with."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from api.charts.figure import Canvas, Figure, Row
from api.charts.material import NothingToDraw
from api.charts.theme import FAINT, INK, PALETTE, SHAPES
from ode_core.audit.solver_choice import AgreementWith
from ode_core.specs import SolverSpec

_WIDTH, _HEIGHT = 430, 320
_WITH: dict[AgreementWith, str] = {
    "reference": "the converged solution",
    "reference_and_training": "the converged solution and the solver of the training",
    "training": "the solver of the training, the only one that is right",
}
_TICKS = (0.0, 0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 1.0)  # shares that disagree


def agreement_against_cost(choice: Mapping[str, Any]) -> Figure:
    """Draw a panel for evaluations and one for measured time, with a mark for each solver an audit tried.

    The axis of the agreement is stretched towards all samples, where the choices differ. Marks on the Pareto front of
    evaluations, time and agreement are filled; the line is the front of the panel alone. Ringed are the cheapest
    solvers for the usual agreements.

    Args:
        choice: ``solver_choice`` of an audit's result.

    Raises:
        NothingToDraw: no solver was timed, or none was tried.
    """
    points = [_point(one, choice) for one in choice["candidates"]]
    timed = [point for point in points if point["microseconds"] is not None]
    if not timed:
        raise NothingToDraw("the audit timed no solver: audit the model again")
    canvas = Canvas()
    methods = sorted({point["method"] for point in points})
    timing = choice["timing"]
    titles = {
        "nfe": "evaluations of the field for one sample",
        "microseconds": f"microseconds for one sample, in batches of {timing['batch_size']} ({timing['device']})",
    }
    shown = {"nfe": points} | ({"microseconds": timed} if len(timed) > 1 else {})
    agreement = _agreement_axis(points, choice["samples"])
    panels = [
        _panel(canvas, some, methods, agreement, cost, titles[cost], choice["agreement_with"] != "training")
        for cost, some in shown.items()
    ]
    return Figure(
        f"Solvers to serve with: agreement with {_WITH[choice['agreement_with']]}",
        alt.HConcatChart(hconcat=panels, spacing=36),
        canvas,
        _subtitle(points, choice),
    )


def _subtitle(points: Sequence[Row], choice: Mapping[str, Any]) -> str:
    samples = f"{choice['samples']:,} samples"
    if choice["agreement_with"] == "training":
        return f"{samples}; verdict: {choice['verdict']}; ringed: the solver to take"
    least = min(usual["asked"] for usual in choice["choices"])
    ringed = "ringed: the cheapest for an agreement"
    if not any(point["chosen"] for point in points):
        ringed = f"none reaches {100 * least:.6g}%"
    return f"{samples}; {ringed}; filled: the Pareto front of evaluations, time and agreement; bars: 95% intervals"


def _agreement_axis(points: Sequence[Row], samples: int) -> alt.Y:
    """Return the axis of the agreement: logarithmic in the share that disagrees, down to one sample."""
    most = max(0.05, *(point["disagreement"] for point in points))
    ticks = [tick for tick in _TICKS if tick <= most and (tick * samples >= 0.5 or tick in (0, 0.001))]
    return alt.Y(
        "disagreement:Q",
        scale=alt.Scale(type="symlog", constant=1 / samples, reverse=True, domain=[0, most], nice=False, padding=10),
        axis=alt.Axis(
            values=ticks, labelExpr="format(1 - datum.value, '.4~%')", title="share of the samples on which it agrees"
        ),
    )


def _point(candidate: Mapping[str, Any], choice: Mapping[str, Any]) -> Row:
    solver, seconds = candidate["solver"], candidate["seconds_per_sample"]
    chosen_for = [usual["asked"] for usual in choice["choices"] if usual["solver"] == solver]
    label = SolverSpec.model_validate(solver).label
    low, high = candidate["interval"]
    return {
        "solver": label,
        "method": solver["method"],
        "nfe": candidate["nfe"],
        "microseconds": None if seconds is None else 1e6 * seconds,
        "agreement": candidate["agreement"],
        "disagreement": 1 - candidate["agreement"],
        "most": 1 - low,
        "least": 1 - high,
        "front": candidate["on_front"],
        "trained": f"trained with {label}" if solver == choice["train_solver"] else None,
        "chosen": f"{label}: {', '.join(f'{100 * asked:.6g}%' for asked in chosen_for)}" if chosen_for else None,
    }


def _panel(
    canvas: Canvas,
    points: Sequence[Row],
    methods: Sequence[str],
    y: alt.Y,
    cost: str,
    title: str,
    with_front: bool,
) -> alt.LayerChart:
    costs = [point[cost] for point in points]
    low, high = min(costs), max(*costs, 2 * min(costs))
    x = alt.X(
        f"{cost}:Q",
        scale=alt.Scale(type="log", base=2, domain=[low, high], nice=False, padding=14),
        axis=alt.Axis(values=_powers(low, high), format=",", title=title, grid=False, labelOverlap=True),
    )
    legend = alt.Legend(title="solver", symbolOpacity=1)
    colour = alt.Color("method:N", scale=alt.Scale(domain=methods, range=list(PALETTE[: len(methods)])), legend=legend)
    shape = alt.Shape("method:N", scale=alt.Scale(domain=methods, range=list(SHAPES[: len(methods)])), legend=legend)
    about = ["solver:N", "nfe:Q", "microseconds:Q", alt.Tooltip("agreement:Q", format=".4~%")]
    layers = [*_training(canvas, points, x, cost, (low * high) ** 0.5)]
    if with_front:
        line = canvas.draw(_front(points, cost), f"front by {cost}")
        layers.append(line.mark_line(interpolate="step-after", color="#AAAAAA", strokeWidth=1.5).encode(x=x, y=y))
    beaten = canvas.draw([point for point in points if not point["front"]], f"beaten by {cost}")
    best = canvas.draw([point for point in points if point["front"]], f"best by {cost}")
    chosen = canvas.draw([point for point in points if point["chosen"]], f"chosen by {cost}")
    layers += [
        beaten.mark_point(size=45, filled=False, opacity=0.6).encode(
            x=x, y=y, color=colour, shape=shape, tooltip=about
        ),
        best.mark_rule(strokeWidth=1.5, opacity=0.6, clip=True).encode(
            x=x, y=alt.Y("most:Q", scale=y["scale"]), y2="least:Q", color=colour
        ),
        best.mark_point(size=80, filled=True, opacity=1).encode(x=x, y=y, color=colour, shape=shape, tooltip=about),
        chosen.mark_point(size=260, filled=False, color=INK, strokeWidth=2, opacity=1).encode(x=x, y=y),
        chosen.mark_text(align="left", dx=13, dy=14, fontSize=13, fontWeight="bold", color=INK).encode(
            x=x, y=y, text="chosen:N"
        ),
    ]
    return alt.LayerChart(layer=layers).properties(width=_WIDTH, height=_HEIGHT)


def _training(canvas: Canvas, points: Sequence[Row], x: alt.X, cost: str, middle: float) -> list[alt.Chart]:
    """Return a line at what the training solver costs, with its name above the panel."""
    trained = [point for point in points if point["trained"]]
    if not trained:
        return []
    where = canvas.draw(trained, f"trained by {cost}")
    left = trained[0][cost] <= middle
    name = where.mark_text(align="left" if left else "right", dx=-12 if left else 12, fontSize=13, color=INK)
    return [
        where.mark_rule(color=FAINT, strokeWidth=1.5, strokeDash=[4, 3]).encode(x=x),
        name.encode(x=x, y=alt.value(-12), text="trained:N"),
    ]


def _front(points: Sequence[Row], cost: str) -> list[Row]:
    """Return the corners of the best agreement that can be had for a cost."""
    corners: list[Row] = []
    for point in sorted(points, key=lambda point: (point[cost], point["disagreement"])):
        if not corners or point["disagreement"] < corners[-1]["disagreement"]:
            corners.append({cost: point[cost], "disagreement": point["disagreement"]})
    return [*corners, {cost: max(point[cost] for point in points), "disagreement": corners[-1]["disagreement"]}]


def _powers(low: float, high: float) -> list[float]:
    return [2.0**k for k in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
