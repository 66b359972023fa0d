"""What all charts share: legible type, and colours that colour-blind readers can tell apart."""

from typing import Any

# Okabe and Ito, Color Universal Design (2008); without yellow, which is faint on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
INK, FAINT = "#222222", "#DDDDDD"

# vl-convert has fonts of this family with it; elsewhere a browser picks its own.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"


def configuration() -> dict[str, Any]:
    """Return the Vega-Lite configuration of a chart."""
    text = {"labelFontSize": 13, "titleFontSize": 14, "titleFontWeight": "normal", "titleColor": INK}
    return {
        "font": FONT,
        "background": "white",
        "padding": 16,
        "view": {"stroke": None},
        "axis": {
            **text,
            "labelColor": INK,
            "gridColor": FAINT,
            "domainColor": INK,
            "tickColor": INK,
            "titlePadding": 8,
        },
        "legend": {**text, "labelColor": INK, "symbolSize": 120, "symbolStrokeWidth": 2, "orient": "bottom"},
        "title": {"fontSize": 17, "subtitleFontSize": 13, "color": INK, "subtitleColor": "#555555", "anchor": "start"},
    }
