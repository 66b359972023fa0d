"""Reads JSON bodies fast, and says what is wrong with one that is none."""

from typing import Any

import orjson

from api.problems import Problem

_LENGTH = "Content-Length"


def read_json(body: bytes | memoryview, *, counted_by: str = _LENGTH, hint: str = "") -> Any:
    """Return what a body holds.

    Args:
        body: of a request, or the part of one that is JSON.
        counted_by: the header with its number of bytes.
        hint: what else to do where it is no JSON.

    Raises:
        Problem: 400, it is no JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not body:
            detail = "the body is empty: send a JSON object"
        elif error.msg.startswith("unexpected end of data"):
            detail = (
                f"the JSON ends early, after {len(body):,} bytes: is it cut off, or is the header {counted_by} less "
                "than it has?"
            )
        elif error.msg.startswith("number is infinity"):
            detail = f"a number in the body is beyond 1.8e308, which is the largest there is: {error}"
        else:
            detail = f"the body is not JSON, which has no NaN: {error}"
            if counted_by != _LENGTH:
                detail += f"; is the header {counted_by} the number of bytes of the JSON alone?"
        raise Problem(400, "invalid_json", detail + hint) from error
