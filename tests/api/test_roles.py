"""Processes that only take jobs, processes that only predict, and models loaded before a server is ready."""

import threading
from collections.abc import Callable, Sequence

import httpx
import pytest

from api.inference import warm_up
from api.inference.served_version import ServedVersion
from api.inference.service import Inference
from api.problems import Problem
from store.settings import Settings, SettingsInvalid
from tests.api.conftest import SPHERES_JOB, assert_problem, serve, train
from tests.conftest import wait_until

BODY = {"inputs": [[[0.1, 0.12]]]}


def test_an_inference_process_predicts_and_takes_no_jobs(make_settings: Callable[..., Settings]) -> None:
    with serve(make_settings(role="inference")) as served, served.client() as client:
        train(served.store, SPHERES_JOB)
        wait_until(lambda: client.get("/readyz").status_code == 200, "it is ready")
        assert client.get("/readyz").json()["broker"] == "unused"
        assert client.post("/v1/models/spheres/predict", json=BODY).status_code == 200
        assert client.get("/v2/models/spheres/ready").status_code == 200
        others = "ODENESS_ROLE=control or all"
        for method, path in (
            ("POST", "/v1/training-jobs"),
            ("GET", "/v1/models"),
            ("GET", "/v1/models/spheres/versions/1"),
        ):
            detail = assert_problem(client.request(method, path), 404, "route_not_found")["detail"]
            assert detail == f"this process only predicts (ODENESS_ROLE=inference): for {path} ask one of {others}"
        for path in ("/v1/models/nobody/predict", "/v1/models/nobody/aliases/latest/predict"):
            detail = assert_problem(client.post(path, json=BODY), 404, "model_not_found")["detail"]
            assert detail.endswith("this process only predicts: ask one of ODENESS_ROLE=control or all for lists")
        nowhere = assert_problem(client.get("/v1/nowhere"), 404, "route_not_found")["detail"]
        assert nowhere.startswith("there is nothing at /v1/nowhere")
        assert "/v1/training-jobs" not in client.get("/openapi.json").json()["paths"]


def test_an_inference_process_is_ready_when_torch_is_loaded(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loadable = threading.Event()
    load = Inference.load

    async def loading(self: Inference) -> None:
        if not loadable.is_set():
            raise ImportError("a library is missing")
        await load(self)

    monkeypatch.setattr(warm_up, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(Inference, "load", loading)
    with serve(make_settings(role="inference")) as served, served.client() as client:
        wait_until(lambda: "torch cannot be loaded" in caplog.text, "the first try")
        problem = assert_problem(client.get("/readyz"), 503, "models_not_loaded")
        assert problem["detail"] == "torch cannot be loaded, as the log says: ask again in a moment"
        assert client.get("/v2/health/ready").status_code == 503
        loadable.set()
        wait_until(lambda: client.get("/readyz").status_code == 200, "torch is loaded")
        assert client.get("/v2/health/ready").json() == {"ready": True}


def test_a_control_process_takes_jobs_and_predicts_nothing(make_settings: Callable[..., Settings]) -> None:
    with serve(make_settings(role="control")) as served, served.client() as client:
        train(served.store, SPHERES_JOB)
        assert client.post("/v1/training-jobs", json=SPHERES_JOB).status_code == 202
        assert client.get("/v1/models/spheres").status_code == 200
        problem = assert_problem(client.post("/v1/models/spheres/predict", json=BODY), 404, "route_not_found")
        refusal = (
            "this process predicts nothing (ODENESS_ROLE=control): for {} ask one of ODENESS_ROLE=inference or all"
        )
        assert problem["detail"] == refusal.format("/v1/models/spheres/predict")
        response = client.get("/v2/models/spheres")
        assert (response.status_code, response.json()) == (404, {"error": refusal.format("/v2/models/spheres")})


def test_a_server_is_ready_when_the_models_it_is_to_have_are_loaded(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_up, "RETRY_SECONDS", 0.05)
    with serve(make_settings(warm_models="spheres, spheres@live")) as served, served.client() as client:
        wait_until(lambda: "there is no model spheres" in client.get("/readyz").text, "the first try")
        train(served.store, SPHERES_JOB)
        wait_until(lambda: "no alias live" in client.get("/readyz").text, "the second try")
        problem = assert_problem(client.get("/readyz"), 503, "models_not_loaded")
        assert "spheres@live" in problem["detail"]
        assert client.put("/v1/models/spheres/aliases/live", json={"version": 1}).status_code == 201

        def ready() -> bool:
            response: httpx.Response = client.get("/readyz")
            return response.status_code == 200

        wait_until(ready, "all are loaded")


def test_the_inference_protocol_finds_server_and_model_ready_when_readyz_does(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load = threading.Event()
    load = Inference.warm

    async def warm(self: Inference, versions: Sequence[ServedVersion]) -> None:
        if not may_load.is_set():
            raise Problem(503, "busy", "not yet")
        await load(self, versions)

    monkeypatch.setattr(warm_up, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(Inference, "warm", warm)
    urls = ["/readyz", "/v2/health/ready", "/v2/models/spheres/ready", "/v2/models/spheres/versions/2/ready"]
    with serve(make_settings(warm_models="spheres")) as served, served.client() as client:
        train(served.store, SPHERES_JOB)
        train(served.store, SPHERES_JOB)
        assert [client.get(url).status_code for url in urls] == [503] * 4
        assert "models of ODENESS_WARM_MODELS are not loaded yet: spheres" in client.get(urls[1]).json()["error"]
        assert "models of ODENESS_WARM_MODELS are not loaded yet: spheres" in client.get(urls[2]).json()["error"]
        assert client.get("/v2/models/spheres/versions/1/ready").status_code == 200  # nobody waits for that one
        may_load.set()
        wait_until(lambda: client.get("/readyz").status_code == 200, "it is loaded")
        assert [client.get(url).status_code for url in urls] == [200] * 4


def test_wrong_names_of_models_are_refused_at_the_start() -> None:
    with pytest.raises(SettingsInvalid, match="ODENESS_WARM_MODELS"):
        Settings.load(warm_models="a model")
