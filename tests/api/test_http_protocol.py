"""What is read of a connection is bounded, also where it never becomes a request."""

import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from api.http_protocol import MOST_HEAD_BYTES
from tests.api.conftest import Served
from tests.api.raw_connections import connected

HEAD = b"GET /healthz HTTP/1.1\r\nHost: here\r\n"
CHUNKED = b"POST /v1/jobs HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def connection(served: Served) -> Iterator[socket.socket]:
    with connected(served) as raw:
        yield raw


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (HEAD + b"X-Long: ", b"x" * 4096),
        (HEAD, b"X-Many: 1\r\n" * 400),
        (b"GET /", b"x" * 4096),
        (CHUNKED + b"2\r\n{}\r\n0\r\n", b"X-Trailer: 1\r\n" * 400),
    ],
    ids=["one header", "many headers", "path", "trailers"],
)
def test_a_connection_that_sends_headers_for_ever_is_closed(
    connection: socket.socket, begin: bytes, more: bytes
) -> None:
    content = begin + more * (100 * MOST_HEAD_BYTES // len(more))
    with pytest.raises(ConnectionError):  # reset, as nobody reads on
        connection.sendall(content)


def test_long_headers_and_long_bodies_are_read(client: httpx.Client) -> None:
    for _ in range(2):
        assert client.get("/healthz", headers={"X-Long": "x" * (MOST_HEAD_BYTES // 2)}).status_code == 200
        body = {"inputs": [[0.5] * 100] * 1000}
        assert client.post("/v1/models/nobody/predict", json=body).status_code == 404


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"nonsense\r\n\r\n", b"400 Bad Request"),
        (
            b"POST /v2/models/nobody/infer HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n",
            b"400 Bad",
        ),
        (b"POST /nowhere HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n", b"404 Not Found"),
    ],
    ids=["a head", "a body", "a body behind its answer"],
)
def test_what_is_no_request_is_answered_once_in_json(connection: socket.socket, content: bytes, status: bytes) -> None:
    connection.sendall(content)
    received = connection.recv(65536)
    if status.startswith(b"404"):
        connection.sendall(b"no chunk\r\n")
    while part := connection.recv(65536):
        received += part
    assert received.startswith(b"HTTP/1.1 " + status)
    assert received.count(b"HTTP/1.1") == 1
    assert ("error" in json.loads(received.partition(b"\r\n\r\n")[2])) == status.startswith(b"400")
