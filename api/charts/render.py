"""From a chart to a picture or a page, without a browser or a network."""

import functools
import json
from collections.abc import Mapping
from typing import Any

import altair
import vl_convert

Chart = altair.TopLevelMixin | Mapping[str, Any]
"""An altair chart, or the Vega-Lite document of one."""


def to_png(chart: Chart, *, scale: float = 2.0) -> bytes:
    """Return the chart as a PNG; ``scale`` multiplies its size in pixels."""
    return bytes(vl_convert.vegalite_to_png(_text(chart), scale=scale))


def to_svg(chart: Chart) -> str:
    """Return the chart as an SVG document, with its text as text."""
    return str(vl_convert.vegalite_to_svg(_text(chart)))


@functools.cache
def vega_embed() -> str:
    """Return the JavaScript that draws Vega-Lite documents in a page (900 kB): it defines ``vegaEmbed``."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _text(chart: Chart) -> str:
    return str(chart.to_json()) if isinstance(chart, altair.TopLevelMixin) else json.dumps(chart)
