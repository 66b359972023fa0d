"""uvicorn's HTTP protocol on httptools, with bounds on what is read without getting any further, on time and number.

httptools itself keeps headers, trailers and chunk extensions however long they are, before anybody is asked for a key,
and uvicorn waits for them however long they take.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from api.connection_watch import ConnectionWatch, Phase, Seen
from api.request_guard import CLOSED_WITH
from api.whole_answer import WholeAnswers

MOST_HEAD_BYTES = 2**16


class BoundedHttpProtocol(WholeAnswers):
    """Closes a connection whose request's line and headers, or trailers, are too long, or that its watch ends.

    Attributes:
        received: bytes of the last request's body.
        seen: what the watch has found.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._kept = 0  # bytes since the last headers or body were complete
        self._went_on = False
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
        self._write(
            503,
            f"{watch.limits.most} connections are open, which is all that this server takes: try again in a moment.",
            b"retry-after: 1\r\n",
        )
        transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        if self._refused:
            return
        self._went_on = False
        super().data_received(data)
        if self._went_on:
            self._kept = 0
            return
        self._kept += len(data)
        if self._kept <= MOST_HEAD_BYTES or self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.send_400_response(f"The headers exceed {MOST_HEAD_BYTES} bytes.")
        else:  # an answer is being written, into which this one must not come
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._went_on = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start to answer a request."""
        self._went_on = True
        self.received = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a part of a body on."""
        self._went_on = True
        self.received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._went_on = True
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
        return "head", self.scope

    def waits_for_us(self) -> bool:
        """Return whether the rest of a body does not come because nobody reads it yet."""
        return self.flow.read_paused or self.cycle.waiting_for_100_continue

    def refuse(self, status: int, message: str) -> None:
        """Answer a request that will not be complete, unless an answer is under way, and close the connection."""
        if self._is_answering():
            cycle = self.cycle
            cycle.scope["state"][CLOSED_WITH] = 408  # for log and metrics: what ends here is a slow body
            cycle.disconnected = True  # what the application still sends goes nowhere
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.abort()
                return
        self._write(status, message)
        self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _write(self, status: int, message: str, headers: bytes = b"") -> None:
        content = message.encode("ascii")
        self.transport.write(
            b"%scontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n%sconnection: close\r\n\r\n%s"
            % (STATUS_LINE[status], len(content), headers, content)
        )
