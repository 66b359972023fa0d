"""Clients that are too slow, or too many, on raw sockets; and those that only look like it."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.responses import Response

from api.app import create_app
from store.settings import Settings
from tests.api.conftest import Served, serve, submit
from tests.api.raw_connections import connected
from tests.conftest import wait_until

HEAD = b"GET /healthz HTTP/1.1\r\nHost: here\r\n"
WHOLE = HEAD + b"\r\n"
POST = b"POST /v1/models/nobody/predict HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
BODY = b'{"inputs": [[0.5]]}'

Make = Callable[..., Settings]


@pytest.fixture
def hurried(make_settings: Make) -> Iterator[Served]:
    """A server that waits for a second."""
    with serve(make_settings(request_head_seconds=1, request_body_seconds=1)) as served:
        yield served


def until_closed(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def answer(connection: socket.socket) -> bytes:
    """Return the status line of the next answer; of one that comes in one piece."""
    return connection.recv(65536).partition(b"\r\n")[0]


def document(received: bytes) -> Any:
    return json.loads(received.partition(b"\r\n\r\n")[2])


def let_time_run_out(served: Served) -> None:
    """Return when a connection that sends nothing has been given up: several sweeps have gone by."""
    with connected(served) as other:
        assert until_closed(other).startswith(b"HTTP/1.1 408")


def counted(served: Served, reason: str) -> bool:
    with served.client() as client:
        return f'odeness_connections_closed_total{{reason="{reason}"}} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    "begin",
    [b"", b"GET", HEAD, b"\r\n"],
    ids=["nothing", "a word", "headers without an end", "an empty line"],
)
def test_headers_that_do_not_come_are_answered_408_and_the_connection_is_closed(hurried: Served, begin: bytes) -> None:
    with connected(hurried) as connection:
        connection.sendall(begin)
        received = until_closed(connection)
    assert received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close\r\n" in received
    detail = "the request's headers did not come within 1 s: send them at once"
    assert b"content-type: application/problem+json\r\n" in received
    problem = document(received)
    assert (problem["status"], problem["code"], problem["detail"]) == (408, "slow_head", detail)
    assert problem["error"] == detail  # for clients of /v2, as it cannot be known what this is
    assert counted(hurried, "slow_head")


def test_a_second_request_on_a_connection_has_no_more_time_than_the_first(hurried: Served) -> None:
    with connected(hurried) as connection:
        connection.sendall(WHOLE)
        assert answer(connection) == b"HTTP/1.1 200 OK"
        connection.sendall(HEAD)
        assert until_closed(connection).startswith(b"HTTP/1.1 408")


def test_headers_that_come_letter_by_letter_are_answered_408(hurried: Served) -> None:
    with connected(hurried) as connection:
        connection.sendall(HEAD + b"X-Slow: ")
        connection.settimeout(0.02)
        for _ in range(1000):
            connection.sendall(b"x")
            try:
                received = connection.recv(65536)
            except TimeoutError:
                continue
            break
        assert received.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("length", [b"Content-Length: 500", b"Transfer-Encoding: chunked"], ids=["length", "chunked"])
def test_a_body_that_does_not_come_is_answered_408_and_is_no_error_of_the_server(
    hurried: Served, length: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(hurried) as connection:
        connection.sendall(POST + length + b"\r\n\r\n")
        received = until_closed(connection)
    assert received.startswith(b"HTTP/1.1 408")
    assert b"content-type: application/problem+json\r\n" in received
    problem = document(received)
    assert (problem["code"], len(problem["request_id"]), "error" in problem) == ("slow_body", 32, False)
    assert problem["detail"].startswith("the request's body came too slowly: 1 s, and one more for each 1000")
    assert received.count(b"HTTP/1.1") == 1
    assert counted(hurried, "slow_body")
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    with hurried.client() as client:
        metrics = client.get("/metrics").text
    assert 'odeness_http_requests_total{method="POST",route="/v1/models/{name}/predict",status="408"} 1.0' in metrics


def test_under_v2_a_body_that_does_not_come_is_answered_in_that_protocols_form(hurried: Served) -> None:
    with connected(hurried) as connection:
        connection.sendall(b"POST /v2/models/nobody/infer HTTP/1.1\r\nHost: here\r\nContent-Length: 500\r\n\r\n")
        received = until_closed(connection)
    assert received.startswith(b"HTTP/1.1 408")
    assert b"content-type: application/json\r\n" in received
    assert [*document(received)] == ["error"]


@pytest.mark.parametrize("length", [b"Content-Length: 500", b"Transfer-Encoding: chunked"], ids=["length", "chunked"])
def test_a_body_that_comes_too_slowly_behind_its_answer_is_given_up_without_another(
    hurried: Served, length: bytes
) -> None:
    with connected(hurried) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: here\r\n" + length + b"\r\n\r\n")
        assert answer(connection) == b"HTTP/1.1 404 Not Found"
        connection.sendall(b"1")
        assert until_closed(connection) == b""
    assert counted(hurried, "slow_body")


def test_a_body_that_comes_behind_its_answer_may_take_as_long_as_any(hurried: Served) -> None:
    padding = b" " * 20_000
    with connected(hurried) as connection:
        head = b"POST /nowhere HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % (len(padding) + 1)
        connection.sendall(head)
        assert answer(connection) == b"HTTP/1.1 404 Not Found"
        connection.sendall(padding)
        let_time_run_out(hurried)
        let_time_run_out(hurried)
        connection.sendall(b" ")
        let_time_run_out(hurried)  # the pause between two requests is longer
        connection.sendall(WHOLE)
        assert answer(connection) == b"HTTP/1.1 200 OK"


def test_a_long_body_that_keeps_coming_may_take_longer(hurried: Served) -> None:
    padding = b" " * 20_000  # twenty seconds' worth
    with connected(hurried) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % (len(padding) + len(BODY)) + padding)
        let_time_run_out(hurried)
        let_time_run_out(hurried)
        connection.sendall(BODY)
        assert answer(connection) == b"HTTP/1.1 404 Not Found"


def test_a_connection_that_waits_for_its_next_request_or_answer_is_left_alone(hurried: Served) -> None:
    with connected(hurried) as connection:
        # The server asks for the body.
        connection.sendall(POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(BODY))
        assert answer(connection) == b"HTTP/1.1 100 Continue"
        connection.sendall(BODY)
        assert answer(connection) == b"HTTP/1.1 404 Not Found"
        let_time_run_out(hurried)
        connection.sendall(WHOLE)
        assert answer(connection) == b"HTTP/1.1 200 OK"


def test_an_answer_may_take_as_long_as_it_does(make_settings: Make) -> None:
    settings = make_settings(request_head_seconds=1, request_body_seconds=1, answer_stall_seconds=1)
    with serve(settings) as served, served.client() as client:
        job = f"/v1/jobs/{submit(served.store).id}"
        with connected(served) as connection:
            events = f"GET {job}/events HTTP/1.1\r\nHost: here\r\nAccept: text/event-stream\r\n\r\n"
            connection.sendall(events.encode())
            assert answer(connection) == b"HTTP/1.1 200 OK"
            let_time_run_out(served)
            let_time_run_out(served)
            assert client.post(f"{job}/cancel").status_code == 200
            assert b"cancelled" in until_idle(connection)


def until_idle(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"0\r\n\r\n"):  # the last of the chunks
        received += connection.recv(65536)
    return received


def test_an_answer_that_the_client_does_not_take_is_given_up(make_settings: Make) -> None:
    settings = make_settings(answer_stall_seconds=0.3)
    app = create_app(settings)
    app.add_api_route("/long", lambda: Response(b"x" * 50_000_000))
    with serve(settings, app=app) as served, connected(served) as connection:
        connection.sendall(b"GET /long HTTP/1.1\r\nHost: here\r\n\r\n")
        wait_until(lambda: counted(served, "answer_not_taken"), "the server has given the answer up")
        assert len(until_closed(connection)) < 50_000_000


def test_one_connection_too_many_is_told_so_and_the_next_is_served_when_there_is_room(make_settings: Make) -> None:
    with serve(make_settings(max_connections=2)) as served:
        with connected(served) as one, connected(served) as two:
            for connection in (one, two):
                connection.sendall(WHOLE)
                assert answer(connection) == b"HTTP/1.1 200 OK"
            with connected(served) as three:
                three.sendall(WHOLE)
                refused = until_closed(three)
            assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"retry-after: 1\r\n" in refused
            assert document(refused)["code"] == "too_many_connections"
            assert document(refused)["error"].startswith("2 connections are open, which is all that this server takes")
            one.sendall(WHOLE)
            assert answer(one) == b"HTTP/1.1 200 OK"

        def served_again() -> bool:
            with connected(served) as next_one:
                next_one.sendall(WHOLE)
                return answer(next_one) == b"HTTP/1.1 200 OK"

        wait_until(served_again, "there is room")
        assert counted(served, "too_many")


def test_a_body_that_is_not_chunked_as_it_says_is_answered_and_counted_as_400(hurried: Served) -> None:
    with connected(hurried) as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n")
        connection.sendall(b"12345\r\nno length\r\n")
        received = until_closed(connection)
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert received.count(b"HTTP/1.1") == 1
    with hurried.client() as client:
        found = re.compile(r'method="POST",route="[^"]*",status="400"} 1\.0')
        wait_until(lambda: found.search(client.get("/metrics").text) is not None, "it is counted as answered")
        assert 'status="499"' not in client.get("/metrics").text
