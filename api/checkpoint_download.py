"""Sends stored bytes with ETag and Range (RFC 9110)."""

import re

from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse

from api.entity_tags import names
from api.problems import Problem
from store.blobs import BlobInfo
from store.unit_of_work import Store

_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))", re.IGNORECASE)


def download(store: Store, blob: BlobInfo, filename: str, request: Headers, *, lasting: bool = True) -> Response:
    """Return the response that sends a blob, or the part of it that is asked for.

    A header with several ranges is ignored, as RFC 9110 allows: the whole is sent.

    Args:
        store: where it is.
        blob: what to send.
        filename: for it.
        request: the headers.
        lasting: whether the path means this blob for ever, so that caches need not ask again.
    """
    tag = f'"{blob.sha256}"'
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{filename}"',
        "Cache-Control": "private, max-age=31536000, immutable" if lasting else "private, no-cache",
    }
    if names(request.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    start, end, status = 0, blob.size, 200
    condition = request.get("if-range")
    if condition is None or condition == tag:
        part = _range(request.get("range"), blob.size)
        if part is not None:
            (start, end), status = part, 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.size}"
    headers["Content-Length"] = str(end - start)
    return StreamingResponse(
        store.stream_blob(blob.id, start, end), status, headers, media_type="application/octet-stream"
    )


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte and the one after the last; None: no range that we serve, send all."""
    match = _RANGE.fullmatch((header or "").strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None  # not a valid range; RFC 9110 wants it ignored
    if start >= end:
        raise Problem(
            416,
            "range_not_satisfiable",
            f"the file has {size} bytes: ask for a range inside it",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end
