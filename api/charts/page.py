"""A figure as a page of its own: interactive, and complete without a network."""

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from api.charts.drawing import draw_apart

# ``ast``: expressions are interpreted, not compiled, so that the page needs no 'unsafe-eval'.
_PROGRAM = """
vegaEmbed("#chart", JSON.parse(document.getElementById("document").textContent),
          {ast: true, renderer: "svg", actions: {export: true, source: true, compiled: false, editor: false}})
  .catch(error => { document.getElementById("chart").textContent = String(error); });
"""

_templates = Environment(loader=PackageLoader("api"), autoescape=True, undefined=StrictUndefined)


def page_of(title: str, document: Mapping[str, Any]) -> str:
    """Return the HTML page of a Vega-Lite document."""
    # In a script element only "</script" and "<!--" end or change anything: no "<" is left.
    text = json.dumps(document, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return _templates.get_template("chart.html").render(
        title=title,
        document=Markup(text),  # noqa: S704  # JSON without "<"
        library=Markup(_library()),  # noqa: S704  # the JavaScript that vl-convert brings along
        program=Markup(_PROGRAM),  # noqa: S704
    )


def content_security_policy() -> str:
    """Return the policy of such a page: its own two scripts and nothing from anywhere."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in (_library(), _PROGRAM))
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )


@functools.cache
def _library() -> str:
    """Return the JavaScript that draws Vega-Lite documents in a page (900 kB): it defines ``vegaEmbed``."""
    return draw_apart("javascript").decode().replace("</script", "<\\/script")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
