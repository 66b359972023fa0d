"""Compressed bodies: gzip and deflate, bounded when they are unpacked.

Deflate is zlib's format (RFC 9110). Some clients send it without zlib's header and sum; so that is read, too.
"""

import re
import zlib

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem

_WINDOW = {"gzip": 31, "deflate": 15}  # of zlib: what the data is wrapped in
_RAW = -15
_LEVEL = 1  # numbers of a model hardly shrink further, however long one tries
_WORTH_BYTES = 1400  # less goes into one packet anyway
_UNPACKED_PATH = re.compile(r"/v[12]/models/.+/(?:predict|predict/explain|infer)")
_PREFERENCE = re.compile(r"\s*([a-z*-]+)\s*(?:;\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?", re.IGNORECASE)


def unpacked(body: bytes, coding: str | None, most_bytes: int) -> bytes:
    """Return a body without its ``Content-Encoding``.

    Raises:
        Problem: the coding is unknown (415), the body is broken (400) or unpacks to more than ``most_bytes`` (413).
    """
    coding = (coding or "identity").strip().lower()
    if coding == "identity":
        return body
    if coding not in _WINDOW:
        raise _unsupported(coding, "gzip or deflate, or none", "gzip, deflate")
    raw = coding == "deflate" and not _has_zlib_header(body)
    unpacker = zlib.decompressobj(_RAW if raw else _WINDOW[coding])
    try:
        content = unpacker.decompress(body, most_bytes + 1)
    except zlib.error as error:
        raise _broken(coding, "it does not unpack") from error
    if len(content) > most_bytes:
        raise Problem(
            413,
            "body_too_large",
            f"the body unpacks to more than {most_bytes:,} bytes: send fewer inputs at a time, or raise "
            "ODENESS_MAX_BODY_BYTES",
        )
    if not unpacker.eof:
        raise _broken(coding, "it ends too soon")
    if unpacker.unused_data:
        raise _broken(coding, "something follows it")
    return content


def _has_zlib_header(body: bytes) -> bool:
    return len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0  # RFC 1950, 2.2


def packed(content: bytes, accepted: str | None, *, worth_bytes: int = _WORTH_BYTES) -> tuple[bytes, dict[str, str]]:
    """Return an answer in a coding that ``Accept-Encoding`` prefers, with its headers; a short one as it is."""
    coding = preferred_coding(accepted) if len(content) >= worth_bytes else None
    headers = {"Vary": "Accept-Encoding"}
    if coding is None:
        return content, headers
    packer = zlib.compressobj(_LEVEL, wbits=_WINDOW[coding])
    return packer.compress(content) + packer.flush(), headers | {"Content-Encoding": coding}


def preferred_coding(accepted: str | None) -> str | None:
    """Return ``gzip``, ``deflate``, or None where neither is accepted."""
    weights: dict[str, float] = {}
    for part in (accepted or "").split(","):
        if match := _PREFERENCE.fullmatch(part):
            weights[match[1].lower()] = float(match[2] or 1)
    weighted = {coding: weights.get(coding, weights.get("*", 0.0)) for coding in _WINDOW}
    best = max(weighted, key=lambda coding: weighted[coding])
    return best if weighted[best] > 0 else None


class UncodedBodies:
    """ASGI middleware that refuses coded bodies with 415 where nothing unpacks them.

    They would else be read as JSON, or as a file, which they are not.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        coding = ""
        if scope["type"] == "http" and not _UNPACKED_PATH.fullmatch(scope["path"]):
            coding = Headers(scope=scope).get("content-encoding", "").strip().lower()
        if coding in ("", "identity"):
            await self.app(scope, receive, send)
            return

        async def receive_uncoded() -> Message:
            message = await receive()
            if message.get("body"):
                # An HTTPException, so that body parsers let it through.
                raise _unsupported(coding, "none here; predictions take gzip and deflate", "identity")
            return message

        await self.app(scope, receive_uncoded, send)


def _unsupported(coding: str, use: str, accepted: str) -> Problem:
    detail = f"Content-Encoding {coding[:50]} is not supported: use {use}"
    return Problem(415, "unsupported_content_encoding", detail, headers={"Accept-Encoding": accepted})


def _broken(coding: str, reason: str) -> Problem:
    return Problem(400, "unreadable_body", f"the body is not {coding}, which Content-Encoding says it is: {reason}")
