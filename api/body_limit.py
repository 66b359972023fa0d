"""Bounds the size of request bodies, whatever they claim it to be."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem, problem_response


class BodyLimit:
    """ASGI middleware that refuses bodies of more than ``max_bytes`` bytes with a 413 problem.

    The framework's own limit answers in plain text, and replaces any other answer by it.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self.max_bytes:
            await problem_response(self._problem(), scope)(scope, receive, send)
            return
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self.max_bytes:
                    raise self._problem()  # an HTTPException, so that body parsers let it through
            return message

        await self.app(scope, receive_bounded, send)

    def _problem(self) -> Problem:
        return Problem(
            413,
            "body_too_large",
            f"the body exceeds {self.max_bytes:,} bytes: send fewer inputs at a time, or raise ODENESS_MAX_BODY_BYTES",
            # What is left of the body is not read.
            headers={"Connection": "close"},
        )
