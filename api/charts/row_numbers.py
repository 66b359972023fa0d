"""The numbers of rows beside where they end, apart from one another."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import altair as alt

from api.charts.figure import Canvas, Row
from api.charts.label_places import GAP, around, label_places
from api.charts.theme import INK

_TOGETHER = 9.0  # pixels between marks whose numbers are written as one label
_MARK = 6.0
_LINE = 12.0  # pixels that a line of text needs
_STYLE: dict[str, Any] = {"fontSize": 12, "fontWeight": "bold", "baseline": "middle"}

Pixel = tuple[float, float]


def number_layers(
    canvas: Canvas, ends: Sequence[Row], pixels: Sequence[Pixel], x: alt.X, y: alt.Y, size: tuple[float, float]
) -> list[alt.Chart]:
    """Return the layers of the numbers; rows that end in one spot have one label.

    Args:
        canvas: to draw on.
        ends: where rows end, with ``row``, their number.
        pixels: of the ends, from the panel's upper left corner.
        x: the panel's axis.
        y: the panel's axis.
        size: the panel's width and height in pixels.
    """
    groups = _together(pixels)
    labels = [(", ".join(str(ends[one]["row"]) for one in group), *pixels[group[0]]) for group in groups]
    places = label_places(labels, [around(*pixel, _MARK) for pixel in pixels], *size)
    placed = [
        (place, ends[group[0]] | {"numbers": text})
        for place, group, (text, _, _) in zip(places, groups, labels, strict=True)
    ]
    layers: list[alt.Chart] = []
    for (side, dy), rows in groupby(
        sorted(placed, key=lambda one: (one[0].side, one[0].dy)), key=lambda one: (one[0].side, one[0].dy)
    ):
        where: dict[str, Any] = {"align": "left" if side > 0 else "right", "dx": side * GAP * 0.7, "dy": dy}
        chart = canvas.draw([row for _, row in rows], "numbers")
        outline = chart.mark_text(color="white", stroke="white", strokeWidth=3, strokeJoin="round", **_STYLE, **where)
        text = chart.mark_text(color=INK, **_STYLE, **where)
        layers += [mark.encode(x=x, y=y, text="numbers:N") for mark in (outline, text)]
    return layers


def curve_number_layers(
    canvas: Canvas, ends: Sequence[Row], heights: Sequence[float], x: alt.X, y: alt.Y
) -> list[alt.Chart]:
    """Return the layer of the numbers right of where curves end; those that end level have one label, from the top.

    Args:
        canvas: to draw on.
        ends: of the curves, with ``row``, their number, and ``t``.
        heights: of the ends, in pixels from the top.
        x: the panel's axis.
        y: the panel's axis.
    """
    labels: list[Row] = []
    bottom: dict[float, float] = {}
    for height, end in sorted(zip(heights, ends, strict=True), key=lambda one: one[0]):
        level = next((label for label in reversed(labels) if label["t"] == end["t"]), None)
        if level is not None and height - bottom[end["t"]] < _LINE:
            level["numbers"] += f", {end['row']}"
        else:
            labels.append(end | {"numbers": str(end["row"])})
        bottom[end["t"]] = height
    text = canvas.draw(labels, "curve numbers").mark_text(align="left", dx=6, color=INK, **_STYLE)
    return [text.encode(x=x, y=y, text="numbers:N")]


def _together(pixels: Sequence[Pixel]) -> list[list[int]]:
    """Return the marks in groups, each around its first."""
    groups: list[list[int]] = []
    for number, pixel in enumerate(pixels):
        near = next((group for group in groups if math.dist(pixels[group[0]], pixel) <= _TOGETHER), None)
        if near is None:
            groups.append([number])
        else:
            near.append(number)
    return groups
