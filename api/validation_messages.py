"""Turns pydantic's errors into paths and sentences that tell a user what to write instead."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.problems import Problem, problem_response

PLACES = ("body", "query", "path", "header", "cookie")
_SHOWN_ERRORS = 50
_SHOWN_INPUT = 60
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
    "greater_than": ("greater than", "gt"),
    "less_than": ("less than", "lt"),
}


async def answer_invalid_request(request: Request, error: Exception) -> Response:
    """Answer FastAPI's ``RequestValidationError``."""
    errors: Sequence[Mapping[str, Any]] = error.errors()  # type: ignore[attr-defined]
    body = getattr(error, "body", None)
    return problem_response(_problem_of_request(request, errors, body), request.scope)


def _problem_of_request(request: Request, errors: Sequence[Mapping[str, Any]], body: Any) -> Problem:
    first = errors[0]
    if first["type"] == "json_invalid":
        position = first["loc"][-1]
        reason = first.get("ctx", {}).get("error", "a syntax error")
        return Problem(400, "invalid_json", f"the body is not JSON: {reason} at character {position}", errors=[])
    if isinstance(body, bytes):
        return Problem(
            415, "unsupported_media_type", "send the body as JSON, with the header Content-Type: application/json"
        )
    if first["type"] == "missing" and tuple(first["loc"]) == ("body",):
        return Problem(400, "invalid_json", "the body is empty: send a JSON object")
    return invalid_fields(errors, body)


def invalid_fields(errors: Sequence[Mapping[str, Any]], body: Any) -> Problem:
    """Return the problem of a request whose fields are wrong.

    Args:
        errors: pydantic's; their locations begin with the place (``body``, ``query`` and so on).
        body: the JSON they were found in.
    """
    described = [
        {"path": field_path(error["loc"], body), "message": describe(error)} for error in errors[:_SHOWN_ERRORS]
    ]
    first = described[0]
    detail = f"{first['path']}: {first['message']}" if first["path"] else first["message"]
    if len(errors) > 1:
        detail += f" (and {len(errors) - 1} more: see errors)"
    return Problem(422, "invalid_request", detail, errors=described)


def field_path(location: Sequence[str | int], body: Any) -> str:
    """Return the dotted path of a field as the user wrote it, for example ``solvers.0.steps``.

    pydantic's location of a field inside a tagged union contains the tag, which is no field; it is
    left out by walking along in ``body``, or because it stands in parentheses.
    """
    parts = list(location)
    in_body = bool(parts) and parts[0] == "body"
    if parts and parts[0] in PLACES:
        parts = parts[1:]
    if not in_body:
        return ".".join(map(str, parts))
    path: list[str] = []
    current = body
    for part in parts:
        if isinstance(current, dict) and part not in current and part == current.get("kind"):
            continue
        if isinstance(part, str) and part.startswith("(") and not (isinstance(current, dict) and part in current):
            continue
        path.append(str(part))
        current = _item(current, part)
    return ".".join(path)


def _item(container: Any, key: str | int) -> Any:
    if isinstance(container, dict):
        return container.get(key)
    if isinstance(container, list) and isinstance(key, int) and key < len(container):
        return container[key]
    return None


def describe(error: Mapping[str, Any]) -> str:
    """Return the message of one of pydantic's errors: what is wrong and what would be right."""
    kind, context = error["type"], error.get("ctx", {})
    given = _shown(error.get("input"))
    if kind == "missing":
        return "this field is required"
    if kind == "extra_forbidden":
        return "there is no such field: leave it out"
    if kind == "literal_error":
        return f"{given} is not known: use {context['expected']}"
    if kind == "union_tag_invalid":
        tag = context["discriminator"].strip("'")
        return f"{tag} {_shown(context['tag'])} is not known: use {context['expected_tags']}"
    if kind == "union_tag_not_found":
        return f"say which kind it is: add the field {context['discriminator']}"
    if kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        return f"must be {word} {context[key]}, but is {given}"
    if kind == "string_pattern_mismatch":
        return f"{given} does not match the pattern {context['pattern']}"
    if kind == "value_error":
        return str(context.get("error", error["msg"]))
    if kind == "finite_number":
        return "must be a finite number"
    message = str(error["msg"])
    message = message[:1].lower() + message[1:]
    return message if error.get("input") is None or len(given) > _SHOWN_INPUT else f"{message}, but is {given}"


def _shown(value: Any) -> str:
    """Return a short form of what the user sent."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return "this value"
    return text if len(text) <= _SHOWN_INPUT else f"{text[: _SHOWN_INPUT - 1]}…"
