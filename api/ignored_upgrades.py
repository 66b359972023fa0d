"""Requests that offer another protocol (``Upgrade: h2c``, which Java's client does by itself) are served in HTTP/1.1.

A server may ignore the offer (RFC 9110, section 7.8). httptools' parser cannot: it takes what follows the headers for
the other protocol's, so that the body would be missing. So a parser that finds an offer is replaced by another, which
reads the headers without it and goes on with the body.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

import httptools

from api.whole_answer import WholeAnswers

if TYPE_CHECKING:
    from array import array

Bytes: TypeAlias = "bytes | bytearray | memoryview[int] | array[int]"


class IgnoredUpgrades(WholeAnswers):
    """A protocol that stays in HTTP/1.1."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser = _Parser(self)

    def on_headers_complete(self) -> None:
        """Start to answer a request, unless its headers are going to be read again."""
        if not self._is_offered():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request, unless its headers are going to be read again."""
        if not self._is_offered():
            super().on_message_complete()

    def read_without_offer(self) -> "_Parser":
        """Read a request's headers again, without the offer; return the parser, which waits for what follows them."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = parser = _Parser(self)
        parser.feed_data(b"".join([*lines, b"\r\n"]))
        return parser

    def _is_offered(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"  # which is no offer


class _Parser(httptools.HttpRequestParser):
    def __init__(self, protocol: IgnoredUpgrades) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's

    def feed_data(self, data: Bytes) -> None:
        if (end := self._end_of_offer(data)) is None:
            return
        rest = memoryview(data)
        while end is not None:  # there may be many in what has come
            rest = rest[end:]
            end = self._protocol.read_without_offer()._end_of_offer(rest)

    def _end_of_offer(self, data: Bytes) -> int | None:
        """Read all; return where the first headers end that offer another protocol, which nothing is read behind."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self.get_method() == b"CONNECT":
                raise
            end: int = offer.args[0]
            return end
        return None
