"""The demo's picture and its report: one HTML file that needs nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from api.charts.render import to_png, to_svg
from api.charts.test_steps import accuracy_against_steps
from api.demo.digit_images import Digit
from api.demo.findings import Finding, percent
from api.demo.plan import TEST_METHODS, Plan

CHART_TITLE = "Accuracy against the steps of the test solver"


@dataclass(frozen=True)
class Written:
    """The files the demo leaves."""

    png: Path
    svg: Path
    report: Path


def write_report(
    folder: Path, plan: Plan, findings: Sequence[Finding], digits: Sequence[Digit], *, data: Path | None, seconds: float
) -> Written:
    """Write the picture and the report into ``folder`` and return their paths.

    Args:
        folder: made if need be.
        plan: what was trained and tested.
        findings: what came out.
        digits: those whose predictions are shown.
        data: the demo server's data folder; None when another server was used.
        seconds: that the demo took so far.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = Written(folder / "accuracy.png", folder / "accuracy.svg", folder / "report.html")
    rows = [row for finding in findings for row in sorted(finding.rows, key=lambda row: row["test_method"])]
    figure = accuracy_against_steps(rows, {finding.name: finding.summary for finding in findings}, CHART_TITLE, "steps")
    document = figure.document()
    svg = to_svg(document)
    written.png.write_bytes(to_png(document))
    written.svg.write_text(svg, encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("api"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    page = environment.get_template("demo_report.html").render(
        chart=Markup(svg),  # noqa: S704  # our own drawing, whose texts vl-convert escapes
        findings=findings,
        digits=digits,
        methods=TEST_METHODS,
        steps=plan.test_steps,
        data=data,
        seconds=seconds,
        made=datetime.now(UTC),
        version=version("odeness"),
    )
    written.report.write_text(page, encoding="utf-8")
    return written
