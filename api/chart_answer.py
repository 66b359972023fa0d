"""Answers with a figure: as an interactive page, a picture or data, as the query or ``Accept`` asks."""

import hashlib
import re
from collections.abc import Mapping
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from fastapi import Query, Request
from starlette.responses import Response

from api.charts.drawing import DrawingFailed, draw_apart
from api.charts.page import content_security_policy, page_of
from api.entity_tags import names
from api.openapi import described
from api.problems import Problem

if TYPE_CHECKING:
    from api.charts.figure import Figure

Format = Literal["html", "png", "svg", "json"]
MEDIA_TYPES: dict[Format, str] = {
    "html": "text/html",
    "png": "image/png",
    "svg": "image/svg+xml",
    "json": "application/json",
}

AskedFormat = Annotated[
    Format | None,
    Query(alias="format", description="html: an interactive page; default: what `Accept` asks for, else json"),
]
Scale = Annotated[float, Query(ge=1, le=4, allow_inf_nan=False, description="of a png: pixels a unit")]


CHART_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The figure in the format asked for",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/ChartDocument"}},
            **{kind: {"schema": {"type": "string"}} for kind in ("text/html", "image/png", "image/svg+xml")},
        },
    },
    **described(304, "Unchanged: the ETag is one of those in If-None-Match"),
}


def asked_format(asked: Format | None, request: Request) -> Format:
    """Return the format asked for, by the query or else by ``Accept``."""
    if asked is not None:
        return asked
    weights = _accepted(request.headers.get("accept") or "*/*")
    refused = {media_type for media_type, weight in weights if weight == 0}
    for media_type, _ in sorted((one for one in weights if one[1] > 0), key=lambda one: -one[1]):  # stable
        for kind, known in MEDIA_TYPES.items():
            if media_type == known:
                return kind
        if media_type in ("*/*", "application/*") and MEDIA_TYPES["json"] not in refused:
            return "json"
    raise Problem(
        406,
        "not_acceptable",
        f"a chart can be had as {', '.join(MEDIA_TYPES.values())}: name one in Accept, or use ?format=",
    )


def _accepted(header: str) -> list[tuple[str, float]]:
    """Return the media types of an ``Accept`` header with their weights; one that is no number counts as none given."""
    found = []
    for part in header.lower().split(","):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if match := re.fullmatch(r"q=([01](?:\.\d{0,3})?)", parameter):
                weight = float(match[1])
        found.append((media_type, weight))
    return found


def figure_response(
    name: str,
    figure: "Figure",
    kind: Format,
    scale: float,
    *,
    known_tag: str | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Response:
    """Return the response with a figure; not for the event loop, as drawing takes up to seconds.

    Args:
        name: of the chart.
        figure: what is drawn.
        kind: the format.
        scale: of a png: pixels a unit.
        known_tag: the request's ``If-None-Match``.
        beside: what JSON has besides the figure.

    Raises:
        Problem: the server is busy drawing.
    """
    document = figure.document()
    tag = _tag(document, kind, scale)
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Accept"}
    if names(known_tag, tag):
        return Response(status_code=304, headers=headers)
    try:
        content = _content(name, figure, document, kind, scale, beside or {})
        if kind == "html":
            headers["Content-Security-Policy"] = content_security_policy()
    except DrawingFailed as error:
        raise Problem(503, "drawing_failed", str(error), headers={"Retry-After": "5"}) from error
    return Response(content, 200, headers, MEDIA_TYPES[kind])


def _tag(document: dict[str, Any], kind: Format, scale: float) -> str:
    drawn = orjson.dumps([version_of("odeness"), kind, scale if kind == "png" else None, document])
    return f'"{hashlib.sha256(drawn).hexdigest()}"'


def _content(
    name: str, figure: "Figure", document: dict[str, Any], kind: Format, scale: float, beside: Mapping[str, Any]
) -> bytes | str:
    if kind == "png" or kind == "svg":
        return draw_apart(kind, orjson.dumps(document), scale)
    if kind == "html":
        return page_of(figure.title, document)
    data = {"name": name, "title": figure.title, "data": figure.canvas.tables, "vega_lite": document}
    return orjson.dumps({**data, **beside})
