"""Predictions as a picture over HTTP: every format, the same answer beside it, and what cannot be drawn."""

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from api.client import Client
from api.inference import explaining, service
from api.inference.runtime import Interrupted
from api.schemas.charts import ExplanationDocument
from ode_core.audit.explanation import explain
from ode_core.models.classifier import Classifier, build_model
from ode_core.specs import TrainingJobSpec
from tests.api.conftest import SPHERES_JOB, Served, assert_problem, train
from tests.api.test_charts import CHECKS
from tests.conftest import wait_until

POINTS = [[[0.1, 0.12]], [[-0.4, 0.3]], [[0.7, -0.2]]]
PATH = "/v1/models/spheres/predict/explain"
WIDE_JOB = SPHERES_JOB | {
    "name": "wide",
    "model": {
        "kind": "classifier",
        "stem": {"kind": "linear", "features": 4},
        "field": {"kind": "mlp", "hidden": [8]},
    },
}


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    train(served.store, SPHERES_JOB)
    with served.client() as connected:
        yield connected


def explained(client: httpx.Client, path: str = PATH, **body: Any) -> dict[str, Any]:
    response = client.post(path, json={"inputs": POINTS} | body)
    assert response.status_code == 200, response.text
    ExplanationDocument.model_validate_json(response.content)
    document: dict[str, Any] = response.json()
    return document


@pytest.mark.parametrize("kind", ["png", "svg", "html"])
def test_a_picture_comes_as_query_and_accept_ask(client: httpx.Client, kind: str) -> None:
    media_type, check = CHECKS[kind]
    by_query = client.post(PATH, params={"format": kind}, json={"inputs": POINTS})
    by_header = client.post(PATH, json={"inputs": POINTS}, headers={"Accept": media_type.split(";")[0]})
    for response in (by_query, by_header):
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == media_type
        assert check(response.content)


@pytest.mark.parametrize("solver", [{"method": "euler", "steps": 4}, {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}])
def test_the_curves_are_those_of_the_prediction_and_of_the_equation(
    client: httpx.Client, solver: dict[str, Any]
) -> None:
    document = explained(client, solver=solver, times=[0.5, 1], certify=True)
    answer = client.post(
        PATH.removesuffix("/explain"), json={"inputs": POINTS, "solver": solver, "times": [0.5, 1], "certify": True}
    ).json()
    assert document["prediction"] == answer

    model = build_model(TrainingJobSpec.model_validate(SPHERES_JOB)).double()

    def field(t: float, z: Any) -> Any:
        with torch.no_grad():
            return model.field(torch.tensor(t), torch.tensor(z).reshape(1, 1, 2)).numpy().ravel()

    data = document["data"]
    for row, (point, prediction) in enumerate(zip(POINTS, answer["predictions"], strict=True)):
        (end,) = [one for one in data["ends 1"] if one["row"] == row]
        assert [end["x"], end["y"]] == pytest.approx(prediction["trajectory"][1][0], abs=1e-6)
        assert end["class"] == prediction["label"]
        start = model.initial_state(torch.tensor([point], dtype=torch.float64)).detach().numpy().ravel()
        expected = solve_ivp(field, (0, 1), start, rtol=1e-9, atol=1e-9).y[:, -1]
        (exact,) = [one for one in data["exact ends 1"] if one["row"] == row]
        np.testing.assert_allclose([exact["x"], exact["y"]], expected, atol=2e-3)
    assert ("steps 1" in data) == ("steps" in solver)


def test_a_version_or_an_alias_is_explained_by_its_path(client: httpx.Client) -> None:
    packed = client.post(
        "/v1/models/spheres/versions/1/predict/explain?format=json",
        content=gzip.compress(json.dumps({"inputs": POINTS}).encode()),
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
    )
    assert packed.status_code == 200, packed.text
    assert packed.json() == explained(client, "/v1/models/spheres/aliases/latest/predict/explain")
    assert "spheres version 1 predicts with euler-2" in packed.json()["title"]


def test_a_repair_is_drawn_with_the_flow_of_its_modified_field(served: Served) -> None:
    # An untrained tanh field is smooth: the flow of its modified field ends where eight steps of Euler do.
    euler = {"method": "euler", "steps": 8}
    smooth = {"kind": "classifier", "field": {"kind": "conv1d", "channels": 4, "activation": "tanh"}}
    train(served.store, SPHERES_JOB | {"solver": euler, "model": smooth})
    repair = {"from_version": 1, "modified_field": {"solver": euler, "kind": "iterates", "terms": 4}}
    with served.client() as client:
        assert client.post("/v1/models/spheres/versions", json=repair).status_code == 201
        parent = explained(client, "/v1/models/spheres/versions/1/predict/explain")["data"]
        repaired = explained(client, "/v1/models/spheres/versions/2/predict/explain")["data"]

    def places(rows: list[dict[str, Any]]) -> np.ndarray:
        return np.array([[one["x"], one["y"]] for one in rows])

    apart = np.abs(places(parent["exact ends 1"]) - places(parent["ends 1"])).max()
    assert apart > 0.01, "the parent's own flow should end elsewhere"
    np.testing.assert_allclose(places(repaired["exact ends 1"]), places(parent["ends 1"]), atol=2e-3)


def test_rows_whose_solve_failed_are_grey_and_named(client: httpx.Client) -> None:
    solver = {"method": "heun_euler", "rtol": 1e-6, "atol": 1e-6, "max_steps": 60}
    document = explained(client, solver=solver)
    assert document["prediction"]["failures"] == 3
    assert {one["row"] for one in document["data"]["failed states 1"]} == {0, 1, 2}
    assert document["data"]["ends 1"] == []
    assert "failed (max_steps_reached): 0, 1, 2" in json.dumps(document["vega_lite"]["title"])


def test_rows_that_leave_the_plane_are_named_and_those_that_end_together_share_a_label(client: httpx.Client) -> None:
    inputs = [[[0.1, 0.12]], [[0.1, 0.12]], [[-0.4, 0.3]], [[100.0, 90.0]]]
    body = {"inputs": inputs, "solver": {"method": "euler", "steps": 4}}
    drawn = client.post(PATH, params={"format": "svg"}, json=body).text
    assert "row 3 leaves this plane" in drawn

    data = client.post(PATH, params={"format": "json"}, json=body).json()["data"]
    numbers = [row["numbers"] for name, rows in data.items() if name.startswith("numbers") for row in rows]
    assert "0, 1" in numbers
    assert "3" not in numbers  # it ends outside
    at_curves = [row["numbers"] for row in data["curve numbers 1"]]
    assert sorted(", ".join(at_curves).split(", ")) == ["0", "1", "2", "3"]


def test_a_wider_state_is_seen_in_the_plane_of_the_inputs(served: Served) -> None:
    train(served.store, WIDE_JOB)
    inputs = [point[0] for point in POINTS]
    with served.client() as client:
        document = explained(client, "/v1/models/wide/predict/explain", inputs=inputs)
    assert [[one["x"], one["y"]] for one in document["data"]["inputs 1"]] == pytest.approx(np.array(inputs), abs=1e-6)
    assert document["data"]["regions 2"], "the exact flow's regions"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/models/tiny/predict/explain", {"inputs": [[[[0] * 8] * 8]]}, 422, "no_plane"),
        (PATH, {"inputs": POINTS * 22}, 422, "budget_exceeded"),
        (PATH, {"inputs": [[[0.1]]]}, 422, "invalid_shape"),
        (PATH + "?picture=png", {"inputs": POINTS}, 422, "invalid_request"),
        (PATH + "?format=gif", {"inputs": POINTS}, 422, "invalid_request"),
        (PATH, {"inputs": POINTS, "solver": "auto"}, 409, "not_audited"),
        ("/v1/models/none/predict/explain", {"inputs": POINTS}, 404, "model_not_found"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_reason(
    refusing_client: httpx.Client, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    assert_problem(refusing_client.post(path, json=body), status, code)


def test_a_format_that_there_is_not_is_refused_before_anything_is_computed(refusing_client: httpx.Client) -> None:
    response = refusing_client.post(PATH, json={"inputs": POINTS}, headers={"Accept": "video/mp4"})
    assert_problem(response, 406, "not_acceptable")


def test_exact_solutions_that_take_too_long_are_stopped_and_predictions_go_on(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "EXPLAINED_SECONDS", 0.0)
    problem = assert_problem(client.post(PATH, json={"inputs": POINTS}), 422, "budget_exceeded")
    assert "explain fewer inputs" in problem["detail"]
    assert client.post(PATH.removesuffix("/explain"), json={"inputs": POINTS}).status_code == 200


def test_more_than_a_few_at_once_are_told_to_come_back(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "EXPLAINED_AT_ONCE", 0)
    response = client.post(PATH, json={"inputs": POINTS})
    assert_problem(response, 503, "busy")
    assert response.headers["retry-after"] == "2"


class Held:
    """In the place of ``explain``: goes on asking whether it is wanted until it is let go, and then explains."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.let_go, self.given_up = threading.Event(), threading.Event(), threading.Event()
        monkeypatch.setattr(service, "EXPLAINED_SECONDS", 60.0)
        monkeypatch.setattr(explaining, "explain", self)

    def __call__(self, model: Classifier, exact: Classifier, *rest: Any, **options: Any) -> dict[str, Any]:
        self.begun.set()
        before_evaluation = exact.field.before_evaluation
        assert before_evaluation is not None
        try:
            while not self.let_go.wait(0.01):
                before_evaluation()
        except Interrupted:
            self.given_up.set()
            raise
        return explain(model, exact, *rest, **options)


def test_predictions_go_on_while_a_picture_is_computed_and_a_second_picture_is_told_to_come_back(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    with ThreadPoolExecutor(1) as other:
        first = other.submit(client.post, PATH, json={"inputs": POINTS})
        try:
            assert held.begun.wait(60)
            assert client.post(PATH.removesuffix("/explain"), json={"inputs": POINTS}).status_code == 200
            assert_problem(client.post(PATH, json={"inputs": POINTS}), 503, "busy")
            assert not first.done()
        finally:
            held.let_go.set()
        assert first.result(60).status_code == 200


def test_the_computation_ends_when_its_client_leaves(
    served: Served, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, body = Held(monkeypatch), json.dumps({"inputs": POINTS}).encode()
    address = httpx.URL(served.url)
    with socket.create_connection((address.host, address.port)) as connection:
        head = f"POST {PATH} HTTP/1.1\r\nHost: {address.host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert held.begun.wait(60)
    assert held.given_up.wait(60)
    held.let_go.set()
    assert client.post(PATH, json={"inputs": POINTS}).status_code == 200
    route = PATH.replace("spheres", "{name}")
    wait_until(lambda: f'route="{route}",status="499"}} 1.0' in client.get("/metrics").text, "it is counted as left")
    assert 'status="503"' not in client.get("/metrics").text


def test_a_server_that_stops_gives_up_what_it_explains(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    train(served.store, SPHERES_JOB)
    held = Held(monkeypatch)
    with ThreadPoolExecutor(1) as other, served.client() as client:
        asked = other.submit(client.post, PATH, json={"inputs": POINTS})
        assert held.begun.wait(60)
        served.app.state.services.inference.close()
        assert_problem(asked.result(60), 503, "stopping")


def test_the_python_client_saves_a_picture(served: Served) -> None:
    train(served.store, SPHERES_JOB)
    with Client(served.url) as client:
        picture = client.explain("spheres", POINTS, {"method": "euler", "steps": 4}, version=1, scale=1)
        page = client.explain("spheres", POINTS, format="html")
    assert CHECKS["png"][1](picture)
    assert CHECKS["html"][1](page)
