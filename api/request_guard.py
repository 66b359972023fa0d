"""The outermost layer of every request: its id, its security headers, its measurements, its unexpected errors."""

import random
import re
import time
from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access_log import log, log_request
from api.problems import Problem, problem_response
from api.request_metrics import RequestMetrics

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

CLIENT_LEFT = 499
"""What log and metrics have for a request whose client left before its answer: no standard's status, but nginx's."""

CLOSED_WITH = "odeness.closed_with"
"""Under which a request's state has the status that the server itself answered before the application could."""

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
}


class RequestGuard:
    """ASGI middleware around all others.

    An exception that nothing else handled becomes a problem answer here. An ``Exception`` handler of
    the framework would answer and then raise again, on which uvicorn resets the connection.
    """

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        identifier = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = identifier
        status = 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = state.get(CLOSED_WITH, message["status"])
                message["headers"] = _guarded_headers(message["headers"], identifier)
            await send(message)

        try:
            await self.app(scope, receive, send_guarded)
        except ClientDisconnect:  # nobody waits for an answer
            status = status or state.get(CLOSED_WITH, CLIENT_LEFT)
        except Exception:
            log.exception("request %s: %s %s failed", identifier, scope["method"], scope["path"])
            if status:
                # Half an answer is out; only a cut connection tells the client that it is not whole.
                raise
            await problem_response(_UNEXPECTED, scope)(scope, receive, send_guarded)
        finally:
            seconds = time.perf_counter() - started
            self.metrics.observe(scope["method"], route_template(scope), status, seconds)
            log_request(scope["method"], scope["path"], status, seconds, identifier)


_DEFAULT_HEADERS = [
    (name.lower().encode(), value.encode())
    for name, value in (SECURITY_HEADERS | {"Cache-Control": "no-store"}).items()
]

_NAMES = {b"x-request-id", *(name for name, _ in _DEFAULT_HEADERS)}


def _guarded_headers(headers: Iterable[tuple[bytes, bytes]], identifier: str) -> list[tuple[bytes, bytes]]:
    """Return a response's headers with the request's id, and with those of ours that it does not set itself."""
    given, own = [*headers], (b"x-request-id", identifier.encode())
    names = {name.lower() for name, _ in given}
    if names.isdisjoint(_NAMES):
        return [*given, own, *_DEFAULT_HEADERS]
    given = [header for header in given if header[0].lower() != b"x-request-id"]
    return [*given, own, *(header for header in _DEFAULT_HEADERS if header[0] not in names)]


_UNEXPECTED = Problem(
    500,
    "internal_error",
    "an unexpected error, which is our fault: the server's log has it under this request_id",
)


def route_template(scope: Scope) -> str:
    """Return the path template of the route that served the request, ``unmatched`` if there was none."""
    return str(getattr(scope.get("route"), "path", "unmatched"))


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
    return given if _SANE_REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"  # no secret
