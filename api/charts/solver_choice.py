"""Agreement of solvers against what they cost: which to serve a model with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from api.charts.figure import Canvas, Figure, Row
from api.charts.label_places import GAP, Box, Place, around, label_places
from api.charts.material import NothingToDraw
from api.charts.theme import FAINT, INK, PALETTE, SHAPES
from ode_core.audit.solver_choice import AgreementWith
from ode_core.specs import SolverSpec

_WIDTH, _HEIGHT = 430, 320
_LINE = 50  # characters of a title over one panel
_X_PADDING, _Y_PADDING = 14, 10  # pixels between the frame and the first and last marks
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
    agreement = AgreementAxis(max(0.05, *(point["disagreement"] for point in points)), 1 / choice["samples"])
    panels = [
        _panel(canvas, some, methods, agreement, cost, titles[cost], choice["agreement_with"] != "training")
        for cost, some in shown.items()
    ]
    return Figure(
        f"Solvers to serve with: agreement with {_WITH[choice['agreement_with']]}",
        alt.HConcatChart(hconcat=panels, spacing=36),
        canvas,
        _subtitle(points, choice),
        line=_LINE if len(panels) == 1 else None,
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


@dataclass(frozen=True)
class AgreementAxis:
    """The axis of the agreement: logarithmic in the share that disagrees, down to one sample.

    Attributes:
        most: share that disagrees, at the lower end.
        one: the share of one sample.
    """

    most: float
    one: float

    def encoding(self) -> alt.Y:
        """Return the axis as altair has it."""
        ticks = [tick for tick in _TICKS if tick <= self.most and (tick >= 0.5 * self.one or tick in (0, 0.001))]
        scale = alt.Scale(
            type="symlog", constant=self.one, reverse=True, domain=[0, self.most], nice=False, padding=_Y_PADDING
        )
        label = "format(1 - datum.value, '.4~%')"
        title = "share of the samples on which it agrees"
        return alt.Y(
            "disagreement:Q", scale=scale, axis=alt.Axis(values=ticks, labelExpr=label, title=title, labelOverlap=True)
        )

    def pixel(self, disagreement: float) -> float:
        """Return where a share is, from the upper end of a panel."""
        place = math.log1p(disagreement / self.one) / math.log1p(self.most / self.one)
        return _Y_PADDING + (_HEIGHT - 2 * _Y_PADDING) * place


@dataclass(frozen=True)
class CostAxis:
    """The axis of a cost, by powers of two.

    Attributes:
        cost: ``nfe`` or ``microseconds``.
        low: the least.
        high: the most.
    """

    cost: str
    low: float
    high: float

    @classmethod
    def of(cls, points: Sequence[Row], cost: str) -> "CostAxis":
        """Return the axis on which all these have a place."""
        costs = [point[cost] for point in points]
        return cls(cost, min(costs), max(*costs, 2 * min(costs)))

    def encoding(self, title: str) -> alt.X:
        """Return the axis as altair has it."""
        powers = [2.0**k for k in range(math.ceil(math.log2(self.low)), math.floor(math.log2(self.high)) + 1)]
        return alt.X(
            f"{self.cost}:Q",
            scale=alt.Scale(type="log", base=2, domain=[self.low, self.high], nice=False, padding=_X_PADDING),
            axis=alt.Axis(values=powers, format=",", title=title, grid=False, labelOverlap=True),
        )

    def pixel(self, point: Row) -> float:
        """Return where a solver is, from the left end of a panel."""
        place = math.log(point[self.cost] / self.low) / math.log(self.high / self.low)
        return _X_PADDING + (_WIDTH - 2 * _X_PADDING) * place


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
    agreement: AgreementAxis,
    cost: str,
    title: str,
    with_front: bool,
) -> alt.LayerChart:
    costs = CostAxis.of(points, cost)
    x, y = costs.encoding(title), agreement.encoding()
    legend = alt.Legend(title="solver", symbolOpacity=1)
    colour = alt.Color("method:N", scale=alt.Scale(domain=methods, range=list(PALETTE[: len(methods)])), legend=legend)
    shape = alt.Shape("method:N", scale=alt.Scale(domain=methods, range=list(SHAPES[: len(methods)])), legend=legend)
    about = ["solver:N", "nfe:Q", "microseconds:Q", alt.Tooltip("agreement:Q", format=".4~%")]
    layers = [*_training(canvas, points, x, costs)]
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
    ]
    for point, place in zip(*_places(points, costs, agreement), strict=True):
        layers += _label(canvas.draw([point], f"label by {cost}"), place, x, y)
    return alt.LayerChart(layer=layers).properties(width=_WIDTH, height=_HEIGHT)


def _places(points: Sequence[Row], costs: CostAxis, agreement: AgreementAxis) -> tuple[list[Row], list[Place]]:
    """Return the solvers that are named, from the left, and where their names stand."""
    at = [(costs.pixel(point), agreement.pixel(point["disagreement"])) for point in points]
    obstacles = [
        around(x, y, 9 if point["chosen"] else 5, 5 if point["chosen"] else 1)
        for point, (x, y) in zip(points, at, strict=True)
    ]
    obstacles += [
        Box(x - 1, agreement.pixel(point["least"]), x + 1, agreement.pixel(min(point["most"], agreement.most)), 0.5)
        for point, (x, _) in zip(points, at, strict=True)
        if point["front"]
    ]
    named = sorted(
        ((point, x, y) for point, (x, y) in zip(points, at, strict=True) if point["chosen"]), key=lambda one: one[1]
    )
    labels = [(point["chosen"], x, y) for point, x, y in named]
    return [point for point, _, _ in named], label_places(labels, obstacles, _WIDTH, _HEIGHT)


def _label(chart: alt.Chart, place: Place, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Return a name and, below it, its outline in white, so that it is read over lines."""
    where: dict[str, Any] = {"align": "left" if place.side > 0 else "right", "dx": place.side * GAP, "dy": place.dy}
    style: dict[str, Any] = where | {"fontSize": 13, "fontWeight": "bold", "baseline": "middle"}
    outline = chart.mark_text(color="white", stroke="white", strokeWidth=4, strokeJoin="round", **style)
    return [mark.encode(x=x, y=y, text="chosen:N") for mark in (outline, chart.mark_text(color=INK, **style))]


def _training(canvas: Canvas, points: Sequence[Row], x: alt.X, costs: CostAxis) -> list[alt.Chart]:
    """Return a line at what the training solver costs, with its name above the panel."""
    trained = [point for point in points if point["trained"]]
    if not trained:
        return []
    where = canvas.draw(trained, f"trained by {costs.cost}")
    left = costs.pixel(trained[0]) <= _WIDTH / 2
    name = where.mark_text(align="left" if left else "right", dx=-12 if left else 12, fontSize=13, color=INK)
    return [
        where.mark_rule(color=FAINT, strokeWidth=1.5, strokeDash=[4, 3]).encode(x=x),
        name.encode(x=x, y=alt.value(-16), text="trained:N"),
    ]


def _front(points: Sequence[Row], cost: str) -> list[Row]:
    """Return the corners of the best agreement that can be had for a cost."""
    corners: list[Row] = []
    for point in sorted(points, key=lambda point: (point[cost], point["disagreement"])):
        if not corners or point["disagreement"] < corners[-1]["disagreement"]:
            corners.append({cost: point[cost], "disagreement": point["disagreement"]})
    return [*corners, {cost: max(point[cost] for point in points), "disagreement": corners[-1]["disagreement"]}]
