"""An audit's result as one page that a person understands and that needs nothing else: no network, no script."""

import html
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from api.charts.catalogue import find_chart
from api.charts.drawing import draw_apart
from api.charts.material import Audit, Material, NothingToDraw
from ode_core.audit.advice import advice
from ode_core.specs import SolverSpec
from store.jobs import Job

CHARTS = ("audit-ladder", "crossing-map", "error-transport", "solver-choice")

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
)
"""Of such a page: its own style and its own pictures, and nothing from anywhere."""

_HEADLINES = {
    "ode": "Yes, an ODE",
    "discrete": "No, not an ODE",
    "inconclusive": "Not decided",
    "unresolved": "No reference, no verdict",
}
_CAUSES = {
    "crossing": "Trajectories cross",
    "accumulation": "Errors add up",
    "either": "Crossing steps, and errors that add up: each alone is enough",
    "together": "Crossing steps and errors that add up, together",
    "unknown": "Not known",
}
_OPTIONS = {
    "pin_solver": "Pin the solver",
    "modified_field": "Put in the modified field",
    "fine_tune": "Fine-tune",
    "retrain": "Train anew",
}


@dataclass(frozen=True)
class DrawnChart:
    """A chart of the page, or why there is none.

    Attributes:
        name: of the catalogue.
        svg: the drawing, None where there is nothing to draw.
        reason: why, in words; empty where there is a drawing.
        title: of the figure, for those who cannot see it.
    """

    name: str
    svg: Markup | None
    reason: str = ""
    title: str = ""


@dataclass(frozen=True)
class Suggestion:
    """A repair option with the request that takes it.

    Attributes:
        anchor: of the request in the page.
        title: in a few words.
        offered: whether it can be taken.
        sentence: what it does, or why it cannot be taken.
        request: a command for a shell, None where there is nothing to send.
    """

    anchor: str
    title: str
    offered: bool
    sentence: str
    request: str | None


def report_page(job: Job, audit: Audit, *, server: str, protected: bool) -> str:
    """Return the HTML page of an audit's result.

    Args:
        job: the audit.
        audit: its result.
        server: address of the server, without a slash at the end; commands name it.
        protected: whether requests need an API key.

    Raises:
        DrawingFailed: a chart was not drawn.
    """
    environment = Environment(
        loader=PackageLoader("api"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"share": share, "number": number, "limit": limit}
    solver = SolverSpec.model_validate(audit["train_solver"])
    return environment.get_template("audit_report.html").render(
        audit=audit,
        job=job,
        policy=CONTENT_SECURITY_POLICY,
        headline=_HEADLINES[audit["verdict"]],
        todo=what_to_do(audit),
        solver=solver.label,
        parent_solver=None if audit["parent"] is None else SolverSpec.model_validate(audit["parent"]["solver"]).label,
        bar=interval_bar(audit),
        rules=_rules(audit),
        cause=None if audit["mechanism"] is None else _CAUSES[audit["mechanism"]["cause"]],
        charts={name: _chart(name, audit) for name in CHARTS},
        flipping=audit["flipping_samples"],
        suggestions=suggestions(audit, server, protected=protected),
        seconds=_seconds(job.started_at, job.finished_at),
        server=server,
    )


def what_to_do(audit: Audit) -> str:
    """Return the advice that follows from the verdict, in a sentence or two."""
    label = SolverSpec.model_validate(audit["train_solver"]).label
    found = advice(
        audit["verdict"],
        solver=label,
        epsilon=audit["epsilon"],
        needed=audit["samples_needed"],
        held_out=audit["test_samples"],
    )
    if found is not None:
        return found
    if audit["repair"] is not None:
        return str(audit["repair"]["recommendation"])
    return (
        f"Predict with {label} alone, as the service does where a request names no solver. For the cause and for "
        "repairs audit it with mechanism true."
    )


@dataclass(frozen=True)
class IntervalBar:
    """The interval of the flip rate and the limit, as places from 0 to 100 along a bar.

    Attributes:
        low: where the interval begins.
        high: where it ends.
        rate: the flip rate.
        limit: epsilon.
        end: what the right end of the bar stands for.
    """

    low: float
    high: float
    rate: float
    limit: float
    end: float


def interval_bar(audit: Audit) -> IntervalBar:
    """Return the places on a bar from 0 to a little beyond what is on it."""
    low, high = audit["flip_interval"]
    end = min(1.0, 1.25 * max(high, audit["epsilon"]))

    def place(value: float) -> float:
        return float(round(100 * value / end, 2))

    return IntervalBar(place(low), place(high), place(audit["flip_rate"]), place(audit["epsilon"]), end)


def suggestions(audit: Audit, server: str, *, protected: bool) -> list[Suggestion]:
    """Return the repair options with the commands that take them."""
    options = [] if audit["repair"] is None else audit["repair"]["options"]
    return [
        Suggestion(
            f"request-{option['kind']}",
            _OPTIONS[option["kind"]],
            option["offered"],
            option["sentence"],
            _command(option, server, protected=protected) if option["offered"] else None,
        )
        for option in options
    ]


def _command(option: Mapping[str, Any], server: str, *, protected: bool) -> str:
    request = option["request"]
    inputs = {"inputs": ["..."]} if option["kind"] == "pin_solver" else {}  # which are the caller's
    return curl(server, request["method"], request["path"], inputs | request["body"], protected=protected)


def curl(server: str, method: str, path: str, body: Mapping[str, Any] | None, *, protected: bool) -> str:
    """Return a command for a shell that sends a request; whatever is in it stays an argument."""
    parts = ["curl"]
    if body is not None:
        parts.append(f"--json {shlex.quote(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())}")
    if method != ("GET" if body is None else "POST"):
        parts.append(f"--request {shlex.quote(method)}")
    if protected:
        parts.append('--header "Authorization: Bearer $ODENESS_API_KEY"')
    return " ".join([*parts, shlex.quote(server + path)])


def _rules(audit: Audit) -> list[dict[str, Any]]:
    """Return the opinions of the audit and the simpler rules, for a table."""
    names = {"paper_rule": "The paper's rule", "half_step_rule": "Twice the steps"}
    return [
        {
            "name": name,
            "passed": rule["passed"],
            "solver": None if rule["test_solver"] is None else SolverSpec.model_validate(rule["test_solver"]).label,
            "accuracy": rule["accuracy"],
            "difference": rule["difference"],
            "threshold": rule["threshold"],
            "misses": rule["passed"] is True and audit["verdict"] == "discrete",
        }
        for key, name in names.items()
        for rule in [audit[key]]
    ]


def _chart(name: str, audit: Audit) -> DrawnChart:
    chart = find_chart("audit", name)
    assert chart is not None
    try:
        figure = chart.draw(Material(audit=audit))
    except NothingToDraw as error:
        return DrawnChart(name, None, str(error))
    svg = draw_apart("svg", orjson.dumps(figure.document())).decode()
    return DrawnChart(name, Markup(_inline(svg, name, figure.title)), title=figure.title)  # noqa: S704  # our own


def _inline(svg: str, name: str, title: str) -> str:
    """Return a drawing as a part of a page with others: its identifiers are its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)


def share(value: float | None) -> str:
    """Return a share in percent; a dash for None."""
    if value is None:
        return "–"
    percent = 100 * value
    # An interval that ends at 1.02 % must not read as if it ended at 1 %.
    digits = 0 if percent in (0, 100) else 1 if percent >= 10 else 2
    return f"{percent:.{digits}f} %"


def limit(value: float) -> str:
    """Return a share that somebody chose, in percent, as it was chosen."""
    return f"{100 * value:.4g} %"


def number(value: float | None) -> str:
    """Return a number with three digits; a dash for None."""
    return "–" if value is None else f"{value:.3g}"


def _seconds(started: datetime | None, finished: datetime | None) -> float | None:
    return None if started is None or finished is None else (finished - started).total_seconds()


def report_name(audit: Audit) -> str:
    """Return the name of the file that a browser saves."""
    return f"odeness-audit-{audit['model']}-v{audit['version']}.html"
