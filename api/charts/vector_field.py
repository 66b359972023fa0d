"""The vector field of a two-dimensional model as arrows."""

import math
from collections.abc import Sequence

import altair as alt

from api.charts.figure import Canvas, Figure, Row
from api.charts.material import Portrait
from api.charts.phase_plane import Plane, axes, name_of, panel, within
from api.charts.theme import INK

_ARROWS = 21  # along each edge; more than that run into one another
_SIZE = 480


def vector_field(portrait: Portrait) -> Figure:
    """Draw the field at time 0: where it leads by the arrows, how fast by their colours.

    Args:
        portrait: the result of a portrait job.
    """
    canvas = Canvas()
    field = portrait["field"]
    x, y = axes(field["plane"])
    speed = alt.Color(
        "speed:Q",
        scale=alt.Scale(scheme="viridis", type="sqrt"),
        legend=alt.Legend(title="speed |f|", orient="right", gradientLength=240, format=".4~g"),
    )
    # An arrow's angle counts clockwise from the top.
    angle = alt.Angle("angle:Q", scale=alt.Scale(domain=[0, 360], range=[0, 360]))
    arrows = (
        canvas.draw(arrow_rows(portrait["field"]["arrows"], portrait["field"]["plane"], _ARROWS), "field")
        .mark_point(shape="arrow", size=0.7 * (_SIZE / _ARROWS) ** 2, filled=True, opacity=1, strokeWidth=0)
        .encode(x=x, y=y, angle=angle, color=speed, tooltip=["x:Q", "y:Q", "u:Q", "v:Q", "speed:Q"])
    )
    starts = [{"x": states[0][0], "y": states[0][1]} for states in portrait["views"][0]["trajectories"]["states"]]
    samples = (
        canvas.draw(within(starts, field["plane"]), "starts")
        .mark_point(size=20, color=INK, filled=False, strokeWidth=1, opacity=1)
        .encode(x=x, y=y)
    )
    about = ["" if portrait["autonomous"] else f"at t = {field['time']:g}", "circles: where samples start"]
    chart = panel([arrows, samples], name_of(portrait), [part for part in about if part])
    chart = chart.properties(width=_SIZE, height=_SIZE)
    return Figure("Vector field dz/dt = f(t, z)", alt.HConcatChart(hconcat=[chart]), canvas)


def arrow_rows(arrows: Sequence[Sequence[float | None]], plane: Plane, most: int) -> list[Row]:
    """Return the arrows ``(count * count, 2)`` with places, speeds and angles, at most so many along an edge."""
    count = math.isqrt(len(arrows))
    stride = -(-count // most)
    (x0, x1), (y0, y1) = plane["x"], plane["y"]
    rows: list[Row] = []
    for i in range(0, count, stride):
        for j in range(0, count, stride):
            u, v = arrows[i * count + j]
            if u is None or v is None:
                continue
            # Along the curves as they are drawn: the axes have scales of their own.
            direction = math.atan2(v / (y1 - y0), u / (x1 - x0))
            rows.append(
                {
                    "x": x0 + (j + 0.5) / count * (x1 - x0),
                    "y": y0 + (i + 0.5) / count * (y1 - y0),
                    "u": u,
                    "v": v,
                    "speed": math.hypot(u, v),
                    "angle": (90 - math.degrees(direction)) % 360,
                }
            )
    return rows
