"""Errors as ``application/problem+json`` (RFC 9457): what went wrong and what to do about it.

Under ``/v2`` they are ``{"error": text}``, which that protocol's clients read.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

PROBLEM_MEDIA_TYPE = "application/problem+json"

# The Open Inference Protocol has a form of its own for errors, whatever they are and wherever they come from.
_INFERENCE_PROTOCOL = "/v2"


class Problem(HTTPException):
    """An answer that is not a success; raised anywhere below the routes.

    Args:
        status: HTTP status.
        code: what programs act on, for example ``model_not_found``.
        detail: a sentence for people that names what to do.
        errors: ``{"path", "message"}`` for each wrong part of the request.
        headers: further response headers.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.code = code
        self.errors = list(errors)


def invalid(path: str, message: str, *, code: str = "invalid_request") -> Problem:
    """Return the problem of one wrong part of a request."""
    return Problem(422, code, f"{path}: {message}", errors=[{"path": path, "message": message}])


def problem_document(problem: Problem, request_id: str) -> dict[str, Any]:
    """Return the problem as its JSON object."""
    document: dict[str, Any] = {
        "type": f"urn:odeness:problem:{problem.code}",
        "title": HTTPStatus(problem.status_code).phrase,
        "status": problem.status_code,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request_id,
        "errors": problem.errors,
    }
    return document


def problem_response(problem: Problem, scope: Scope) -> Response:
    """Return the HTTP response of a problem; under ``/v2`` in the form of the Open Inference Protocol."""
    path = scope["path"]
    if path == _INFERENCE_PROTOCOL or path.startswith(f"{_INFERENCE_PROTOCOL}/"):
        return Response(
            orjson.dumps(_storable({"error": problem.detail})),
            status_code=problem.status_code,
            headers=problem.headers,
            media_type="application/json",
        )
    return Response(
        # A user's text may hold a lone surrogate, which UTF-8 cannot.
        orjson.dumps(_storable(problem_document(problem, request_id(scope)))),
        status_code=problem.status_code,
        headers=problem.headers,
        media_type=PROBLEM_MEDIA_TYPE,
    )


def unrouted_problem_response(problem: Problem) -> Response:
    """Return the HTTP response of a problem of a connection whose request's path has not come.

    It is a problem that has the ``error`` of the Open Inference Protocol, too, as either's client may wait for it.
    """
    return Response(
        orjson.dumps(_storable(problem_document(problem, "") | {"error": problem.detail})),
        status_code=problem.status_code,
        headers=problem.headers,
        media_type=PROBLEM_MEDIA_TYPE,
    )


def request_id(scope: Scope) -> str:
    """Return the id the guard gave this request."""
    return str(scope.get("state", {}).get("request_id", ""))


async def answer_problem(request: Request, problem: Exception) -> Response:
    """Answer a ``Problem``, or an ``HTTPException`` of the framework such as an unknown route."""
    assert isinstance(problem, HTTPException)
    if not isinstance(problem, Problem):
        problem = _of_framework(request, problem)
    return problem_response(problem, request.scope)


def _of_framework(request: Request, error: HTTPException) -> Problem:
    path = request.url.path
    if error.status_code == 404:
        return Problem(404, "route_not_found", f"there is nothing at {path}: /openapi.json lists what there is")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        detail = f"{request.method} is not allowed at {path}: use {allowed}"
        return Problem(405, "method_not_allowed", detail, headers=error.headers)
    if error.status_code == 400:
        # FastAPI's answer to a body it cannot read: not UTF-8, nested too deep, a number of thousands of digits.
        return Problem(400, "unreadable_body", "the body cannot be read as JSON: send UTF-8 without deep nesting")
    code = HTTPStatus(error.status_code).name.lower()
    return Problem(error.status_code, code, str(error.detail), headers=error.headers)


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value
