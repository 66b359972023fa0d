"""The protocol over HTTP: through Triton's clients, and byte by byte where a client would not send it."""

import asyncio
import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from sqlalchemy import event
from tritonclient.utils import InferenceServerException

from tests.api.conftest import SPHERES_JOB, Served, serve, train

SAMPLES = np.random.default_rng(0).uniform(-1, 1, (40, 1, 2)).astype(np.float32)
URL = "/v2/models/spheres/infer"


@pytest.fixture
def spheres(served: Served) -> Served:
    train(served.store, SPHERES_JOB)
    return served


@pytest.fixture
def client(spheres: Served) -> Iterator[httpx.Client]:
    with spheres.client() as connected:
        yield connected


def tensor(module: Any, samples: np.ndarray, *, binary: bool = True) -> Any:
    described = module.InferInput("inputs", list(samples.shape), "FP32")
    return described.set_data_from_numpy(samples, binary_data=binary)


def body(**changes: Any) -> dict[str, Any]:
    one = {"name": "inputs", "datatype": "FP32", "shape": [2, 1, 2], "data": SAMPLES[:2].ravel().tolist()}
    return {"inputs": [one | changes]}


def expected(client: httpx.Client, solver: dict[str, Any] | None = None) -> np.ndarray:
    answer = client.post("/v1/models/spheres/predict", json={"inputs": SAMPLES.tolist(), "solver": solver}).json()
    return np.array([one["logits"] for one in answer["predictions"]], np.float32)


def test_a_request_that_fails_is_counted_without_a_look_at_the_database(spheres: Served) -> None:
    looks: list[str] = []
    engine = spheres.app.state.services.store.engine
    with spheres.client() as client:
        path = "/v2/models/spheres/versions/1/infer"
        good = {"inputs": [{"name": "inputs", "shape": [1, 1, 2], "datatype": "FP32", "data": [0.1, 0.2]}]}
        assert client.post(path, json=good).status_code == 200
        event.listen(engine, "before_cursor_execute", lambda *arguments: looks.append(arguments[2]))
        good["inputs"][0] |= {"shape": [1, 2, 1]}
        assert client.post(path, json=good).status_code == 422
        assert client.post(path, content=b"{").status_code == 400
        assert looks == []
        statistics = client.get("/v2/models/spheres/versions/1/stats").json()["model_stats"][0]["inference_stats"]
    assert (statistics["success"]["count"], statistics["fail"]["count"]) == (1, 1)


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_gets_what_v1_answers(
    spheres: Served, client: httpx.Client, binary: bool, coding: str | None
) -> None:
    outputs = None if binary else [triton.InferRequestedOutput(name, binary_data=False) for name in ("logits", "label")]
    with triton.InferenceServerClient(urlsplit(spheres.url).netloc) as connected:
        result = connected.infer(
            "spheres",
            [tensor(triton, SAMPLES, binary=binary)],
            model_version="1",
            outputs=outputs,
            request_id="mine",
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
            parameters={"solver": "dopri5", "rtol": "1e-5", "atol": 1e-5},
        )
    logits = expected(client, {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5})
    np.testing.assert_allclose(result.as_numpy("logits"), logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result.as_numpy("label"), logits.argmax(-1))
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", "spheres", "1")
    facts = answer["parameters"]
    assert (facts["solver"], facts["rtol"], facts["failures"], facts["status"]) == ("dopri5", 1e-5, 0, "success")
    if binary:
        assert set(result.as_numpy("status")) == {b"success"}
        assert result.as_numpy("nfe").min() > 2
        np.testing.assert_allclose(result.as_numpy("probabilities").sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_tritons_asynchronous_client_gets_the_same(spheres: Served, client: httpx.Client, coding: str | None) -> None:
    async def infer() -> np.ndarray:
        async with triton_aio.InferenceServerClient(urlsplit(spheres.url).netloc) as connected:
            assert await connected.is_model_ready("spheres")
            result = await connected.infer(
                "spheres",
                [tensor(triton_aio, SAMPLES)],
                request_compression_algorithm=coding,
                response_compression_algorithm=coding,
            )
            logits = result.as_numpy("logits")
            assert isinstance(logits, np.ndarray)
            return logits

    np.testing.assert_allclose(asyncio.run(infer()), expected(client), rtol=1e-5, atol=1e-6)


def test_tritonclient_finds_its_way_around(spheres: Served) -> None:
    with triton.InferenceServerClient(urlsplit(spheres.url).netloc) as connected:
        assert connected.is_server_live()
        assert connected.is_server_ready()
        assert connected.is_model_ready("spheres", "1")
        assert not connected.is_model_ready("spheres", "2")
        assert not connected.is_model_ready("cubes")
        assert "binary_tensor_data" in connected.get_server_metadata()["extensions"]
        metadata = connected.get_model_metadata("spheres")
        assert metadata["versions"] == ["1"]
        assert metadata["inputs"] == [{"name": "inputs", "datatype": "FP32", "shape": [-1, 1, 2]}]
        assert connected.get_model_config("spheres")["input"][0]["dims"] == [1, 2]
        entry = {"name": "spheres", "version": "1", "state": "READY", "reason": ""}
        assert connected.get_model_repository_index() == [entry]
        connected.load_model("spheres")
        connected.infer("spheres", [tensor(triton, SAMPLES)])
        connected.unload_model("spheres")
        connected.infer("spheres", [tensor(triton, SAMPLES)])
        with pytest.raises(InferenceServerException, match="shape"):
            connected.infer("spheres", [tensor(triton, SAMPLES[:, :, :1])])
        (statistics,) = connected.get_inference_statistics("spheres", "1")["model_stats"]
        assert (statistics["inference_count"], statistics["execution_count"]) == (80, 2)
        assert statistics["inference_stats"]["success"]["count"] == 2
        (batches,) = statistics["batch_stats"]
        assert (batches["batch_size"], batches["compute_infer"]["count"]) == (40, 2)
        assert 0 < batches["compute_infer"]["ns"] <= statistics["inference_stats"]["compute_infer"]["ns"]
        assert statistics["inference_stats"]["fail"]["count"] == 1
        assert connected.get_inference_statistics()["model_stats"] == [statistics]
        with pytest.raises(InferenceServerException, match="no model cubes"):
            connected.load_model("cubes")
        with pytest.raises(InferenceServerException, match="configuration"):
            connected.load_model("spheres", config="{}")


@pytest.mark.parametrize(
    ("method", "url", "content", "headers", "status"),
    [
        ("GET", "/v2/nothing", b"", {}, 404),
        ("GET", "/v2/models/cubes", b"", {}, 404),
        ("GET", "/v2/models/spheres/versions/2/ready", b"", {}, 404),
        ("GET", "/v2/models/spheres/versions/best", b"", {}, 404),
        ("GET", "/v2/models/spheres/versions/00000000001", b"", {}, 404),
        ("DELETE", "/v2", b"", {}, 405),
        ("GET", URL, b"", {}, 405),
        ("POST", URL, b"", {}, 400),
        ("POST", URL, b'{"inputs": [NaN]}', {}, 400),
        ("POST", URL, b"{}", {"Inference-Header-Content-Length": "9"}, 400),
        ("POST", URL, b"not gzip", {"Content-Encoding": "gzip"}, 400),
        ("POST", URL, gzip.compress(bytes(20_000_000)), {"Content-Encoding": "gzip"}, 413),
        ("POST", URL, bytes(17_000_000), {}, 413),
        ("POST", URL, b"{}", {"Content-Encoding": "br"}, 415),
        ("POST", URL, b"{}", {}, 422),
        ("POST", "/v2/repository/index", b"{", {}, 400),
        ("POST", "/v2/repository/index", b'{"ready": "yes"}', {}, 422),
    ],
)
def test_every_error_is_one_text_in_json(
    client: httpx.Client, method: str, url: str, content: bytes, headers: dict[str, str], status: int
) -> None:
    response = client.request(method, url, content=content, headers=headers)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert list(document) == ["error"]
    assert document["error"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "x"}, "no input x"),
        ({"datatype": "FP64"}, "send inputs as FP32"),
        ({"datatype": "INT32", "data": [1, 2, 3, 4]}, "send inputs as FP32"),
        ({"shape": [1, 1, 4]}, "must have the shape"),
        ({"shape": [2, 2]}, "send the shape [2, 1, 2]"),
        ({"shape": [1, 2], "data": [1, 2]}, "this is one sample"),
        ({"shape": [0, 1, 2], "data": []}, "at least 1"),
        ({"data": [1, 2, 3, 1e300]}, "not finite"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_in_words(
    client: httpx.Client, changes: dict[str, Any], says: str
) -> None:
    response = client.post(URL, json=body(**changes))
    assert response.status_code == 422
    assert says in response.json()["error"]


def test_an_output_that_does_not_exist_and_a_choice_without_an_audit_are_refused(client: httpx.Client) -> None:
    response = client.post(URL, json=body() | {"outputs": [{"name": "odds"}]})
    assert (response.status_code, "use probabilities" in response.json()["error"]) == (422, True)
    assert client.post(URL, json=body() | {"parameters": {"solver": "auto"}}).status_code == 409


def test_the_configuration_has_the_shapes_of_the_metadata_in_tritons_form(client: httpx.Client) -> None:
    configuration = client.get("/v2/models/spheres/config").json()
    metadata = client.get("/v2/models/spheres/versions/1").json()
    for configured, described in (("input", "inputs"), ("output", "outputs")):
        for one, other in zip(configuration[configured], metadata[described], strict=True):
            assert one["dims"], "Triton refuses a tensor without dims"
            assert [-1, *one.get("reshape", {"shape": one["dims"]})["shape"]] == other["shape"]
    assert [one["name"] for one in configuration["output"] if "reshape" in one] == ["label", "status", "nfe"]


def test_outputs_come_in_the_order_asked_for_each_in_its_form(client: httpx.Client) -> None:
    outputs = [{"name": "label", "parameters": {"binary_data": True}}, {"name": "status"}]
    response = client.post(URL, json=body() | {"outputs": outputs})
    length = int(response.headers["inference-header-content-length"])
    label, status = json.loads(response.content[:length])["outputs"]
    assert (label["name"], label["parameters"], status["data"]) == (
        "label",
        {"binary_data_size": 16},
        ["success", "success"],
    )
    assert len(response.content) == length + 16


def test_smaller_types_are_taken_as_the_models_own(client: httpx.Client) -> None:
    as_integers = client.post(URL, json=body(datatype="INT8", data=[1, 0, -1, 2]))
    as_floats = client.post(URL, json=body(data=[1.0, 0.0, -1.0, 2.0]))
    assert as_integers.status_code == 200
    assert as_integers.json() == as_floats.json()


def test_health_needs_no_key_and_the_rest_does(make_settings: Any) -> None:
    with serve(make_settings(api_key="k" * 20)) as served, served.client() as connected:
        assert connected.get("/v2/health/live").json() == {"live": True}
        assert connected.get("/v2/health/ready").json() == {"ready": True}
        for url in ("/v2", "/v2/models/spheres", "/v2/health"):
            response = connected.get(url)
            assert (response.status_code, list(response.json())) == (401, ["error"])


def _answer(connection: socket.socket, content: bytes, headers: str = "") -> tuple[bytes, Any]:
    head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n{headers}\r\n"
    connection.sendall(head.encode() + content)
    reader = connection.makefile("rb")
    status = reader.readline()
    length = 0
    while (line := reader.readline()) not in (b"\r\n", b""):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return status, json.loads(reader.read(length))


def test_the_connection_stays_usable_after_errors(spheres: Served) -> None:
    address = urlsplit(spheres.url)
    good = json.dumps(body()).encode()
    cut_off = json.dumps({"inputs": [body()["inputs"][0] | {"parameters": {"binary_data_size": 16}, "data": None}]})
    tries = [
        (good.replace(b"[2, 1, 2]", b"[2, 1, 3]"), "", b"422"),
        (good.replace(b'"data": [', b'"data": [NaN, '), "", b"400"),
        (b"broken", "Content-Encoding: gzip\r\n", b"400"),
        (gzip.compress(bytes(20_000_000)), "Content-Encoding: gzip\r\n", b"413"),
        (cut_off.encode() + b"123", f"Inference-Header-Content-Length: {len(cut_off)}\r\n", b"400"),
    ]
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        for content, headers, status in tries:
            line, document = _answer(connection, content, headers)
            assert status in line, (line, document)
            assert list(document) == ["error"]
            line, document = _answer(connection, good)
            assert b"200" in line, document
            assert [output["name"] for output in document["outputs"]][:2] == ["probabilities", "logits"]
