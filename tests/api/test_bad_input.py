"""Every way to ask wrongly gets a problem that says what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.validation_messages import field_path
from ode_core.specs import METHODS, Budget
from store.settings import Settings
from tests.api.conftest import DIGITS_JOB, SPHERES_JOB, assert_problem, serve


def post_training(client: httpx.Client, **changes: Any) -> httpx.Response:
    return client.post("/v1/training-jobs", json=DIGITS_JOB | changes)


def test_an_unknown_method_is_refused_with_the_known_ones(refusing_client: httpx.Client) -> None:
    problem = assert_problem(
        post_training(refusing_client, solver={"method": "rk5", "steps": 2}), 422, "invalid_request"
    )
    assert problem["errors"][0]["path"] == "solver.method"
    assert "rk5" in problem["detail"]
    assert all(method in problem["detail"] for method in METHODS)


def test_zero_steps_are_refused_with_the_least_number(refusing_client: httpx.Client) -> None:
    problem = assert_problem(
        post_training(refusing_client, solver={"method": "euler", "steps": 0}), 422, "invalid_request"
    )
    assert problem["errors"] == [{"path": "solver.steps", "message": "must be at least 1, but is 0"}]
    assert problem["detail"] == "solver.steps: must be at least 1, but is 0"


@pytest.mark.parametrize(
    ("solver", "path", "remedy"),
    [
        ({"method": "euler"}, "solver", "give steps"),
        ({"method": "dopri5"}, "solver", "rtol"),
        ({"method": "euler", "steps": 2, "step_size": 0.5}, "solver", "either"),
        ({"method": "euler", "steps": 2.5}, "solver.steps", "integer"),
        ({"method": "dopri5", "rtol": -1, "atol": 1e-5}, "solver.rtol", "greater than 0"),
        ({"method": "euler", "steps": 2, "stepz": 3}, "solver.stepz", "leave it out"),
        ({"method": "euler", "step_size": 1e-9}, "", "larger step_size"),
        (None, "solver", "valid"),
    ],
)
def test_a_solver_that_makes_no_sense_is_refused_at_its_place(
    refusing_client: httpx.Client, solver: Any, path: str, remedy: str
) -> None:
    problem = assert_problem(post_training(refusing_client, solver=solver), 422, "invalid_request")
    assert problem["errors"][0]["path"] == path
    assert remedy in problem["detail"]


def test_paths_name_fields_as_the_user_wrote_them_inside_unions(refusing_client: httpx.Client) -> None:
    body = {
        "dataset": {"kind": "digits", "test_fraction": 2},
        "model": {"kind": "classifier", "field": {"kind": "conv3d"}},
    }
    problem = assert_problem(post_training(refusing_client, **body), 422, "invalid_request")
    assert {error["path"] for error in problem["errors"]} == {"dataset.test_fraction", "model.field"}
    assert "(and 1 more: see errors)" in problem["detail"]


def test_the_tag_of_a_union_is_not_part_of_a_path_but_a_field_of_its_name_is() -> None:
    body = {"kind": "sweep", "solvers": [{"steps": 0}], "name": {"kind": "name", "name": 1}}
    assert field_path(("body", "sweep", "solvers", 0, "steps"), body) == "solvers.0.steps"
    assert field_path(("body", "name", "name"), body) == "name.name"
    assert field_path(("query", "limit"), None) == "limit"


def test_unknown_fields_are_refused(refusing_client: httpx.Client) -> None:
    problem = assert_problem(post_training(refusing_client, iterations=5), 422, "invalid_request")
    assert problem["errors"][0]["path"] == "iterations"


def test_a_kind_that_does_not_exist_is_refused_with_the_known_ones(refusing_client: httpx.Client) -> None:
    problem = assert_problem(post_training(refusing_client, dataset={"kind": "imagenet"}), 422, "invalid_request")
    assert problem["errors"][0]["path"] == "dataset"
    assert "digits" in problem["detail"]
    problem = assert_problem(post_training(refusing_client, dataset={}), 422, "invalid_request")
    assert "kind" in problem["detail"]


def test_parts_that_do_not_fit_together_are_refused(refusing_client: httpx.Client) -> None:
    response = refusing_client.post("/v1/training-jobs", json=SPHERES_JOB | {"model": DIGITS_JOB["model"]})
    assert "conv1d" in assert_problem(response, 422, "invalid_request")["detail"]


@pytest.mark.parametrize("url", ["/v1/training-jobs", "/v1/evaluation-jobs", "/v1/models/tiny/predict"])
@pytest.mark.parametrize(
    "body", [b"{", b"", b"{'name': 1}", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_a_body_that_is_not_json_is_refused(refusing_client: httpx.Client, url: str, body: bytes) -> None:
    response = refusing_client.post(url, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    problem = assert_problem(response, response.status_code, response.json()["code"])
    assert problem["code"] in ("invalid_json", "unreadable_body", "invalid_request")


@pytest.mark.parametrize("url", ["/v1/training-jobs", "/v1/models/tiny/predict"])
@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"1", b"true"])
def test_a_body_that_is_no_object_is_refused(refusing_client: httpx.Client, url: str, body: bytes) -> None:
    response = refusing_client.post(url, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.json()["code"] in ("invalid_request", "invalid_json")


@pytest.mark.parametrize("url", ["/v1/training-jobs", "/v1/models/tiny/predict"])
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_of_another_media_type_is_refused(
    refusing_client: httpx.Client, url: str, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    problem = assert_problem(
        refusing_client.post(url, content=json.dumps(DIGITS_JOB), headers=headers), 415, "unsupported_media_type"
    )
    assert "Content-Type: application/json" in problem["detail"]


def test_nan_in_a_body_is_refused(refusing_client: httpx.Client) -> None:
    body = json.dumps(DIGITS_JOB | {"training": {"learning_rate": float("nan")}})
    response = refusing_client.post("/v1/training-jobs", content=body, headers={"Content-Type": "application/json"})
    assert assert_problem(response, 422, "invalid_request")["errors"][0]["path"] == "training.learning_rate"


def test_a_missing_dataset_file_is_named_with_the_setting_for_its_folder(
    refusing_client: httpx.Client,
) -> None:
    mnist = {"dataset": {"kind": "mnist"}}
    problem = assert_problem(post_training(refusing_client, **mnist), 409, "dataset_unavailable")
    assert "train-images-idx3-ubyte" in problem["detail"]
    assert "ODENESS_DATASETS_DIR" in problem["detail"]


def test_a_dataset_whose_files_are_there_is_accepted(tmp_path: Path, make_settings: Callable[..., Settings]) -> None:
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        file = tmp_path / "data" / "datasets" / "mnist" / f"{name}-ubyte"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    with serve(make_settings()) as served, served.client() as client:
        assert post_training(client, dataset={"kind": "mnist"}).status_code == 202


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "sweep", "model": "nobody", "solvers": [{"method": "euler", "steps": 2}]},
        {"kind": "audit", "model": "nobody"},
    ],
)
def test_evaluating_a_model_that_does_not_exist_is_refused(refusing_client: httpx.Client, body: dict[str, Any]) -> None:
    problem = assert_problem(refusing_client.post("/v1/evaluation-jobs", json=body), 404, "model_not_found")
    assert "nobody" in problem["detail"]
    assert "/v1/models" in problem["detail"]


def test_evaluating_a_version_that_does_not_exist_is_refused(refusing_client: httpx.Client) -> None:
    body = {"kind": "audit", "model": "tiny", "version": 7}
    assert_problem(refusing_client.post("/v1/evaluation-jobs", json=body), 404, "model_version_not_found")


@pytest.mark.parametrize(
    "url",
    [
        "/v1/models/nobody",
        "/v1/models/nobody/versions/1",
        "/v1/models/nobody/versions/1/checkpoint",
        "/v1/models/%00",
        "/v1/models/a%20b/versions/1",
        "/v1/models/" + "x" * 500,
        "/v1/models/nobody/aliases",
        "/v1/models/%00/aliases/production",
    ],
)
def test_a_model_that_does_not_exist_is_not_found(refusing_client: httpx.Client, url: str) -> None:
    assert_problem(refusing_client.get(url), 404, "model_not_found")


@pytest.mark.parametrize("suffix", ["", "/result", "/metrics", "/events", "/cancel"])
@pytest.mark.parametrize("job_id", ["1", "%00", "0193d5f0-0000-7000-8000-000000000000", "é" * 40])
def test_a_job_that_does_not_exist_is_not_found(refusing_client: httpx.Client, job_id: str, suffix: str) -> None:
    url = f"/v1/jobs/{job_id}{suffix}"
    response = refusing_client.post(url) if suffix == "/cancel" else refusing_client.get(url)
    assert_problem(response, 404, "job_not_found")


def test_a_training_job_beyond_the_budget_is_refused(make_settings: Callable[..., Settings]) -> None:
    with serve(make_settings(budget=Budget(parameters=100))) as served, served.client() as client:
        problem = assert_problem(post_training(client), 422, "budget_exceeded")
        assert "100" in problem["detail"]
        assert "smaller model" in problem["detail"]


def test_the_default_budget_refuses_what_would_take_for_ever(refusing_client: httpx.Client) -> None:
    changes = {"solver": {"method": "rk4", "steps": 100_000}}
    assert "fewer steps" in assert_problem(post_training(refusing_client, **changes), 422, "budget_exceeded")["detail"]


def test_a_sweep_beyond_the_budget_is_refused_at_the_solver_that_exceeds_it(refusing_client: httpx.Client) -> None:
    solvers = [{"method": "euler", "steps": 2}, {"method": "rk4", "steps": 100_000}]
    body = {"kind": "sweep", "model": "tiny", "solvers": solvers}
    problem = assert_problem(refusing_client.post("/v1/evaluation-jobs", json=body), 422, "budget_exceeded")
    assert problem["errors"][0]["path"] == "solvers.1"


def test_a_sweep_with_too_small_a_step_is_refused(refusing_client: httpx.Client) -> None:
    body = {"kind": "sweep", "model": "tiny", "solvers": [{"method": "euler", "step_size": 1e-12}]}
    problem = assert_problem(refusing_client.post("/v1/evaluation-jobs", json=body), 422, "invalid_request")
    assert "larger step_size" in problem["detail"]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/v1/jobs?statuss=queued", "statuss"),
        ("/v1/results?methode=euler", "methode"),
        ("/v1/models?name=x", "name"),
        ("/v1/solvers?x=1", "x"),
        ("/healthz?x=1", "x"),
    ],
)
def test_unknown_query_parameters_are_refused(refusing_client: httpx.Client, url: str, path: str) -> None:
    problem = assert_problem(refusing_client.get(url), 422, "invalid_request")
    assert problem["errors"][0]["path"] == path


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/v1/jobs?limit=0", "limit"),
        ("/v1/jobs?limit=1001", "limit"),
        ("/v1/jobs?limit=many", "limit"),
        ("/v1/jobs?kind=cooking", "kind"),
        ("/v1/jobs?status=lost", "status.0"),
        ("/v1/jobs?model=%00", "model"),
        ("/v1/jobs?name=" + "x" * 200, "name"),
        ("/v1/jobs?after=garbage", "after"),
        ("/v1/jobs?after=%00", "after"),
        ("/v1/models?after=WzFd", "after"),
        ("/v1/results?sort=nonsense", "sort"),
        ("/v1/results?sort=-accuracy&after=WyJhIiwxLCJiIl0", "after"),
        ("/v1/results?min_accuracy=nan", "min_accuracy"),
        ("/v1/results?max_nfe=inf", "max_nfe"),
        ("/v1/results?version=99999999999999999999", "version"),
        ("/v1/results?dataset=imagenet", "dataset"),
        ("/v1/results?test_method=rk5", "test_method"),
    ],
)
def test_wrong_values_of_query_parameters_are_refused(refusing_client: httpx.Client, url: str, path: str) -> None:
    problem = assert_problem(refusing_client.get(url), 422, "invalid_request")
    assert problem["errors"][0]["path"] == path


@pytest.mark.parametrize("version", ["0", "1.5", "-1", "99999999999999999999", "%00", "a%20b"])
def test_a_version_that_is_neither_number_nor_alias_is_refused(refusing_client: httpx.Client, version: str) -> None:
    problem = assert_problem(refusing_client.get(f"/v1/models/tiny/versions/{version}"), 422, "invalid_request")
    assert problem["errors"][0]["path"] == "version"
    assert "give its number, from 1 on, an alias, or latest" in problem["detail"]


@pytest.mark.parametrize("key", ["", "two words", "x" * 256])
def test_an_idempotency_key_that_is_none_is_refused(refusing_client: httpx.Client, key: str) -> None:
    response = refusing_client.post("/v1/training-jobs", json=DIGITS_JOB, headers={"Idempotency-Key": key})
    assert_problem(response, 422, "invalid_request")
