"""From a chart to a picture, without a browser or a network."""

import altair
import vl_convert


def to_png(chart: altair.TopLevelMixin, *, scale: float = 2.0) -> bytes:
    """Return the chart as a PNG; ``scale`` multiplies its size in pixels."""
    return bytes(vl_convert.vegalite_to_png(chart.to_json(), scale=scale))


def to_svg(chart: altair.TopLevelMixin) -> str:
    """Return the chart as an SVG document, with its text as text."""
    return str(vl_convert.vegalite_to_svg(chart.to_json()))
