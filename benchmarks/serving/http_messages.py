"""HTTP/1.1 as the load client needs it: requests as bytes, and where an answer ends. Pure functions of bytes."""

from collections.abc import Mapping

_HEAD_END = b"\r\n\r\n"


class HttpBroken(ValueError):
    """What came is no HTTP answer that this client understands; the message says what is wrong."""


def post(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return a whole request of a connection that stays open."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def answer_length(received: bytes) -> int | None:
    """Return how many bytes the answer at the start of ``received`` has; None: more must come to tell, or to end it.

    Raises:
        HttpBroken: its head names no length.
    """
    head_end = received.find(_HEAD_END)
    if head_end < 0:
        return None
    body = head_end + len(_HEAD_END)
    head = received[: head_end + 2].lower()
    place = head.find(b"\r\ncontent-length:")
    if place >= 0:
        end = body + int(head[place + 17 : head.index(b"\r\n", place + 17)])
        return end if len(received) >= end else None
    if b"\r\ntransfer-encoding: chunked\r\n" in head:
        return _end_of_chunks(received, body)
    raise HttpBroken("an answer has neither Content-Length nor chunks")


def _end_of_chunks(received: bytes, place: int) -> int | None:
    """Return where the last chunk ends; trailers, which no server here sends, are not looked for."""
    while (line_end := received.find(b"\r\n", place)) >= 0:
        size = int(received[place:line_end].partition(b";")[0], 16)
        place = line_end + 2 + size + 2
        if size == 0:
            return place if len(received) >= place else None
    return None


def parts(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers with names in lower case, and body of a whole answer.

    Raises:
        HttpBroken: it begins with no status line.
    """
    head, _, body = answer.partition(_HEAD_END)
    status_line, *lines = head.decode("latin-1").split("\r\n")
    words = status_line.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise HttpBroken(f"an answer begins with {status_line[:80]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _joined_chunks(body)
    return int(words[1]), headers, body


def _joined_chunks(body: bytes) -> bytes:
    joined, place = b"", 0
    while True:
        line_end = body.index(b"\r\n", place)
        size = int(body[place:line_end].partition(b";")[0], 16)
        if size == 0:
            return joined
        joined += body[line_end + 2 : line_end + 2 + size]
        place = line_end + 2 + size + 2
