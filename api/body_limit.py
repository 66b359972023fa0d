"""Bounds the size of request bodies, whatever they claim it to be."""

import asyncio
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem, problem_response

# A connection that is closed with a part of the body unread is reset, and many clients then never see the answer. So a
# little more is read and thrown away, as long as it comes without a pause.
_DRAINED_BYTES = 2**22
_PAUSE_SECONDS = 0.5
_DRAIN_SECONDS = 5.0
_UPLOADS = ("/v1/datasets", "/v1/models")


class BodyLimit:
    """ASGI middleware that refuses bodies that are too large with a 413 problem.

    The framework's own limit answers in plain text, and replaces any other answer by it.

    Args:
        app: the application.
        max_bytes: of a body.
        max_upload_bytes: of one that is a data set or weights, which is not read into memory.
        routes: of the application; of one whose body is refused, the measurements want to know the path's template.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_upload_bytes: int, routes: Sequence[BaseRoute] = ()) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_upload_bytes = max_upload_bytes
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        uploading = scope["method"] == "POST" and scope["path"] in _UPLOADS
        limit = self.max_upload_bytes if uploading else self.max_bytes
        too_large = _upload_too_large if uploading else _too_large
        if not announces_at_most(Headers(scope=scope).get("content-length", ""), limit):
            if found := next((route for route in self.routes if route.matches(scope)[0] is Match.FULL), None):
                scope["route"] = found
            await _drain(receive)
            await problem_response(too_large(limit), scope)(scope, receive, send)
            return
        await self.app(scope, bounded(receive, limit, too_large), send)


def announces_at_most(length: str, limit: int) -> bool:
    """Return whether a Content-Length, or none or nonsense, announces no more than ``limit`` bytes."""
    return not length.isdecimal() or int(length[:20]) <= limit


def bounded(receive: Receive, limit: int, too_large: Callable[[int], Problem] | None = None) -> Receive:
    """Return ``receive`` that raises the problem of a body that is too large, by default that of requests in memory."""
    received = 0

    async def receive_bounded() -> Message:
        nonlocal received
        message = await receive()
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > limit:
                if message.get("more_body", False):
                    await _drain(receive)
                raise (too_large or _too_large)(limit)  # an HTTPException, so that body parsers let it through
        return message

    return receive_bounded


async def _drain(receive: Receive) -> None:
    """Throw away what is left of a body, if it is not much."""
    left = _DRAINED_BYTES
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while left > 0:
                message = await asyncio.wait_for(receive(), _PAUSE_SECONDS)
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return


def _too_large(limit: int) -> Problem:
    return _problem(f"the body exceeds {limit:,} bytes: send fewer inputs at a time, or raise ODENESS_MAX_BODY_BYTES")


def _upload_too_large(limit: int) -> Problem:
    return _problem(
        f"the file exceeds {limit:,} bytes: upload fewer samples or a smaller model, or raise ODENESS_MAX_UPLOAD_BYTES"
    )


def _problem(detail: str) -> Problem:
    # What is left of the body is not read, but for a little.
    return Problem(413, "body_too_large", detail, headers={"Connection": "close"})
