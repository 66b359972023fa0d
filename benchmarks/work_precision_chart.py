"""Work against precision: the lower left a curve, the better the method."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import altair as alt

from api.charts.theme import PALETTE, SHAPES, configuration

PANEL_WIDTH, PANEL_HEIGHT = 380, 270
WORST, BEST = 1.0, 1e-13  # errors outside are not drawn: no solution, or the reference's own


@dataclass(frozen=True)
class PrecisionPoint:
    """What one solver did with one problem.

    Attributes:
        error: root mean square over samples and components, at the end.
        evaluations: of the field, mean over the samples.
        milliseconds: of one solve of the batch.
    """

    problem: str
    method: str
    adaptive: bool
    order: int
    error: float
    evaluations: float
    milliseconds: float


def work_precision_chart(points: Sequence[PrecisionPoint]) -> alt.VConcatChart:
    """Draw for each problem the fixed and the adaptive methods, against evaluations and against time.

    Methods of one order have one colour and differ by their marks.
    """
    drawn = [point for point in points if BEST <= point.error <= WORST]
    look = _look({point.method: point.order for point in drawn})
    rows = [
        _row([p for p in drawn if p.problem == problem and p.adaptive == adaptive], problem, adaptive, look)
        for problem in dict.fromkeys(p.problem for p in drawn)
        for adaptive in (False, True)
    ]
    chart: alt.VConcatChart = alt.VConcatChart(vconcat=rows, spacing=28).configure(**configuration(), aria=False)
    return chart


def _look(orders: Mapping[str, int]) -> dict[str, alt.Color | alt.Shape]:
    """Return how the methods look, given their orders: the colour by order, the mark by the place within it."""
    methods = sorted(orders, key=lambda method: (orders[method], method))
    different = list(dict.fromkeys(orders[method] for method in methods))
    peers = [[m for m in methods if orders[m] == orders[method]] for method in methods]
    colours = [PALETTE[different.index(orders[method]) % len(PALETTE)] for method in methods]
    shapes = [SHAPES[same.index(method) % len(SHAPES)] for method, same in zip(methods, peers, strict=True)]
    legend = alt.Legend(title=None, columns=6)
    return {
        "color": alt.Color("method:N", scale=alt.Scale(domain=methods, range=colours), legend=legend),
        "shape": alt.Shape("method:N", scale=alt.Scale(domain=methods, range=shapes), legend=legend),
    }


def _row(
    points: list[PrecisionPoint], problem: str, adaptive: bool, look: Mapping[str, alt.Color | alt.Shape]
) -> alt.HConcatChart:
    panels = [
        _panel(points, "evaluations", "evaluations of the field for one sample", look),
        _panel(points, "milliseconds", "milliseconds for the batch", look),
    ]
    title = f"{problem}, {'adaptive' if adaptive else 'fixed grid'}"
    return alt.HConcatChart(hconcat=panels, spacing=36, title=alt.TitleParams(title, offset=12))


def _panel(
    points: list[PrecisionPoint], work: str, title: str, look: Mapping[str, alt.Color | alt.Shape]
) -> alt.LayerChart:
    x = alt.X(
        f"{work}:Q",
        scale=alt.Scale(type="log", nice=False, padding=10),
        axis=alt.Axis(title=title, tickCount=5, format="~g"),
    )
    y = alt.Y(
        "error:Q",
        scale=alt.Scale(type="log", domain=[BEST, WORST], nice=False),
        axis=alt.Axis(title="error at the end", format=".0e", tickCount=7),
    )
    curves = alt.Chart(alt.InlineData(values=[asdict(point) for point in points]))
    # Along each curve by evaluations: an error may rise again, and a time is noisy.
    lines = curves.mark_line(strokeWidth=2, clip=True).encode(
        x=x, y=y, color=look["color"], order=alt.Order("evaluations:Q")
    )
    marks = curves.mark_point(size=55, filled=True, opacity=1, clip=True).encode(x=x, y=y, **look)
    return alt.LayerChart(layer=[lines, marks], width=PANEL_WIDTH, height=PANEL_HEIGHT)
