"""uvicorn's HTTP protocol on httptools, with a bound on what is read without getting any further.

httptools itself keeps headers, trailers and chunk extensions however long they are, before anybody is asked for a key.
"""

from typing import Any

from api.whole_answer import WholeAnswers

MOST_HEAD_BYTES = 2**16


class BoundedHttpProtocol(WholeAnswers):
    """Closes a connection whose request's line and headers, or trailers, are too long."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._kept = 0  # bytes since the last headers or body were complete
        self._went_on = False

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
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
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a part of a body on."""
        self._went_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._went_on = True
        super().on_message_complete()
