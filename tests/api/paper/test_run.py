"""A preset's run against a server that answers at once."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from api.client import Client, ProblemError
from api.paper.preset import Options, find_preset
from api.paper.presets import PRESETS
from api.paper.run import PaperFailed, run_preset

OWN = {"method": "euler", "steps": 2}
AUDITED = {
    "verdict": "ode",
    "train_accuracy": 0.95,
    "reference_accuracy": 0.95,
    "flip_rate": 0.0,
    "flip_interval": [0.0, 0.004],
}


class Server:
    """One study with two trained models, of seeds 0 and 1; ``audits`` says how the audit of each version ends."""

    def __init__(self, audits: dict[int, str]) -> None:
        self._audits = audits
        self._spec: dict[str, Any] = {}
        self._looked_at: set[str] = set()

    def __call__(self, *_: object, **__: object) -> "Server":
        return self

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def ready(self) -> None:
        return

    def studies(self, **_: object) -> list[dict[str, Any]]:
        return []

    def submit_study(self, spec: dict[str, Any], **_: object) -> dict[str, Any]:
        self._spec = spec
        return self.study("s")

    def study(self, _: str) -> dict[str, Any]:
        cell = {
            "label": "euler-2",
            "status": "succeeded",
            "job_id": "trained",
            "model": "m",
            "train_solver": OWN,
            "adaptation": None,
            "failed_seeds": [],
            "error": None,
        }
        return {
            "id": "s",
            "name": self._spec["name"],
            "status": "succeeded",
            "spec": self._spec,
            "progress": {"step": 1, "total": 1, "jobs": 1, "finished_jobs": 1},
            "cells": [cell],
            "created_at": "2025-01-01T00:00:00Z",
            "finished_at": "2025-01-01T00:10:00Z",
        }

    def results(self, **_: object) -> list[dict[str, Any]]:
        return []

    def submit_evaluation(self, document: dict[str, Any], **_: object) -> dict[str, Any]:
        version = document["version"]
        if self._audits[version] == "refused":
            raise ProblemError(422, "budget_exceeded", "the audit is too long")
        return {"id": str(version)}

    def job(self, job_id: str) -> dict[str, Any]:
        # Had it failed by the first look, a new one would be submitted in its place.
        ends = self._audits[int(job_id)] if job_id in self._looked_at else "running"
        self._looked_at.add(job_id)
        error = {"code": "internal", "message": "the worker was lost"} if ends == "failed" else None
        progress = {"step": 0, "total": 1, "message": ""}
        return {"id": job_id, "kind": "audit", "name": None, "model": "m", "status": ends} | {
            "error": error,
            "progress": progress,
        }

    def result(self, job_id: str) -> dict[str, Any]:
        if job_id == "trained":
            runs = [{"seed": seed, "version": seed + 1, "solver": OWN, "test_accuracy": 0.9} for seed in (0, 1)]
            return {"runs": runs}
        return AUDITED


@pytest.mark.parametrize(
    ("ends", "reason"), [("failed", "the worker was lost"), ("refused", "too long"), ("cancelled", "it was cancelled")]
)
def test_a_follow_up_job_that_fails_is_told_after_everything_else_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, reason: str
) -> None:
    monkeypatch.setattr("api.paper.run.Client", cast(type[Client], Server({1: ends, 2: "succeeded"})))
    preset = replace(find_preset(PRESETS, "three-minima"), accuracy_charts=False)

    with pytest.raises(PaperFailed, match=f"incomplete.*audit of euler-2 seed 0: .*{reason}"):
        run_preset(
            preset,
            Options(quick=True),
            url="http://server",
            output=tmp_path,
            again=False,
            console=Console(file=io.StringIO()),
        )

    table = (tmp_path / "three-minima" / "table.md").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "three-minima" / "results.json").read_text(encoding="utf-8"))
    assert "| euler-2 | 1 | 95.0 | 95.0 | 0.00 (0.00 to 0.40) | an ODE |" in table
    assert "## Jobs without a result" in table
    assert [job["seed"] for job in results["jobs"]] == [1]
    ((_, failed),) = [(job["kind"], job["reason"]) for job in results["failed_jobs"]]
    assert reason in failed
