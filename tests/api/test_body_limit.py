"""What becomes of a body that is too large, message by message."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from api import body_limit
from api.body_limit import BodyLimit
from api.problems import Problem

LIMIT = 1000


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body", False):
        pass


def sent_to(chunks: list[int], *, announced: bool, then_pause: bool = False) -> tuple[list[str], int]:
    """Return what was answered, and how many chunks were left unread."""
    messages: list[Message] = [
        {"type": "http.request", "body": bytes(size), "more_body": then_pause or number + 1 < len(chunks)}
        for number, size in enumerate(chunks)
    ]
    answered: list[str] = []

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    async def send(message: Message) -> None:
        answered.append(f"{message['type']} {message.get('status', '')}".strip())

    headers = [(b"content-length", str(sum(chunks)).encode())] if announced else []
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/v1/training-jobs",
        "headers": headers,
        "state": {},
    }
    try:
        asyncio.run(BodyLimit(reading, LIMIT, LIMIT)(scope, receive, send))
    except Problem as problem:
        answered.append(f"problem {problem.status_code}")
    return answered, len(messages)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_read_to_its_end_before_the_answer(announced: bool) -> None:
    # A client that still sends when the connection is closed would not see the answer.
    answered, unread = sent_to([600] * 20, announced=announced)

    assert answered == (["http.response.start 413", "http.response.body"] if announced else ["problem 413"])
    assert unread == 0


@pytest.mark.parametrize("announced", [True, False])
def test_no_more_than_a_little_is_read_of_a_body_without_end(announced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "_DRAINED_BYTES", 3000)

    answered, unread = sent_to([600] * 1000, announced=announced)

    assert "413" in answered[0]
    assert unread >= 990


@pytest.mark.parametrize("announced", [True, False])
def test_a_client_that_stops_sending_gets_its_answer(announced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "_PAUSE_SECONDS", 0.01)

    answered, _ = sent_to([600, 600], announced=announced, then_pause=True)

    assert "413" in answered[0]


def test_a_body_within_the_limit_is_left_to_the_application() -> None:
    assert sent_to([500, 500], announced=True) == ([], 0)
