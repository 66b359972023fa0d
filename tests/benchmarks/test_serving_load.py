"""The load client and what it is made of, against answers written by hand and Python's own HTTP server."""

import json
import math
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy
import pytest

from benchmarks.serving.http_messages import HttpBroken, answer_length, parts, post
from benchmarks.serving.latency import LoadFigures, doubts, figures, percentile
from benchmarks.serving.load import count_wrong, run_load
from benchmarks.serving.protocols import Endpoint
from benchmarks.serving.workload import TOLERANCE, Workload

ANSWER = b"HTTP/1.1 200 OK\r\nserver: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;note\r\nlo\r\n0\r\n\r\n"
PLAIN = Endpoint("plain", "/predict")


@pytest.mark.parametrize("answer", [ANSWER, CHUNKED, b"HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n"])
def test_an_answer_is_whole_with_its_last_byte_and_not_before(answer: bytes) -> None:
    assert [answer_length(answer[:end]) for end in range(len(answer))] == [None] * len(answer)
    assert answer_length(answer) == len(answer)
    assert answer_length(answer + b"HTTP/1.1") == len(answer)


@pytest.mark.parametrize("answer", [ANSWER, CHUNKED])
def test_status_headers_and_body_of_an_answer_are_read(answer: bytes) -> None:
    status, headers, body = parts(answer)

    assert (status, body) == (200, b"hello")
    assert headers.keys() <= {"server", "content-length", "transfer-encoding"}


def test_what_is_no_answer_is_refused() -> None:
    with pytest.raises(HttpBroken, match="neither Content-Length nor chunks"):
        answer_length(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n")
    with pytest.raises(HttpBroken, match="SSH-2"):
        parts(b"SSH-2.0\r\n\r\n")


def test_a_percentile_is_a_value_that_occurred() -> None:
    values = [float(value) for value in range(1, 101)]

    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile(values, 1.0) == 100.0
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([1.0, 2.0], 0.99) == 2.0
    assert math.isnan(percentile([], 0.5))


def test_rate_times_latency_is_the_number_of_requests_under_way() -> None:
    run = figures([0.02] * 400, 2.0, {}, client_seconds=0.5)

    assert run.a_second == 200.0
    assert run.in_flight == pytest.approx(4.0)
    assert run.client_share == 0.25
    assert doubts(run, connections=4) == []
    assert doubts(run, connections=8) == ["4.00 requests under way on 8 connections"]


def test_errors_and_a_busy_client_are_doubts() -> None:
    run = figures([0.01] * 100, 1.0, {"status 503": 2}, client_seconds=0.95)

    assert doubts(run, connections=1) == [
        "errors: status 503 (2)",
        "the client took 95% of its core: the server could do more",
    ]


def _body(request: bytes) -> bytes:
    head, _, body = request.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    return body


INPUTS = numpy.array([[0.25, -0.5], [1.0, 2.0]], numpy.float32)


def test_requests_are_written_as_their_protocols_say() -> None:
    solver = {"method": "rk4", "steps": 16}
    v1 = Endpoint("v1", "/v1/models/m/predict", (1, 2), solver).request(INPUTS)
    v2 = Endpoint("v2-json", "/v2/models/m/infer").request(INPUTS)

    assert v1.startswith(b"POST /v1/models/m/predict HTTP/1.1\r\n")
    assert json.loads(_body(v1)) == {"inputs": [[[0.25, -0.5]], [[1.0, 2.0]]], "solver": solver}
    assert json.loads(_body(v2)) == {
        "inputs": [{"name": "inputs", "shape": [2, 2], "datatype": "FP32", "data": [0.25, -0.5, 1.0, 2.0]}],
        "outputs": [{"name": "probabilities"}],
    }
    assert json.loads(_body(PLAIN.request(INPUTS))) == {"inputs": INPUTS.tolist()}


def test_a_binary_tensor_follows_the_json_that_announces_it() -> None:
    request = Endpoint("v2-binary", "/v2/models/m/infer").request(INPUTS)
    head = int(request.partition(b"Inference-Header-Content-Length: ")[2].partition(b"\r\n")[0])
    document, raw = json.loads(_body(request)[:head]), _body(request)[head:]

    assert document["inputs"][0]["parameters"] == {"binary_data_size": 16}
    assert raw == bytes.fromhex("0000803e 000000bf 0000803f 00000040")


def test_answers_are_read_as_their_protocols_say() -> None:
    shares = [[0.25, 0.75], [0.5, 0.5]]
    tensor = {"name": "probabilities", "datatype": "FP32", "shape": [2, 2]}
    raw = numpy.array(shares, "<f4").tobytes()
    binary = json.dumps(
        {
            "outputs": [
                {"name": "label", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}},
                tensor | {"parameters": {"binary_data_size": 16}},
            ]
        }
    ).encode()
    answers = {
        "v1": json.dumps({"predictions": [{"probabilities": one} for one in shares]}).encode(),
        "v2-json": json.dumps({"outputs": [{"name": "x"}, tensor | {"data": [0.25, 0.75, 0.5, 0.5]}]}).encode(),
        "v2-binary": binary + bytes(16) + raw,
        "plain": json.dumps({"probabilities": shares}).encode(),
        "bare": json.dumps(shares).encode(),
    }
    for protocol, body in answers.items():
        headers = {"inference-header-content-length": str(len(binary))}
        assert Endpoint(protocol, "/").probabilities(headers, body).tolist() == shares, protocol


WORKLOAD = Workload(
    inputs=numpy.array([[[0.0, 1.0]], [[0.5, 0.5]], [[0.75, 0.25]]], numpy.float32),
    expected=numpy.array([[[0.0, 1.0]], [[0.5, 0.5]], [[0.75, 0.25]]]),
)


def _answer(body: object, status: str = "200 OK") -> bytes:
    content = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def test_an_answer_is_held_against_what_its_own_request_expects() -> None:
    wrong = partial(WORKLOAD.what_is_wrong, PLAIN, 1)

    assert wrong(_answer({"probabilities": [[0.5 + TOLERANCE / 2, 0.5]]})) is None
    assert wrong(_answer({"probabilities": [[0.75, 0.25]]})) == "wrong answer"
    assert wrong(_answer({"probabilities": [[None, 0.5]]})) == "wrong answer"  # NaN
    assert wrong(_answer({"probabilities": [[0.5, 0.5]] * 2})) == "answer of another shape"
    assert wrong(_answer({"detail": "busy"}, "503 Busy")) == "status 503"
    assert wrong(_answer({"other": 1})) == "unreadable answer"


def test_pairs_of_requests_whose_answers_cannot_be_told_apart_are_known() -> None:
    twice = Workload(WORKLOAD.inputs, numpy.concatenate([WORKLOAD.expected[:2], WORKLOAD.expected[:1]]))

    assert WORKLOAD.told_apart() == 1.0
    assert twice.told_apart() == pytest.approx(2 / 3)


class _Echo(BaseHTTPRequestHandler):
    """Answers the inputs as if they were probabilities; what ``bad`` names, otherwise."""

    protocol_version = "HTTP/1.1"
    bad = ""

    def do_POST(self) -> None:
        inputs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        if self.bad == "close":
            self.close_connection = True
            return
        body = json.dumps({"probabilities": [[9.0, 9.0]] if self.bad == "wrong" else inputs}).encode()
        self.send_response(503 if self.bad == "busy" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield "127.0.0.1", server.server_address[1]
        server.shutdown()
        thread.join()


def _load(address: tuple[str, int]) -> LoadFigures:
    run = run_load(address, WORKLOAD.requests(PLAIN), connections=3, warm_up=0.1, seconds=0.4)
    latencies, errors = count_wrong(run, partial(WORKLOAD.what_is_wrong, PLAIN))
    return figures(latencies, run.seconds, errors, client_seconds=run.client_seconds)


def test_a_server_under_load_answers_each_connection_its_own(echo: tuple[str, int]) -> None:
    run = _load(echo)

    assert run.requests > 3
    assert run.errors == {}
    assert run.p50 <= run.p90 <= run.p99 <= run.worst


@pytest.mark.parametrize(
    ("bad", "error"),
    [("wrong", "wrong answer"), ("busy", "status 503"), ("close", "connection closed by the server")],
)
def test_what_goes_wrong_under_load_is_counted_and_not_measured(
    echo: tuple[str, int], monkeypatch: pytest.MonkeyPatch, bad: str, error: str
) -> None:
    monkeypatch.setattr(_Echo, "bad", bad)

    run = _load(echo)

    assert run.requests == 0
    assert run.errors.keys() == {error}


def test_a_server_that_is_not_there_is_an_error() -> None:
    run = run_load(("127.0.0.1", 1), [post("/", b"", {})], connections=2, warm_up=0.0, seconds=0.1)

    assert sum(run.lost.values()) == 2
    assert not run.exchanges
