"""Fetches a preset's figures from the server, which draws them from stored results."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from api.client import ChartFormat, Client, ProblemError
from api.paper.findings import Configuration, Findings, StudyFindings
from api.paper.preset import Preset

FORMATS: tuple[ChartFormat, ...] = tuple(one for one in get_args(ChartFormat) if one != "json")
MOST_COMPARED = 8  # jobs in one picture

FetchChart = Callable[..., bytes]
"""Returns a figure in the ``format`` that is asked for."""


@dataclass(frozen=True)
class Figures:
    """The files of a preset's figures, and why others are missing."""

    files: list[Path]
    missing: list[str]


def fetch_figures(client: Client, preset: Preset, findings: Findings, folder: Path) -> Figures:
    """Write every figure of the preset in every format into ``folder``; a figure that is refused spoils no other."""
    figures = Figures([], [])
    if preset.compares_trainings and not _compared(findings):
        figures.missing.append("training: no training has left a model")
    for name, fetch in _figures(client, preset, findings):
        try:
            pictures = {kind: fetch(format=kind) for kind in FORMATS}
        except ProblemError as refused:
            figures.missing.append(f"{name}: {refused.detail}")
            continue
        for kind, picture in pictures.items():
            path = folder / f"{name}.{kind}"
            path.write_bytes(picture)
            figures.files.append(path)
    return figures


def _figures(client: Client, preset: Preset, findings: Findings) -> Iterator[tuple[str, FetchChart]]:
    """Yield the name of each figure's file without its ending, and what fetches it."""
    for study in findings.studies:
        part = f"{study.name.removeprefix('paper.')}-" if len(findings.studies) > 1 else ""
        if preset.accuracy_charts:
            study_id = study.study["id"]
            yield _as_file(f"{part}accuracy"), partial(client.study_chart, study_id, "accuracy", x="steps")
            yield _as_file(f"{part}accuracy-by-evaluations"), partial(client.study_chart, study_id, "accuracy", x="nfe")
        for configuration in study.configurations:
            yield from _adaptation(client, configuration, part)
    compared = _compared(findings) if preset.compares_trainings else []
    if compared:
        first, *others = compared
        yield "training", partial(client.chart, first, "training", beside=others)
    for job in findings.jobs:
        if job.job["kind"] == "portrait":
            for chart in preset.portrait_charts:
                yield _as_file(f"{job.label}-{chart}"), partial(client.chart, job.job["id"], chart)


def _adaptation(client: Client, configuration: Configuration, part: str) -> Iterator[tuple[str, FetchChart]]:
    """Yield the adaptation of a configuration's first seed, if its solver was adapted and it left a model."""
    if configuration.training.get("adaptation") is None or not configuration.seeds:
        return
    first = configuration.seeds[0]
    chart = "step-adaptation" if "rtol" not in configuration.training["solver"] else "tolerance-adaptation"
    name = _as_file(f"{part}{configuration.label}-seed{first.seed}-{chart}")
    yield name, partial(client.version_chart, first.model, first.version, chart)


def _compared(findings: Findings) -> list[str]:
    return [job for study in findings.studies for job in _jobs_of(study)][:MOST_COMPARED]


def _jobs_of(study: StudyFindings) -> list[str]:
    """Return the study's jobs that made a model, one for each configuration."""
    jobs = {cell["label"]: cell["job_id"] for cell in reversed(study.study["cells"]) if cell["status"] == "succeeded"}
    return list(reversed(jobs.values()))


def _as_file(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
