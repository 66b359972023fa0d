"""The clients of KServe and MLServer against a real server, each as released and in a process of its own.

They want other versions of what odeness needs, so `make client-packages` installs each into a virtual environment.
"""

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from store.settings import Settings
from tests.api.conftest import SPHERES_JOB, Served, serve, train
from tests.conftest import unavailable

KEY = "a key for the clients"
ROOT = Path(__file__).parents[3]
SCRIPTS = Path(__file__).parent / "clients"
GUIDE = (ROOT / "docs" / "inference-protocol.md").read_text()
SAMPLES = np.random.default_rng(0).uniform(-1, 1, (40, 1, 2)).astype(np.float32)
SECONDS = 120  # for a client, on a busy machine


@dataclass
class Spheres:
    """A server with one model, and what it predicts by `/v1`.

    Attributes:
        url: of the server.
        samples: file of the samples.
        logits: with dopri5 at tolerances of 1e-5, ``(samples, classes)``.
        own_logits: with the version's own solver.
    """

    url: str
    samples: Path
    logits: np.ndarray
    own_logits: np.ndarray


@pytest.fixture(scope="module")
def spheres(tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path) -> Iterator[Spheres]:
    folder = tmp_path_factory.mktemp("clients")
    shutil.copy(_sqlite_template, folder / "api.db")
    np.save(folder / "samples.npy", SAMPLES)
    settings = Settings.load(
        data_dir=folder / "data", database_url=f"sqlite:///{folder / 'api.db'}", torch_threads=1, api_key=KEY
    )
    with serve(settings) as served, served.client(headers={"Authorization": f"Bearer {KEY}"}) as client:
        train(served.store, SPHERES_JOB)
        yield Spheres(
            served.url,
            folder / "samples.npy",
            _logits(client, {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}),
            _logits(client, None),
        )


def _logits(client: httpx.Client, solver: dict[str, Any] | None) -> np.ndarray:
    answer = client.post("/v1/models/spheres/predict", json={"inputs": SAMPLES.tolist(), "solver": solver}).json()
    return np.array([one["logits"] for one in answer["predictions"]], np.float32)


@pytest.fixture(scope="module")
def through_kserve(spheres: Spheres) -> dict[str, Any]:
    return _talk(spheres, "kserve")


@pytest.fixture(scope="module")
def through_mlserver(spheres: Spheres) -> dict[str, Any]:
    return _talk(spheres, "mlserver")


def _talk(spheres: Spheres, package: str) -> dict[str, Any]:
    arguments = [SCRIPTS / f"through_{package}.py", spheres.url, KEY, spheres.samples]
    done = _run([_program(package, "python"), *arguments])
    return json.loads(done.stdout)


def _program(package: str, name: str) -> Path:
    program = ROOT / ".venv-clients" / package / "bin" / name
    if not program.exists():
        unavailable(f"the client of {package} is not installed: run make client-packages")
    return program


def _run(command: list[Any], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    # Of our own modules none: a client runs where odeness is not installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "NO_PROXY": "127.0.0.1"
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


def _check(answer: dict[str, Any], logits: np.ndarray) -> None:
    """Hold an answer with all outputs against what `/v1` predicts."""
    outputs = answer["outputs"]
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.sum(outputs["probabilities"], -1), 1, rtol=1e-6)
    assert np.ravel(outputs["label"]).tolist() == logits.argmax(-1).tolist()
    assert set(outputs["status"]) == {"success"}
    assert np.min(outputs["nfe"]) >= 2
    assert answer["parameters"]["failures"] == 0
    assert answer["parameters"]["status"] == "success"


def _check_failed(answer: dict[str, Any]) -> None:
    """Hold an answer against what an adaptive solve of one step cannot give."""
    outputs = answer["outputs"]
    assert np.isnan(np.array(outputs["logits"], float)).all()
    assert np.isnan(np.array(outputs["probabilities"], float)).all()
    assert set(np.ravel(outputs["label"])) == {-1}
    assert set(outputs["status"]) == {"max_steps_reached"}
    assert (answer["parameters"]["failures"], answer["parameters"]["status"]) == (len(SAMPLES), "failed")


@pytest.mark.parametrize("form", ["json", "binary inputs", "binary outputs", "binary", "one version"])
def test_kserves_client_predicts_with_the_solver_it_names(
    spheres: Spheres, through_kserve: dict[str, Any], form: str
) -> None:
    answer = through_kserve[form]
    _check(answer, spheres.logits)
    assert (answer["id"], answer["model"]) == ("mine", "spheres")
    facts = answer["parameters"]
    assert (facts["solver"], facts["rtol"], facts["atol"]) == ("dopri5", 1e-5, 1e-5)
    assert facts["nfe"] == pytest.approx(np.mean(answer["outputs"]["nfe"]))


def test_kserves_client_finds_server_and_model_ready(through_kserve: dict[str, Any]) -> None:
    states = ("live", "ready", "model_ready", "version_ready", "unknown_model_ready")
    assert [through_kserve[state] for state in states] == [True, True, True, True, False]


def test_kserves_client_leaves_the_solver_to_the_version(spheres: Spheres, through_kserve: dict[str, Any]) -> None:
    answer = through_kserve["own solver"]
    _check(answer, spheres.own_logits)
    assert (answer["parameters"]["solver"], answer["parameters"]["steps"]) == ("euler", 2)


def test_kserves_client_gets_the_outputs_it_asks_for(spheres: Spheres, through_kserve: dict[str, Any]) -> None:
    outputs = through_kserve["some outputs"]["outputs"]
    assert outputs == {"label": spheres.logits.argmax(-1).tolist(), "status": ["success"] * len(SAMPLES)}


@pytest.mark.parametrize("form", ["failed in json", "failed in binary"])
def test_kserves_client_sees_which_samples_failed(through_kserve: dict[str, Any], form: str) -> None:
    _check_failed(through_kserve[form])


def test_kserves_client_raises_errors_with_their_text(through_kserve: dict[str, Any]) -> None:
    for error, words in [
        ("unknown_model", ["no model cubes", "404"]),
        ("unknown_solver", ["dopri5", "422"]),
        ("wrong_body", ["inputs", "at least one tensor", "422"]),
    ]:
        assert all(word in through_kserve[error] for word in words), through_kserve[error]


@pytest.mark.parametrize("form", ["json", "tagged"])
def test_mlservers_types_carry_a_prediction_with_the_solver_they_name(
    spheres: Spheres, through_mlserver: dict[str, Any], form: str
) -> None:
    answer = through_mlserver[form]
    _check(answer, spheres.logits)
    assert (answer["status"], answer["id"], answer["model"], answer["version"]) == (200, "mine", "spheres", "1")
    facts = answer["parameters"]
    assert (facts["solver"], facts["rtol"], facts["atol"]) == ("dopri5", 1e-5, 1e-5)
    assert facts["nfe"] == pytest.approx(np.mean(answer["outputs"]["nfe"]))


def test_mlservers_types_leave_the_solver_to_the_version(spheres: Spheres, through_mlserver: dict[str, Any]) -> None:
    answer = through_mlserver["own solver"]
    _check(answer, spheres.own_logits)
    assert (answer["parameters"]["solver"], answer["parameters"]["steps"]) == ("euler", 2)


def test_mlservers_types_get_the_outputs_they_ask_for(spheres: Spheres, through_mlserver: dict[str, Any]) -> None:
    outputs = through_mlserver["some outputs"]["outputs"]
    assert outputs == {"label": spheres.logits.argmax(-1).tolist(), "status": ["success"] * len(SAMPLES)}


def test_mlservers_types_say_which_samples_failed(through_mlserver: dict[str, Any]) -> None:
    _check_failed(through_mlserver["failed in json"])


def test_mlservers_types_describe_server_and_model(through_mlserver: dict[str, Any]) -> None:
    states = ("live", "ready", "model_ready", "unknown_model_ready")
    assert [through_mlserver[state] for state in states] == [200, 200, 200, 404]
    assert "binary_tensor_data" in through_mlserver["server"]["extensions"]
    metadata = through_mlserver["metadata"]
    assert (metadata["name"], metadata["versions"]) == ("spheres", ["1"])
    assert metadata["inputs"] == [{"name": "inputs", "datatype": "FP32", "shape": [-1, 1, 2]}]
    assert [output["name"] for output in metadata["outputs"]] == ["probabilities", "logits", "label", "status", "nfe"]
    assert through_mlserver["index"] == [{"name": "spheres", "version": "1", "state": "READY", "reason": ""}]


def test_mlservers_types_read_errors(through_mlserver: dict[str, Any]) -> None:
    status, error = through_mlserver["unknown_model"]
    assert (status, "no model cubes" in error) == (404, True)
    status, error = through_mlserver["unknown_solver"]
    assert (status, "dopri5" in error) == (422, True)


def _infer(spheres: Spheres, folder: Path, model: str, *options: str, binary: bool = True) -> list[dict[str, Any]]:
    """Run the guide's ``mlserver infer`` over the samples, one a line; return the lines it wrote, in order."""
    (documented,) = (block for block in _blocks("sh") if "mlserver infer" in block)
    documented = documented.replace("\\\n", "").replace("127.0.0.1:8000", urlsplit(spheres.url).netloc)
    program, command, *arguments = shlex.split(documented)
    requests = [
        {
            "inputs": [{"name": "inputs", "datatype": "FP32", "shape": [1, 1, 2], "data": sample.ravel().tolist()}],
            "parameters": {"solver": "dopri5", "rtol": 1e-5, "atol": 1e-5},
        }
        for sample in SAMPLES
    ]
    (folder / "requests.jsonl").write_text("".join(json.dumps(request) + "\n" for request in requests))
    if not binary:
        arguments.remove("--binary-data")
    ours = ["--model-name", model, "--retries", "1", "-H", f"Authorization: Bearer {KEY}", *options]
    _run([_program("mlserver", program), command, *arguments, *ours], folder)
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    return sorted(lines, key=lambda line: line["parameters"]["batch_index"])


@pytest.mark.parametrize("binary", [True, False])
def test_mlserver_infer_predicts_a_file_with_the_versions_own_solver(
    spheres: Spheres, tmp_path: Path, binary: bool
) -> None:
    lines = _infer(spheres, tmp_path, "spheres", "--batch-size", "16", binary=binary)
    outputs = [{output["name"]: output for output in line["outputs"]} for line in lines]
    logits = [output["logits"]["data"] for output in outputs]
    np.testing.assert_allclose(logits, spheres.own_logits, rtol=1e-5, atol=1e-6)
    assert [output["label"]["data"] for output in outputs] == [[label] for label in spheres.own_logits.argmax(-1)]
    assert [output["status"]["data"] for output in outputs] == [["success"]] * len(SAMPLES)
    assert {line["parameters"]["solver"] for line in lines} == {"euler"}


def test_mlserver_infer_writes_down_why_there_is_no_answer(spheres: Spheres, tmp_path: Path) -> None:
    lines = _infer(spheres, tmp_path, "cubes", "--batch-size", "40")
    assert len(lines) == len(SAMPLES)
    assert all("no model cubes" in line["error"]["msg"] for line in lines)


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.mark.parametrize("package", ["tritonclient", "kserve", "mlserver"])
def test_the_guides_example_predicts(served: Served, package: str) -> None:
    train(served.store, SPHERES_JOB)
    with served.client() as client:
        body = {"inputs": [[[0.1, 0.12]]], "solver": {"method": "rk4", "steps": 8}}
        (prediction,) = client.post("/v1/models/spheres/predict", json=body).json()["predictions"]
    (example,) = (block for block in _blocks("python") if package in block)
    python = sys.executable if package == "tritonclient" else _program(package, "python")
    said = _run([python, "-c", example.replace("127.0.0.1:8000", urlsplit(served.url).netloc)]).stdout
    assert said.startswith(f"[{prediction['label']}]"), said
    assert "32" in said  # evaluations: 8 steps of 4


def test_the_guides_name_the_versions_that_are_tested() -> None:
    tested = {"tritonclient": importlib.metadata.version("tritonclient")}
    for package in ("kserve", "mlserver"):
        listed = (SCRIPTS / f"requirements-{package}.txt").read_text()
        (tested[package],) = re.findall(rf"^{package}==(.*)$", listed, re.MULTILINE)
    rows = re.findall(r"^\| `(\w+)`: .*?\| ([0-9.]+) \|", GUIDE, re.MULTILINE)
    assert {name for name, _ in rows} == set(tested)
    assert all(tested[name] == version for name, version in rows)
    clients = (ROOT / "docs" / "clients.md").read_text()
    assert dict(re.findall(r"`(tritonclient|kserve|mlserver)` ([0-9.]+)", clients)) == tested
