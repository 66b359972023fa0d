"""Weights trained elsewhere, uploaded as a model version."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load, save

from api.client import Client
from api.schemas.models import ModelVersionAnswer
from ode_core.models.classifier import build_model
from ode_core.specs import TrainingJobSpec
from tests.api.conftest import SPHERES_JOB, Served, assert_problem, train

POINTS = [[[0.1, 0.2]], [[0.3, -0.1]]]


def upload(client: httpx.Client, content: bytes, name: str = "mine", **changes: Any) -> httpx.Response:
    parts = {part: json.dumps(SPHERES_JOB[part]) for part in ("model", "dataset", "solver")}
    headers = {"Content-Type": "application/octet-stream"} | changes.pop("headers", {})
    return client.post("/v1/models", params={"name": name} | parts | changes, content=content, headers=headers)


def exported(client: httpx.Client) -> bytes:
    return client.get("/v1/models/spheres/versions/1/checkpoint").content


def test_exported_weights_uploaded_again_are_the_same_model(served_on_both: Served) -> None:
    train(served_on_both.store, SPHERES_JOB)
    with served_on_both.client() as client:
        weights = exported(client)
        made = upload(client, weights)
        here, there = (
            client.post(f"/v1/models/{name}/predict", json={"inputs": POINTS}).json() for name in ("spheres", "mine")
        )
        again = client.get("/v1/models/mine/versions/1/checkpoint")
        audit = client.post("/v1/evaluation-jobs", json={"kind": "audit", "model": "mine"})
        tuned = client.post("/v1/training-jobs", json=SPHERES_JOB | {"name": "tuned", "start_from": {"model": "mine"}})
        repaired = client.post(
            "/v1/models/mine/versions",
            json={"from_version": 1, "modified_field": {"solver": SPHERES_JOB["solver"], "kind": "series"}},
        )
    assert made.status_code == 201, made.text
    version = ModelVersionAnswer.model_validate_json(made.content)
    assert (version.version, version.origin, version.job_id, version.parent) == (1, "upload", None, None)
    assert made.headers["location"] == "/v1/models/mine/versions/1"
    assert made.json()["solver"] == SPHERES_JOB["solver"]
    assert here["predictions"] == there["predictions"]
    assert again.content == weights
    assert (audit.status_code, tuned.status_code, repaired.status_code) == (202, 202, 201)


def test_float64_weights_are_float64_by_themselves(served: Served) -> None:
    spec = TrainingJobSpec.model_validate(SPHERES_JOB | {"training": {"precision": "float64"}})
    content = save(build_model(spec).state_dict())
    with served.client() as client:
        made = upload(client, content)
        assert_problem(upload(client, content, precision="float32"), 422, "invalid_file")
    assert made.json()["training_spec"]["training"]["precision"] == "float64"


def test_weights_of_another_architecture_are_refused_with_all_that_differs(served: Served) -> None:
    train(served.store, SPHERES_JOB)
    with served.client() as client:
        tensors = load(exported(client))
        tensors["layers.0.weight"] = tensors.pop("field.network.0.weight")
        tensors["head.1.bias"] = torch.zeros(3)
        problem = assert_problem(upload(client, save(tensors)), 422, "invalid_file")
        assert_problem(client.get("/v1/models/mine"), 404, "model_not_found")
    for part in ("field.network.0.weight [4, 1, 1]", "layers.0.weight", "head.1.bias has shape [3] instead of [2]"):
        assert part in problem["detail"]


def test_weights_that_are_not_finite_are_refused(served: Served) -> None:
    train(served.store, SPHERES_JOB)
    with served.client() as client:
        tensors = load(exported(client))
        tensors["head.1.bias"][0] = torch.nan
        problem = assert_problem(upload(client, save(tensors)), 422, "invalid_file")
    assert "head.1.bias" in problem["detail"]


@pytest.mark.parametrize(
    ("changes", "status", "code", "path"),
    [
        ({"solver": "euler"}, 422, "invalid_request", "solver"),
        ({"solver": '{"method": "euler"}'}, 422, "invalid_request", "solver"),
        ({"model": "[" * 10_000}, 422, "invalid_request", "model"),
        ({"model": '{"kind": "preset", "name": "cifar10"}'}, 422, "invalid_request", ""),
        ({"dataset": '{"kind": "uploaded", "name": "nothing"}'}, 404, "dataset_not_found", None),
        ({"name": "a/b"}, 422, "invalid_request", "name"),
        ({"headers": {"Content-Type": "application/json"}}, 415, "unsupported_media_type", None),
    ],
)
def test_what_is_declared_is_checked_before_the_file(
    served: Served, changes: dict[str, Any], status: int, code: str, path: str | None
) -> None:
    with served.client() as client:
        problem = assert_problem(upload(client, b"unread", **changes), status, code)
    if path is not None:
        assert [error["path"] for error in problem["errors"]] == [path]


def test_a_model_beyond_the_budget_is_refused(make_settings: Any) -> None:
    from tests.api.conftest import serve

    with serve(make_settings(budget={"parameters": 50})) as served, served.client() as client:
        assert_problem(upload(client, b"unread"), 422, "budget_exceeded")


def test_a_file_larger_than_uploads_may_be_is_refused(make_settings: Any) -> None:
    from tests.api.conftest import serve

    with serve(make_settings(max_upload_bytes=2000, max_body_bytes=2000)) as served, served.client() as client:
        assert_problem(upload(client, b"x" * 2001), 413, "body_too_large")


def test_the_python_client_uploads_and_repairs(served: Served, tmp_path: Path) -> None:
    train(served.store, SPHERES_JOB)
    with Client(served.url) as odeness:
        file = tmp_path / "weights.safetensors"
        file.write_bytes(odeness.checkpoint("spheres", 1))
        parts = {part: SPHERES_JOB[part] for part in ("model", "dataset", "solver")}
        first = odeness.upload_model("mine", file, **parts, idempotency_key="one")
        again = odeness.upload_model("mine", file, **parts, idempotency_key="one")
        repaired = odeness.repair("mine", 1, {"solver": SPHERES_JOB["solver"], "kind": "iterates"})
        assert [one["version"] for one in odeness.model("mine")["versions"]] == [2, 1]
    assert first == again
    assert repaired["parent"] == {"model": "mine", "version": 1}
