"""JSON answers made of plain data, fast; NaN leaves as null."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return ``content`` (lists, dicts, numbers, texts, datetimes) as a JSON response."""
    return Response(orjson.dumps(content), status, headers, "application/json")
