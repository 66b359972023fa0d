"""The short way for predictions answers as the ordinary routes do, whatever is asked."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from api.app import create_app
from api.prediction_path import PredictingApp, _PlainHeaders, _PlainRequest
from store.settings import Settings
from tests.api.conftest import SPHERES_JOB, serve, train

KEY = "a key of more than sixteen letters"
MOST_BYTES = 4096
BODY = b'{"inputs": [[[0.1, 0.2]], [[0.3, -0.1]]], "solver": {"method": "euler", "steps": 2}}'
INFER = b"""{"id": "7", "parameters": {"solver": "euler", "steps": 2},
 "inputs": [{"name": "inputs", "shape": [1, 1, 2], "datatype": "FP32", "data": [0.1, 0.2]}]}"""
SIGNED = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", "X-Request-ID": "mine"}
SCOPE = {"type": "http", "headers": []}
V1, V2 = "/v1/models/spheres/predict", "/v2/models/spheres/infer"

REQUESTS: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "v1": (V1, BODY, {}),
    "v1, a version": ("/v1/models/spheres/versions/1/predict", BODY, {}),
    "v1, no such version": ("/v1/models/spheres/versions/2/predict", BODY, {}),
    "v1, no such model": ("/v1/models/nobody/predict", BODY, {}),
    "v1, no JSON": (V1, b"{", {}),
    "v1, no key": (V1, BODY, {"Authorization": ""}),
    "v1, a wrong key": (V1, BODY, {"Authorization": "Bearer another"}),
    "v1, another media type": (V1, BODY, {"Content-Type": "text/plain"}),
    "v1, a wrong shape": (V1, b'{"inputs": [[1, 2, 3]]}', {}),
    "v1, too large": (V1, b" " * MOST_BYTES + BODY, {}),
    "v1, as large as allowed": (V1, BODY.ljust(MOST_BYTES), {}),
    "v1, an id that is none": (V1, BODY, {"X-Request-ID": "not an id"}),
    "v1, no body": (V1, b"", {}),
    "v2": (V2, INFER, {}),
    "v2, a version": ("/v2/models/spheres/versions/1/infer", INFER, {}),
    "v2, no such version": ("/v2/models/spheres/versions/2/infer", INFER, {}),
    "v2, no key": (V2, INFER, {"Authorization": ""}),
    "v2, no JSON": (V2, b"{", {}),
    "v2, another output": (V2, INFER.replace(b'"id"', b'"outputs": [{"name": "x"}], "id"'), {}),
    "v2, a length that is none": (V2, INFER, {"Inference-Header-Content-Length": "x"}),
    "v2, an unknown coding": (V2, INFER, {"Content-Encoding": "br"}),
    "v2, too large": (V2, b" " * MOST_BYTES + INFER, {}),
}


@pytest.fixture
def both(make_settings: Callable[..., Settings]) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Sends a request on either way; returns status, headers and document of both answers."""
    settings = make_settings(api_key=KEY, max_body_bytes=MOST_BYTES)
    app = create_app(settings)
    assert isinstance(app, PredictingApp)
    with serve(settings, app=app) as served, httpx.Client(base_url=served.url) as client:
        train(served.store, SPHERES_JOB)
        short_way = app.predictions
        assert short_way is not None

        def send(path: str, content: bytes, headers: dict[str, str]) -> tuple[Any, Any]:
            answers = []
            for way in (short_way, None):
                app.predictions = way
                answer = client.post(path, content=content, headers=SIGNED | headers)
                kept = {name: value for name, value in answer.headers.items() if name != "date"}
                document = answer.json()
                if "mine" not in kept["x-request-id"]:
                    assert len(kept.pop("x-request-id")) == 32
                    document.pop("request_id", None)
                answers.append((answer.status_code, kept, document))
            return answers[0], answers[1]

        yield send


def test_both_ways_answer_the_same(both: Callable[..., tuple[Any, Any]]) -> None:
    statuses = set()
    for what, request in REQUESTS.items():
        short, ordinary = both(*request)
        assert short == ordinary, what
        statuses.add(short[0])
        assert short[1]["x-content-type-options"] == "nosniff"
    assert statuses == {200, 400, 401, 404, 413, 415, 422}


def test_a_request_whose_server_does_not_tell_its_path_as_sent_goes_the_ordinary_way(
    make_settings: Callable[..., Settings],
) -> None:
    app = create_app(settings := make_settings())
    assert isinstance(app, PredictingApp)
    with serve(settings, app=app):
        assert app.predictions is not None
        headers = [(b"content-length", b"2")]
        scope = {"type": "http", "method": "POST", "path": V1, "query_string": b"", "headers": headers}
        assert app.predictions.takes(scope | {"raw_path": V1.encode()})
        assert not app.predictions.takes(scope)


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (V1, "/v1/models/{name}/predict"),
        ("/v1/models/spheres/aliases/production/predict", "/v1/models/{name}/aliases/{alias}/predict"),
        (V2, "/v2/models/{name}/infer"),
        ("/v1/training-jobs", "/v1/training-jobs"),
        ("/v1/nowhere", "unmatched"),
    ],
)
def test_a_body_that_is_announced_as_too_large_is_counted_for_its_route(
    make_settings: Callable[..., Settings], path: str, route: str
) -> None:
    with serve(make_settings(max_body_bytes=MOST_BYTES)) as served, served.client() as client:
        assert client.post(path, content=b" " * (MOST_BYTES + 1)).status_code == 413
        metrics = client.get("/metrics").text
    assert f'odeness_http_requests_total{{method="POST",route="{route}",status="413"}} 1.0' in metrics


@pytest.mark.parametrize("sizes", [[5], [2, 3], [0, 5], [1, 1, 1, 1, 1]])
def test_a_body_that_comes_in_pieces_is_read_whole(sizes: list[int]) -> None:
    assert asyncio.run(_PlainRequest(SCOPE, received(sizes), _PlainHeaders([])).body()) == b"x" * 5


@pytest.mark.parametrize("sizes", [[5], [2, 3]])
def test_a_body_may_be_asked_for_again(sizes: list[int]) -> None:
    async def twice() -> tuple[bytes, bytes]:
        request = _PlainRequest(SCOPE, received(sizes), _PlainHeaders([]))
        return await request.body(), await request.body()

    assert asyncio.run(twice()) == (b"x" * 5, b"x" * 5)


def test_a_client_that_leaves_within_its_body_is_noticed() -> None:
    with pytest.raises(ClientDisconnect):
        asyncio.run(_PlainRequest(SCOPE, received([2], more=True), _PlainHeaders([])).body())


def received(sizes: list[int], *, more: bool = False) -> Receive:
    """Receive ``x`` in pieces, after which the client has left."""
    messages: list[Message] = [
        {"type": "http.request", "body": b"x" * size, "more_body": more or number + 1 < len(sizes)}
        for number, size in enumerate(sizes)
    ]

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive


def test_of_two_headers_with_one_name_the_first_counts_as_for_the_framework() -> None:
    raw = [(b"accept", b"a"), (b"x", "\u00e4".encode("latin-1")), (b"accept", b"b")]
    ours, framework = _PlainHeaders(raw), Headers(raw=raw)
    for name in ("accept", "Accept", "X", "none"):
        assert (ours.get(name), name in ours) == (framework.get(name), name in framework)
    assert ours.get("none", "no") == "no"


def test_requests_that_are_traced_take_the_ordinary_way(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(telemetry=True)
    app = create_app(settings)
    assert isinstance(app, PredictingApp)
    with serve(settings, app=app):
        assert app.predictions is None


def test_a_server_that_does_not_predict_has_no_short_way(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(role="control")
    app = create_app(settings)
    assert isinstance(app, PredictingApp)
    with serve(settings, app=app):
        assert app.predictions is None
