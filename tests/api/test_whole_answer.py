"""Answers written at once are, byte by byte, those that uvicorn writes."""

import asyncio
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.types import Message

from api.app import create_app
from api.prediction_path import PredictingApp
from api.whole_answer import whole
from store.settings import Settings
from tests.api.conftest import SPHERES_JOB, serve, train

BODY = b'{"inputs": [[[0.1, 0.2]]], "solver": {"method": "euler", "steps": 2}}'


def request(model: str, http: str, *headers: str) -> bytes:
    lines = [f"POST /v1/models/{model}/predict HTTP/{http}", "Host: here", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(BODY)}", "X-Request-ID: mine", *headers, "", ""]
    return "\r\n".join(lines).encode() + BODY


LAST = "Connection: close"
CONVERSATIONS = {
    "closed by the client's wish": request("spheres", "1.1", LAST),
    "closed by the client's version": request("spheres", "1.0"),
    "one after the other": request("spheres", "1.1") + request("spheres", "1.1") + request("spheres", "1.1", LAST),
    "an error between": request("spheres", "1.1") + request("nobody", "1.1") + request("spheres", "1.1", LAST),
    "asked before the body is sent": request("spheres", "1.1", "Expect: 100-continue", LAST),
}


@pytest.fixture
def say(make_settings: Callable[..., Settings]) -> Iterator[Callable[[bytes, bool], bytes]]:
    """Sends bytes and returns all that comes back, without dates."""
    settings = make_settings()
    app = create_app(settings)
    assert isinstance(app, PredictingApp)
    with serve(settings, app=app) as served:
        train(served.store, SPHERES_JOB)
        short_way, at = app.predictions, urlsplit(served.url)

        def said(content: bytes, shortly: bool) -> bytes:
            app.predictions = short_way if shortly else None
            with socket.create_connection((str(at.hostname), int(at.port or 0)), timeout=20) as connection:
                connection.sendall(content)
                return re.sub(rb"date: [^\r]*", b"date: ", connection.makefile("rb").read())

        yield said


def test_an_answer_at_once_has_the_bytes_that_uvicorn_writes(say: Callable[[bytes, bool], bytes]) -> None:
    for what, content in CONVERSATIONS.items():
        short, ordinary = say(content, True), say(content, False)
        assert short == ordinary, what
        assert short.count(b"HTTP/1.1 200 OK") >= 1, what
        assert short.startswith(b"HTTP/1.1 100 Continue") == ("Expect" in content.decode())


def sent(messages: list[Message], *, writes: bool) -> tuple[list[Any], list[Any]]:
    """Return what was written at once and what was sent on."""
    written: list[Any] = []
    passed: list[Any] = []

    def write(*answer: Any) -> bool:
        written.append(answer)
        return writes

    async def send(message: Message) -> None:
        passed.append(message)

    async def run() -> None:
        sending = whole({"extensions": {"odeness.whole_answer": write}}, send)
        for message in messages:
            await sending(message)

    asyncio.run(run())
    return written, passed


START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
END: Message = {"type": "http.response.body", "body": b"end"}


def test_what_comes_whole_is_written_and_not_sent() -> None:
    assert sent([START, END], writes=True) == ([(200, [(b"a", b"b")], b"end")], [])


def test_what_cannot_be_written_at_once_is_sent() -> None:
    assert sent([START, END], writes=False) == ([(200, [(b"a", b"b")], b"end")], [START, END])


def test_a_stream_is_sent() -> None:
    piece: Message = {"type": "http.response.body", "body": b"piece", "more_body": True}
    assert sent([START, piece, piece, END], writes=True) == ([], [START, piece, piece, END])
