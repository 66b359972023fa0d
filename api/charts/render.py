"""From a chart to a picture, without a browser or a network.

For programs that have nothing else to do meanwhile; a server draws with ``api.charts.drawing``.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import vl_convert

if TYPE_CHECKING:
    import altair

    Chart = altair.TopLevelMixin | Mapping[str, Any]
    """An altair chart, or the Vega-Lite document of one."""


def to_png(chart: "Chart", *, scale: float = 2.0) -> bytes:
    """Return the chart as a PNG; ``scale`` multiplies its size in pixels."""
    return bytes(vl_convert.vegalite_to_png(_text(chart), scale=scale))


def to_svg(chart: "Chart") -> str:
    """Return the chart as an SVG document, with its text as text."""
    return str(vl_convert.vegalite_to_svg(_text(chart)))


def page_library() -> str:
    """Return the JavaScript that draws Vega-Lite documents in a page: it defines ``vegaEmbed``."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _text(chart: "Chart") -> str:
    return json.dumps(chart) if isinstance(chart, Mapping) else str(chart.to_json())
