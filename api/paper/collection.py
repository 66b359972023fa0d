"""Fetches from the server what a preset's studies have found."""

from collections.abc import Iterable, Sequence
from typing import Any

from api.client import Client, Study
from api.paper.findings import Configuration, FailedSeed, Row, StudyFindings, TrainedSeed


def collect_study(client: Client, study: Study) -> StudyFindings:
    """Return the findings of a study that has ended.

    Args:
        client: of its server.
        study: as ``GET /v1/studies/{id}`` describes it.
    """
    rows: list[Row] = [dict(row) for row in client.results(study=study["id"], sort="created_at")]
    by_label: dict[str, list[dict[str, Any]]] = {}
    for cell in study["cells"]:
        by_label.setdefault(cell["label"], []).append(cell)
    return StudyFindings(
        study, tuple(_configuration(client, study, label, cells, rows) for label, cells in by_label.items())
    )


def _configuration(
    client: Client, study: Study, label: str, cells: Sequence[dict[str, Any]], rows: Iterable[Row]
) -> Configuration:
    first = cells[0]
    trained = [
        TrainedSeed(label, run["seed"], cell["model"], run["version"], run["solver"], run)
        for cell in cells
        if cell["status"] == "succeeded"
        for run in client.result(cell["job_id"])["runs"]
    ]
    failed = [FailedSeed(label, one["seed"], one["reason"]) for cell in cells for one in cell["failed_seeds"]]
    jobs = {cell["job_id"] for cell in cells}
    return Configuration(
        label=label,
        training={
            "dataset": study["spec"]["base"]["dataset"],
            "solver": first["train_solver"],
            "adaptation": first["adaptation"],
            "gradient": study["spec"]["base"].get("gradient", "backprop"),
        },
        seeds=tuple(sorted(trained, key=lambda one: one.seed)),
        failed=tuple(sorted(failed, key=lambda one: one.seed)),
        rows=tuple(row for row in rows if row["job_id"] in jobs),
    )
