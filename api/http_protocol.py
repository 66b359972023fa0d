"""uvicorn's HTTP protocol on httptools, with bounds on what is read without getting any further, on time and number.

httptools itself keeps headers, trailers and chunk extensions however long they are, before anybody is asked for a key,
and uvicorn waits for them however long they take.
"""

import asyncio
from typing import Any, Literal

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from api.connection_watch import ConnectionWatch, Phase, Seen
from api.ignored_upgrades import IgnoredUpgrades
from api.problems import Problem, problem_response, unrouted_problem_response
from api.request_guard import CLOSED_WITH

MOST_HEAD_BYTES = 2**16


class BoundedHttpProtocol(IgnoredUpgrades):
    """Closes a connection whose request's line and headers, or trailers, are too long, or that its watch ends.

    Attributes:
        received: bytes of the last request's body.
        seen: what the watch has found.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._kept = 0  # bytes since the last headers or body were complete
        self._went_on = False
        self._part: Literal["head", "body"] | None = None  # of a request, that has begun and is not complete
        self._was_discarded = False
        self._refused = False
        self.received = 0
        self.seen: Seen | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or refuse a connection that is one too many."""
        super().connection_made(transport)
        watch = ConnectionWatch.of_server(self.server_state, self.app_state, self.loop)
        if watch is None or watch.takes():
            return
        if len(self.connections) > 2 * watch.limits.most:
            transport.abort()
            return
        # It is closed a moment later: closed at once with a request unread, it would be reset and the answer lost.
        self._refused = True
        detail = f"{watch.limits.most} connections are open, which is all that this server takes: try again in a moment"
        self._write(Problem(503, "too_many_connections", detail, headers={"Retry-After": "1"}))
        transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        if self._refused:
            return
        self._went_on = self._was_discarded = False
        super().data_received(data)
        if self._went_on:
            self._kept = 0
            if self._was_discarded:
                self._wait_for_next()
            return
        self._kept += len(data)
        if self._kept > MOST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The headers exceed {MOST_HEAD_BYTES} bytes.")

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, unless that would come into another answer or behind its own; then close."""
        problem = Problem(400, "malformed_request", msg)
        answering = self._is_answering()
        begun = answering and self._answer_has_begun()
        if answering and self._part == "body":
            self._end_request(problem)
        if (self._part == "body") == answering and not begun:
            self._write(problem)
        self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._went_on = True
        self._part = "head"
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start to answer a request."""
        self._went_on = True
        self.received = 0
        super().on_headers_complete()
        self._part = "body"

    def on_body(self, body: bytes) -> None:
        """Pass a part of a body on."""
        self._went_on = True
        self.received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._went_on = True
        self._part = None
        self._was_discarded = not self._is_answering()
        super().on_message_complete()

    def phase(self) -> tuple[Phase | None, object]:
        """Return what the connection is at, and with which request; None between two, when uvicorn's own timer runs."""
        if self._refused:
            return "refused", None
        if self.transport.is_closing():
            return "closing", None
        if self._is_answering():
            return ("body" if self.cycle.more_body else "answer"), self.cycle
        if self.timeout_keep_alive_task is not None:
            return None, None
        if self._part == "body":
            return "discarded", self.cycle
        return "head", self.scope

    def waits_for_us(self) -> bool:
        """Return whether the rest of a body does not come because nobody reads it yet."""
        return self.flow.read_paused or self.cycle.waiting_for_100_continue

    def refuse(self, problem: Problem) -> None:
        """Answer a request that will not be complete, unless it has an answer, and close the connection."""
        if self._is_answering():
            self._end_request(problem)
            if self._answer_has_begun():
                self.transport.abort()
                return
            self._write(problem)
        elif self._part != "body":
            self._write(problem)
        self.transport.close()

    def _end_request(self, problem: Problem) -> None:
        """Tell the application that its client is gone, and log and metrics how that client was answered."""
        cycle = self.cycle
        cycle.scope["state"][CLOSED_WITH] = problem.status_code
        cycle.disconnected = True  # what the application still sends goes nowhere
        cycle.message_event.set()

    def _wait_for_next(self) -> None:
        """Give the client its pause between two requests; uvicorn counts it from the answer alone."""
        if self._part is None and not self._is_answering() and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            pause = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
            self.timeout_keep_alive_task = pause

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _answer_has_begun(self) -> bool:
        return self.cycle.response_started or bool(self.pipeline)  # or that of a request before this one

    def _write(self, problem: Problem) -> None:
        if self._part == "body":
            scope: Scope = self.cycle.scope  # type: ignore[assignment]  # uvicorn's type knows those of the standard alone
            response = problem_response(problem, scope)
        else:
            response = unrouted_problem_response(problem)
        lines = [b"%b: %b\r\n" % header for header in response.raw_headers]
        head = [STATUS_LINE[problem.status_code], *lines, b"connection: close\r\n\r\n"]
        self.transport.write(b"".join([*head, bytes(response.body)]))
