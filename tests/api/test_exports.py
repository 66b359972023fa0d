"""Exports over HTTP: accepted or refused, made by a worker, downloaded by the client and the command line."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest

from api import command_line
from api.client import Client
from api.doorbell import Doorbell
from store.jobs import Job
from tests.api.conftest import SPHERES_JOB, Served, assert_problem, claim, train
from worker.executors.export import run_export
from worker.run_job import JobRunner

FILE = bytes(range(256)) * 10
RK4 = {"method": "rk4", "steps": 8}
DOPRI5 = {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}


def exported(served: Served, *, finished: bool = True) -> Job:
    """An export job with ``FILE`` as what it made."""
    with served.store.transaction() as tx:
        job = tx.jobs.submit("export", {}, model="spheres", model_version=1)
    if not finished:
        return job
    attempt = claim(served.store, job)
    blob_id = served.store.save_blob(FILE, job_id=job.id, attempt=attempt)
    with served.store.transaction() as tx:
        tx.artifacts.add(job.id, attempt, "spheres-v1-rk4-8.onnx", blob_id)
        return tx.jobs.succeed(job.id, attempt, {"model": "spheres", "version": 1})


def test_an_export_is_accepted_with_its_defaults_filled_in(served: Served, client: httpx.Client) -> None:
    train(served.store, SPHERES_JOB)

    response = client.post("/v1/evaluation-jobs", json={"kind": "export", "model": "spheres"})

    assert response.status_code == 202, response.text
    job = response.json()
    assert (job["kind"], job["version"]) == ("export", 1)
    assert job["spec"]["solver"] == {"method": "euler", "steps": 2}
    assert job["spec"]["format"] == "onnx"
    assert job["links"]["artifact"] == f"/v1/jobs/{job['id']}/artifact"


@pytest.mark.parametrize(
    ("trained", "parts", "code", "path", "remedy"),
    [
        ({}, {"solver": DOPRI5}, "export_impossible", "solver", "solver-choice"),
        ({"solver": DOPRI5}, {}, "export_impossible", "solver", "name a solver with steps"),
        ({}, {"solver": {"method": "trapezoid", "steps": 4}}, "export_impossible", "solver", "is implicit"),
        ({}, {"solver": {"method": "explicit_adams", "steps": 9}}, "export_impossible", "solver", "multistep"),
        (
            {},
            {"solver": {"method": "euler", "step_size": 0.3, "grid": "truncate"}},
            "export_impossible",
            "solver",
            "makes a short one",
        ),
        ({}, {"solver": {"method": "rk4", "steps": 90_000}}, "budget_exceeded", "solver", "fewer steps"),
        (
            {"model": SPHERES_JOB["model"] | {"field_arithmetic": "bfloat16"}},
            {},
            "export_impossible",
            "model",
            "field_arithmetic full",
        ),
    ],
    ids=["tolerances", "trained with tolerances", "implicit", "multistep", "truncate", "budget", "bfloat16"],
)
def test_an_export_that_cannot_be_made_is_refused_with_what_to_do(
    served: Served,
    client: httpx.Client,
    trained: dict[str, Any],
    parts: dict[str, Any],
    code: str,
    path: str,
    remedy: str,
) -> None:
    train(served.store, SPHERES_JOB | trained)

    response = client.post("/v1/evaluation-jobs", json={"kind": "export", "model": "spheres"} | parts)

    problem = assert_problem(response, 422, code)
    assert [error["path"] for error in problem["errors"]] == [path]
    assert remedy in problem["detail"]


@pytest.mark.parametrize(
    ("field", "solver", "path", "remedy"),
    [
        ({"kind": "series"}, None, "model", "iterates"),
        ({"kind": "local_error"}, None, "model", "iterates"),
        ({"kind": "iterates", "terms": 8}, {"method": "dopri8", "steps": 2}, "solver", "midpoint or euler"),
    ],
)
def test_a_repair_whose_field_cannot_be_exported_is_refused_with_what_to_do(
    served: Served, client: httpx.Client, field: dict[str, Any], solver: Any, path: str, remedy: str
) -> None:
    train(served.store, SPHERES_JOB)
    body = {"from_version": 1, "modified_field": {"solver": {"method": "euler", "steps": 2}} | field}
    assert client.post("/v1/models/spheres/versions", json=body).status_code == 201

    response = client.post("/v1/evaluation-jobs", json={"kind": "export", "model": "spheres", "solver": solver})

    problem = assert_problem(response, 422, "export_impossible")
    assert [error["path"] for error in problem["errors"]] == [path]
    assert remedy in problem["detail"]


def test_an_artifact_comes_whole_in_part_or_not_again(served_on_both: Served) -> None:
    job = exported(served_on_both)
    with served_on_both.client() as client:
        whole = client.get(f"/v1/jobs/{job.id}/artifact")
        assert (whole.status_code, whole.content) == (200, FILE)
        digest = hashlib.sha256(FILE).hexdigest()
        assert whole.headers["etag"] == f'"{digest}"'
        assert whole.headers["content-disposition"] == 'attachment; filename="spheres-v1-rk4-8.onnx"'
        part = client.get(f"/v1/jobs/{job.id}/artifact", headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, FILE[10:20])
        known = client.get(f"/v1/jobs/{job.id}/artifact", headers={"If-None-Match": whole.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
        beyond = client.get(f"/v1/jobs/{job.id}/artifact", headers={"Range": "bytes=9999-"})
        assert_problem(beyond, 416, "range_not_satisfiable")


def test_there_is_no_artifact_before_the_end_nor_of_another_kind_of_job(served: Served, client: httpx.Client) -> None:
    waiting = exported(served, finished=False)
    training = train(served.store, SPHERES_JOB)

    assert_problem(client.get(f"/v1/jobs/{waiting.id}/artifact"), 409, "job_not_finished")
    problem = assert_problem(client.get(f"/v1/jobs/{training.job_id}/artifact"), 404, "artifact_not_found")
    assert "submit an export" in problem["detail"]


def work_at_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every job in the request that submits it."""
    runner = JobRunner(
        settings=served.settings,
        store=served.store,
        executors={"export": run_export},
        ring=lambda job_id: None,
        draining=lambda: False,
    )
    monkeypatch.setattr(Doorbell, "ring", lambda doorbell, job_id: runner.run(job_id))


def on_the_command_line(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["odeness", "export", *arguments])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    return int(ended.value.code or 0)


def test_the_command_saves_a_file_whose_answers_are_those_of_predict(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    train(served.store, SPHERES_JOB)
    work_at_once(served, monkeypatch)
    file = tmp_path / "spheres.onnx"

    status = on_the_command_line(
        monkeypatch,
        *("spheres", "--version", "latest", "--method", "rk4", "--steps", "8"),
        *("--output", str(file), "--url", served.url),
    )

    shown = capsys.readouterr()
    assert status == 0, shown.err
    assert f"{file}: spheres version 1 with rk4-8" in shown.out
    assert "takes inputs ['batch', 1, 2] (float32)" in shown.out
    inputs = np.random.default_rng(0).normal(size=(5, 1, 2)).astype(np.float32)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    probabilities = session.run(["probabilities"], {"inputs": inputs})[0]
    with Client(served.url) as client:
        answers = client.predict("spheres", inputs, RK4)["predictions"]
        job = next(client.jobs(kind="export"))
        monkeypatch.chdir(tmp_path)
        assert client.artifact(job["id"]) == Path("spheres-v1-rk4-8.onnx")
    np.testing.assert_allclose(probabilities, [answer["probabilities"] for answer in answers], atol=1e-6)
    assert (tmp_path / "spheres-v1-rk4-8.onnx").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nobody"], "nobody"),
        (["spheres", "--version", "production"], "no alias production"),
        (["spheres", "--version", "2"], "no version 2"),
        (["spheres", "--version", "0"], "at least 1"),
        (["spheres", "--method", "rk4"], "both --method and --steps"),
        (["spheres", "--method", "trapezoid", "--steps", "4"], "is implicit"),
    ],
)
def test_the_command_says_in_a_sentence_why_there_is_no_file(
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    train(served.store, SPHERES_JOB)

    assert on_the_command_line(monkeypatch, *arguments, "--url", served.url) == 1

    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("odeness: ")
    assert shown.err.count("\n") == 1
    assert words in shown.err
