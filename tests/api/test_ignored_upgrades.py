"""Offers of other protocols are ignored, and the request that made one is served whole."""

import json
import socket
from collections.abc import Iterator

import pytest

from tests.api.conftest import Served
from tests.api.raw_connections import connected

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA\r\nUpgrade: h2c\r\n"
HEAD = b"POST /v1/models/nobody/predict HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n" + H2C
BODY = b'{"inputs": [[0.5]]}'
BY_LENGTH = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
IN_CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
LAST = b"GET /healthz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


@pytest.fixture
def connection(served: Served) -> Iterator[socket.socket]:
    with connected(served) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield raw


def answers(connection: socket.socket) -> list[tuple[bytes, str]]:
    """Return status and JSON code of the answers until the connection is closed."""
    received = b""
    while part := connection.recv(65536):
        received += part
    each = [one.partition(b"\r\n\r\n") for one in received.split(b"HTTP/1.1 ")[1:]]
    return [(head[:3], json.loads(body).get("code", "")) for head, _, body in each]


@pytest.mark.parametrize("request_", [BY_LENGTH, IN_CHUNKS], ids=["length", "chunks"])
@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_the_body_of_a_request_that_offers_another_protocol_is_read(
    connection: socket.socket, request_: bytes, size: int
) -> None:
    content = request_ + LAST
    for start in range(0, len(content), size):
        connection.sendall(content[start : start + size])
    assert answers(connection) == [(b"404", "model_not_found"), (b"200", "")]


def test_many_offers_on_one_connection_are_ignored_one_by_one(connection: socket.socket) -> None:
    plain = b"GET /healthz HTTP/1.1\r\nHost: here\r\n"
    offer = plain + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    connection.sendall(offer * 1500 + BY_LENGTH + LAST)
    expected = [(b"200", "")] * 1500 + [(b"404", "model_not_found"), (b"200", "")]
    assert answers(connection) == expected


def test_a_tunnel_is_refused(connection: socket.socket) -> None:
    connection.sendall(b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere:443\r\n\r\n")
    assert answers(connection) == [(b"400", "malformed_request")]
