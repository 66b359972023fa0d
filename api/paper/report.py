"""The files that a preset leaves: ``table.md`` and ``results.json``."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from api.client import Study
from api.paper.findings import Findings
from api.paper.preset import Options, Preset
from api.paper.table import Table
from ode_core.specs import StudySpec

QUICK_WARNING = "A quick run: fewer iterations, seeds and solvers than the paper's. Its numbers are no measurement."


def what_is_trained(spec: StudySpec) -> str:
    """Return a study's configurations, seeds and iterations in words."""
    labels = ", ".join(configuration.label for configuration in spec.configurations())
    trained = f"trains {labels}" if spec.search is None else f"searches among {labels}"
    seeds = "1 seed" if len(spec.seeds) == 1 else f"{len(spec.seeds)} seeds"
    return f"{spec.name} {trained}; {seeds}, {spec.base.training.iterations:,} iterations"


def write_tables(
    folder: Path, preset: Preset, options: Options, command: str, findings: Findings, tables: Sequence[Table]
) -> Path:
    """Write the tables with what they are of; return the file."""
    lines = [f"# {preset.name}", ""]
    if options.quick:
        lines += [f"**{QUICK_WARNING}**", "", f"The whole preset: {preset.shows}. This run:", ""]
        lines += [f"* {what_is_trained(spec)}" for spec in preset.studies(options)] + [""]
    else:
        lines += [f"{preset.shows[0].upper()}{preset.shows[1:]}.", ""]
    lines += [f"The paper: {preset.paper_says}.", "", f"    {command}", "", _when(findings), ""]
    path = folder / "table.md"
    path.write_text("\n".join(lines) + "\n" + "\n".join(table.markdown() for table in tables), encoding="utf-8")
    return path


def write_results(
    folder: Path, preset: Preset, options: Options, command: str, findings: Findings, tables: Sequence[Table]
) -> Path:
    """Write all that was found as JSON; return the file."""
    document = {
        "preset": preset.name,
        "command": command,
        "options": asdict(options),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "odeness": version("odeness"),
        "tables": [asdict(table) for table in tables],
        "studies": [asdict(study) for study in findings.studies],
        "jobs": [asdict(job) for job in findings.jobs],
        "failed_jobs": [asdict(job) for job in findings.failed_jobs],
    }
    path = folder / "results.json"
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _when(findings: Findings) -> str:
    parts = [
        f"study {study.study['id']} ({study.study['status']}, {_seconds(study.study):,.0f} s)"
        for study in findings.studies
    ]
    return f"odeness {version('odeness')}; " + "; ".join(parts) + "."


def _seconds(study: Study) -> float:
    assert study["finished_at"] is not None
    return (datetime.fromisoformat(study["finished_at"]) - datetime.fromisoformat(study["created_at"])).total_seconds()
