"""What an audit found: the ladder of test solvers, where steps cross, and how errors reach the end."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import altair as alt

from api.charts.figure import Canvas, Figure, Row
from api.charts.material import Audit, NothingToDraw
from api.charts.theme import FAINT, INK, PALETTE, SHAPES
from ode_core.specs import SolverSpec

WIDTH = 620
_FLAGGED, _CERTIFIED, _UNDECIDED = "real eigenvalue < 0 alone", "determinant < 0", "not known"
_TICKS = [-1000, -100, -10, 0, 10, 100, 1000]  # of a scale that is logarithmic away from 0


def audit_ladder(audit: Audit) -> Figure:
    """Draw accuracy, and the share of predictions unlike the converged ones, over the cost of the test solver.

    Args:
        audit: an audit's result.

    Raises:
        NothingToDraw: no solver was tested.
    """
    rows = [_rung(rung, audit["train_solver"]) | {"rung": k} for k, rung in enumerate(audit["ladder"])]
    if not rows:
        raise NothingToDraw("the audit tested no other solver: its ladder is empty")
    canvas = Canvas()
    reference = audit["reference"]
    converged = {"nfe": reference["nfe"], "accuracy": audit["reference_accuracy"]}
    known = reference["converged"] or audit["verdict"] != "unresolved"
    methods = list(dict.fromkeys(row["method"] for row in rows))
    places = [row["nfe"] for row in rows if row["nfe"]] + [converged["nfe"]]
    x = alt.X(
        "nfe:Q",
        scale=alt.Scale(type="log", base=2, domain=[min(places), max(places)], nice=False, padding=16),
        axis=alt.Axis(
            title="cost of a prediction: evaluations of the field", format="d", grid=False, labelOverlap=True
        ),
    )
    colour = alt.Color("method:N", scale=_scale(methods, PALETTE), title="test solver")
    shape = alt.Shape("method:N", scale=_scale(methods, SHAPES), title="test solver")
    panels = [_accuracies(canvas, rows, converged if known else None, x, colour, shape)]
    if known and any(row["differ"] is not None for row in rows):
        panels.append(_differences(canvas, rows, audit["epsilon"], x, colour, shape))
    label = SolverSpec.model_validate(audit["train_solver"]).label
    role = "was trained" if audit.get("parent") is None else "is served"
    subtitle = f"ring: {label}, which the model {role} with" + ("; diamond: converged solution" if known else "")
    return Figure(
        "Accuracy, and predictions that change, by test solver",
        alt.VConcatChart(vconcat=panels, spacing=18),
        canvas,
        subtitle,
    )


def _rung(rung: Mapping[str, Any], train_solver: Mapping[str, Any]) -> Row:
    solver = SolverSpec.model_validate(rung["solver"])
    return {
        "solver": solver.label,
        "method": solver.method,
        "nfe": rung["nfe"],
        "accuracy": rung["accuracy"],
        "differ": rung["reference_flip_rate"],
        "own": rung["solver"] == train_solver,
    }


def _scale(methods: Sequence[str], values: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(methods), range=[values[k % len(values)] for k in range(len(methods))])


def _curves(canvas: Canvas, name: str, rows: Sequence[Row], *encodings: Any) -> list[alt.Chart]:
    x, y, colour, shape = encodings
    drawn = canvas.draw(rows, name)
    own = canvas.draw([row for row in rows if row["own"]], f"trained, {name}")
    tooltip = ["solver:N", "nfe:Q", "accuracy:Q", "differ:Q"]
    return [
        drawn.mark_line(strokeWidth=2.2).encode(x=x, y=y, color=colour, order="rung:Q"),
        drawn.mark_point(size=60, filled=True, opacity=1).encode(x=x, y=y, color=colour, shape=shape, tooltip=tooltip),
        own.mark_point(size=320, filled=False, color=INK, strokeWidth=2.5, opacity=1).encode(x=x, y=y),
    ]


def _accuracies(canvas: Canvas, rows: Sequence[Row], converged: Row | None, *encodings: Any) -> alt.LayerChart:
    x, colour, shape = encodings
    y = alt.Y(
        "accuracy:Q",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1], title="accuracy"),
    )
    layers = _curves(canvas, "accuracy", rows, x, y, colour, shape)
    if converged is not None:
        end = canvas.draw([converged], "converged")
        layers.insert(0, end.mark_rule(color=INK, strokeDash=[4, 3], opacity=0.6).encode(y=y))
        layers.append(end.mark_point(size=150, shape="diamond", filled=True, color=INK, opacity=1).encode(x=x, y=y))
    return alt.LayerChart(layer=layers).properties(width=WIDTH, height=200)


def _differences(canvas: Canvas, rows: Sequence[Row], epsilon: float, *encodings: Any) -> alt.LayerChart:
    x, colour, shape = encodings
    compared = [row for row in rows if row["differ"] is not None]
    largest = max(epsilon, *(row["differ"] for row in compared))
    y = alt.Y(
        "differ:Q",
        scale=alt.Scale(domain=[0, min(1.0, 1.1 * largest)]),
        axis=alt.Axis(format="%" if largest > 0.1 else ".1%", tickCount=5, title="unlike the converged"),
    )
    limit = canvas.draw([{"differ": epsilon, "limit": f"limit {100 * epsilon:.3g} %"}], "limit")
    layers = [
        limit.mark_rule(strokeDash=[5, 4], strokeWidth=1.2, color=INK).encode(y=y),
        # Beside the panel: within it a curve may be anywhere.
        limit.mark_text(align="left", baseline="middle", dx=6, fontSize=12, color=INK).encode(
            x=alt.value(WIDTH), y=y, text="limit:N"
        ),
        *_curves(canvas, "differences", compared, x, y, colour, shape),
    ]
    return alt.LayerChart(layer=layers).properties(width=WIDTH, height=180)


def crossing_map(audit: Audit) -> Figure:
    """Draw over the steps of the training solver which share of them no flow can make.

    Args:
        audit: an audit's result.

    Raises:
        NothingToDraw: the audit did not look for the mechanism.
    """
    mechanism = _mechanism(audit)
    found = _kept(mechanism["crossing"], "map")
    certified = found["certified"] or [0.0] * len(found["steps"])
    rows = []
    for (first, after), flagged, sure, unknown in zip(
        pairwise(found["bounds"]), found["flagged"], certified, found["undecided"], strict=True
    ):
        place = _place(first, after)
        rows += [
            place | {"kind": _CERTIFIED, "from": 0.0, "to": sure, "share": sure},
            place | {"kind": _FLAGGED, "from": sure, "to": flagged, "share": flagged},
            place | {"kind": _UNDECIDED, "from": flagged, "to": min(1.0, flagged + unknown), "share": unknown},
        ]
    kinds = [kind for kind in (_CERTIFIED, _FLAGGED, _UNDECIDED) if any(r["share"] for r in rows if r["kind"] == kind)]
    colours = {_CERTIFIED: PALETTE[1], _FLAGGED: PALETTE[4], _UNDECIDED: "#BBBBBB"}
    canvas = Canvas()
    bars = (
        canvas.draw([row for row in rows if row["kind"] in kinds], "shares")
        .mark_rect(stroke="white", strokeWidth=1)
        .encode(
            x=_steps_axis(mechanism),
            x2="right:Q",
            y=alt.Y(
                "from:Q",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%", tickCount=5, title="share of the steps"),
            ),
            y2="to:Q",
            color=alt.Color(
                "kind:N",
                scale=alt.Scale(domain=kinds or [_FLAGGED], range=[colours[kind] for kind in kinds or [_FLAGGED]]),
                title="derivative of the step",
            ),
            tooltip=["kind:N", "first:Q", "last:Q", alt.Tooltip("share:Q", format=".1%")],
        )
    )
    share, unknown = mechanism["crossing"]["flagged_share"], mechanism["crossing"]["undecided_share"]
    steps = f"steps of {mechanism['samples']} samples, {mechanism['steps']} each at most"
    subtitle = f"{share:.1%} of all {steps}" if share else f"none of the {steps}"
    if unknown:
        subtitle = f"{subtitle}, is known to be such; of {unknown:.1%} nothing is known"
    chart = alt.LayerChart(layer=[bars]).properties(width=WIDTH, height=210)
    return Figure("Steps that no flow can make, over the depth", chart, canvas, subtitle)


def error_transport(audit: Audit) -> Figure:
    """Draw how the steps move the flipped samples over the boundary, and how much error each sends to the end.

    Args:
        audit: an audit's result.

    Raises:
        NothingToDraw: the audit did not look for the mechanism, or no sample's errors were carried accurately.
    """
    mechanism = _mechanism(audit)
    transport = mechanism["transport"]
    fan = None if transport is None else _kept(transport, "fan")
    if fan is None or not fan["end"]:
        raise NothingToDraw("no sample's errors were carried to the end accurately: there is no fan to draw")
    bounds = transport["step_bounds"]
    canvas = Canvas()
    axis = _steps_axis(mechanism)
    panels = []
    if fan["path_of_flipped"]:
        panels += [
            _path(canvas, fan, bounds, mechanism),
            _turned(canvas, transport["margin"]["turned_by_step"], bounds, axis),
        ]
    panels.append(_ends(canvas, fan, bounds, axis))
    subtitle = f"{fan['samples']} samples, {fan['flipped']} of which change; line: median, band: 10 to 90 %"
    return Figure(
        "Where the errors come from that reach the end", alt.VConcatChart(vconcat=panels, spacing=16), canvas, subtitle
    )


def _path(canvas: Canvas, fan: Mapping[str, Any], bounds: Sequence[int], mechanism: Mapping[str, Any]) -> Any:
    rows = [{"left": k + 0.5} | quantiles for k, quantiles in zip(bounds, fan["path_of_flipped"], strict=True)]
    x, title = _steps_axis(mechanism), "margin of the trained class"
    data = canvas.draw(rows, "margin of flipped samples")
    boundary = canvas.draw([{"zero": 0.0, "text": "boundary"}], "boundary")
    # Exact and trained margins may differ by orders of magnitude; what matters is where they pass 0.
    wide = max(abs(row[name]) for row in rows for name in ("p10", "p90")) > _TICKS[-3]
    scale = alt.Scale(type="symlog" if wide else "linear")
    axis = (
        alt.Axis(values=_TICKS, labelOverlap=False, format="d", title=title)
        if wide
        else alt.Axis(tickCount=5, title=title)
    )
    layers = [
        data.mark_area(color=PALETTE[0], opacity=0.2).encode(
            x=x, y=alt.Y("p10:Q", title=title, scale=scale), y2="p90:Q"
        ),
        boundary.mark_rule(color=INK, strokeDash=[5, 4]).encode(y=alt.Y("zero:Q", title=title, scale=scale)),
        boundary.mark_text(align="left", baseline="bottom", dx=4, dy=-3, fontSize=12, color=INK).encode(
            x=alt.value(0), y=alt.Y("zero:Q", title=title, scale=scale), text="text:N"
        ),
        data.mark_line(color=PALETTE[0], strokeWidth=2.4, point=True).encode(
            x=x,
            y=alt.Y("median:Q", axis=axis, scale=scale),
            tooltip=["p10:Q", "median:Q", "p90:Q"],
        ),
    ]
    about = "Samples that change: their margin in the end if only the steps so far make errors"
    return alt.LayerChart(layer=layers).properties(width=WIDTH, height=170, title=_panel_title(about))


def _turned(canvas: Canvas, turned: Sequence[int], bounds: Sequence[int], x: alt.X) -> Any:
    rows = [
        _place(first, after) | {"turned": count, "none": 0}
        for (first, after), count in zip(pairwise(bounds), turned, strict=True)
    ]
    bars = (
        canvas.draw(rows, "turned")
        .mark_rect(color=PALETTE[1], stroke="white")
        .encode(
            x=x,
            x2="right:Q",
            y=alt.Y("none:Q", axis=alt.Axis(format="d", tickCount=4, tickMinStep=1, title="samples")),
            y2="turned:Q",
            tooltip=["first:Q", "last:Q", "turned:Q"],
        )
    )
    about = "Samples that change: the steps that turned them for good"
    return alt.LayerChart(layer=[bars]).properties(width=WIDTH, height=110, title=_panel_title(about))


def _ends(canvas: Canvas, fan: Mapping[str, Any], bounds: Sequence[int], x: alt.X) -> Any:
    rows = [
        _place(first, after) | {"middle": (first + after) / 2 + 0.5} | quantiles
        for (first, after), quantiles in zip(pairwise(bounds), fan["end"], strict=True)
    ]
    data = canvas.draw(rows, "size at the end")
    y = alt.Y("p10:Q", axis=alt.Axis(tickCount=4, title="size at the end"), scale=alt.Scale(zero=True))
    layers = [
        data.mark_rect(color=PALETTE[5], opacity=0.5, stroke="white").encode(x=x, x2="right:Q", y=y, y2="p90:Q"),
        data.mark_point(filled=True, size=55, color=PALETTE[0], opacity=1).encode(
            x=alt.X("middle:Q"), y=alt.Y("median:Q"), tooltip=["first:Q", "last:Q", "p10:Q", "median:Q", "p90:Q"]
        ),
    ]
    about = "All samples: the error that each step sends to the end, in units of the state"
    return alt.LayerChart(layer=layers).properties(width=WIDTH, height=130, title=_panel_title(about))


def _panel_title(text: str) -> alt.TitleParams:
    return alt.TitleParams(text, fontSize=13, fontWeight="normal", offset=6)


def _mechanism(audit: Audit) -> Mapping[str, Any]:
    mechanism: Mapping[str, Any] | None = audit["mechanism"]
    if mechanism is None:
        raise NothingToDraw(f"the audit has no mechanism: {audit['mechanism_reason']}")
    return mechanism


def _kept(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part: Mapping[str, Any] | None = found.get(name)
    if part is None:
        raise NothingToDraw("this audit was made before there was such a chart: audit the model again")
    return part


def _place(first: int, after: int) -> Row:
    """Return the place of the steps ``first`` to ``after - 1``, which are numbered from 0, on an axis from 1."""
    return {"first": first + 1, "last": after, "left": first + 0.5, "right": after + 0.5}


def _steps_axis(mechanism: Mapping[str, Any]) -> alt.X:
    steps = mechanism["steps"]
    title = f"step of the training solver, 1 to {steps}"
    every = max(1, -(-steps // 16))
    axis = alt.Axis(title=title, values=list(range(1, steps + 1, every)), format="d", grid=False, domainColor=FAINT)
    return alt.X("left:Q", scale=alt.Scale(domain=[0.5, steps + 0.5], nice=False), axis=axis)
