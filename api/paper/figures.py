"""Fetches a preset's figures from the server, which draws them from stored results."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from api.client import Client, ProblemError
from api.paper.findings import Findings
from api.paper.preset import Preset

FORMATS = ("svg", "png", "html")


@dataclass(frozen=True)
class Figures:
    """The files of a preset's figures, and why others are missing."""

    files: list[Path]
    missing: list[str]


def fetch_figures(client: Client, preset: Preset, findings: Findings, folder: Path) -> Figures:
    """Write every figure of the preset in every format into ``folder``; a figure that is refused spoils no other."""
    figures = Figures([], [])
    for place, chart, name in _charts(preset, findings):
        try:
            pictures = {kind: client.chart(place, chart, kind) for kind in FORMATS}
        except ProblemError as refused:
            figures.missing.append(f"{name}: {refused.detail}")
            continue
        for kind, picture in pictures.items():
            path = folder / f"{name}.{kind}"
            path.write_bytes(picture)
            figures.files.append(path)
    return figures


def _charts(preset: Preset, findings: Findings) -> Iterator[tuple[str, str, str]]:
    """Yield the path of what a chart is of, the chart's name, and the file's name without its ending."""
    several = len(findings.studies) > 1
    for study in findings.studies:
        adapted = any(one.training["adaptation"] is not None for one in study.configurations)
        for chart in preset.charts:
            if chart != "adaptation" or adapted:
                part = f"{study.name.removeprefix('paper.')}-" if several else ""
                yield f"/v1/studies/{study.study['id']}", chart, _as_file(part + chart)
    for job in findings.jobs:
        if job.job["kind"] == "portrait":
            for chart in preset.portrait_charts:
                yield f"/v1/jobs/{job.job['id']}", chart, _as_file(f"{job.label}-{chart}")


def _as_file(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
