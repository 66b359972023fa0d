"""Answers written at once: head and body of a small one together, where uvicorn takes both message by message.

Going through a head's lines one by one, with two patterns each, takes uvicorn longer than a small answer takes to be
made.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from starlette.types import Message, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

_EXTENSION = "odeness.whole_answer"
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

Headers = Sequence[tuple[bytes, bytes]]
Write = Callable[[int, Headers, bytes], bool]


class WholeAnswers(HttpToolsProtocol):
    """A protocol that offers applications to write an answer at once."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        scope: Scope = cycle.scope  # type: ignore[assignment]  # uvicorn's type knows the extensions of the standard alone
        scope.setdefault("extensions", {})[_EXTENSION] = partial(_write, cycle)
        super()._start_asgi_task(cycle, app)


def whole(scope: Scope, send: Send) -> Send:
    """Return ``send`` that writes an answer at once if it comes whole and the server offers that."""
    write: Write | None = scope.get("extensions", {}).get(_EXTENSION)
    return send if write is None else _WholeSend(write, send)


class _WholeSend:
    """Keeps the start of an answer until it is known whether the rest comes at once."""

    def __init__(self, write: Write, send: Send) -> None:
        self._write = write
        self._send = send
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if (start := self._start) is not None:
            self._start = None
            body = message.get("body", b"")
            if not message.get("more_body", False) and self._write(start["status"], start["headers"], body):
                return
            await self._send(start)
        await self._send(message)


def _write(cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes) -> bool:
    """Write an answer with its length among the headers and leave the cycle as ``send`` does; False: not this one."""
    if cycle.response_started or cycle.disconnected or cycle.flow.write_paused:
        return False
    if (b"content-length", b"%d" % len(body)) not in headers or status in (204, 304):
        return False
    lines = [*map(_line, cycle.default_headers), *map(_line, headers)]
    if None in lines:
        return False
    if not cycle.keep_alive:
        lines.append(b"connection: close\r\n")
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))  # type: ignore[arg-type]  # no None
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


@lru_cache(maxsize=512)  # most lines are those of the answer before
def _line(header: tuple[bytes, bytes]) -> bytes | None:
    """Return a header's line; None: uvicorn is to look at it."""
    name, value = header
    if name in (b"connection", b"transfer-encoding") or _FORBIDDEN.search(name + value):
        return None
    return b"%b: %b\r\n" % header
