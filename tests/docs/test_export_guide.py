"""docs/export.md and docs/clients.md against the code: their examples are run against a server."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.doorbell import Doorbell
from api.schemas.export import ExportResult
from ode_core.export.agreement import BATCH_SIZES, TOLERANCES
from ode_core.export.onnx_file import OPSET
from ode_core.specs import ExportJobSpec
from ode_core.specs.export import MOST_EVALUATIONS_IN_STEP
from store.schema_version import migrate
from store.settings import Settings
from tests.api.conftest import SPHERES_JOB, Served, serve, train
from worker.executors.export import SAMPLES, run_export
from worker.run_job import JobRunner

DOCS = Path(__file__).parents[2] / "docs"
EXPORT, CLIENTS = (DOCS / "export.md").read_text(), (DOCS / "clients.md").read_text()


def blocks(guide: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", guide, re.DOTALL)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server with the model ``circles``, whose jobs are run in the request that submits them."""
    settings = Settings.load(data_dir=tmp_path, torch_threads=1)
    migrate(settings.database)
    monkeypatch.chdir(tmp_path)
    with serve(settings) as served:
        train(served.store, SPHERES_JOB | {"name": "circles"})
        runner = JobRunner(settings, served.store, {"export": run_export}, lambda job_id: None, lambda: False)
        monkeypatch.setattr(Doorbell, "ring", lambda doorbell, job_id: runner.run(job_id))
        yield served


def names_after(example: str, server: Served) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(example.replace("http://127.0.0.1:8000", server.url), names)
    return names


def test_the_python_examples_of_the_export_give_the_servers_answers(server: Served) -> None:
    in_onnxruntime, in_torch = (names_after(example, server) for example in blocks(EXPORT, "python"))

    for names, solver in ((in_onnxruntime, {"method": "rk4", "steps": 16}), (in_torch, None)):
        body = {"inputs": names["inputs"].tolist(), "solver": solver}
        with server.client() as client:
            answers = client.post("/v1/models/circles/predict", json=body).json()["predictions"]
        for row, answer in zip(names["probabilities"].tolist(), answers, strict=True):
            assert row == pytest.approx(answer["probabilities"], abs=1e-6)


def test_the_request_and_the_result_have_the_fields_there_are() -> None:
    request, result = (json.loads(block) for block in blocks(EXPORT, "json"))

    ExportJobSpec.model_validate(request)
    assert set(request) == set(ExportJobSpec.model_fields)
    ExportResult.model_validate(result)
    assert set(result) == set(ExportResult.model_fields)
    assert result["opset"] == OPSET


def test_the_numbers_are_those_of_the_code() -> None:
    words = " ".join(EXPORT.split())
    assert f"opset {OPSET} of the domain" in words
    assert f"on {SAMPLES} samples of the test split, in batches of {'{}, {} and {}'.format(*BATCH_SIZES)}" in words
    assert f"more than {MOST_EVALUATIONS_IN_STEP} evaluations of the field in one step" in words
    assert list(TOLERANCES.values()) == [1e-4, 1e-10]
    assert "by 1e-4 in float32 and by 1e-10 in float64" in words


def test_every_client_gets_the_same_answer(server: Served) -> None:
    (curl, _) = blocks(CLIENTS, "sh")
    command = curl.replace("http://127.0.0.1:8000", server.url)
    by_curl = json.loads(subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout)

    for example in blocks(CLIENTS, "python"):
        names = names_after(example, server)
        assert names["answer"] == by_curl
        assert len(names["labels"]) == 2
    assert by_curl["nfe"] == 64


def test_the_standard_librarys_client_shows_what_the_server_refuses(server: Served) -> None:
    example = blocks(CLIENTS, "python")[-1].replace("models/circles", "models/nobody")
    with pytest.raises(SystemExit, match="nobody"):
        names_after(example, server)
