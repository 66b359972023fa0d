"""The OpenAPI description: what every operation may answer besides success."""

from typing import Any

from fastapi import FastAPI

from api.authentication import OPEN_PATHS
from api.problems import PROBLEM_MEDIA_TYPE
from api.schemas.answer import ProblemDocument
from api.schemas.inference_protocol import InferBody, LoadQuery, ProtocolError, RepositoryQuery
from api.schemas.prediction import PredictRequest

Responses = dict[int | str, dict[str, Any]]

_REFERENCE = {"$ref": "#/components/schemas/ProblemDocument"}

_DESCRIPTIONS = {
    400: "The body is not JSON",
    401: "The API key is missing or wrong",
    404: "There is no such thing",
    406: "None of the formats in Accept can be had",
    408: "The body did not arrive in time",
    409: "The state of the server does not allow it",
    413: "The body is too large",
    415: "The body is not declared as application/json, or its Content-Encoding is unknown",
    416: "The range is outside the file",
    422: "A part of the request is wrong; `errors` names it",
    500: "An unexpected error",
    503: "The server cannot answer now; try again",
    504: "The server was too busy to begin in time",
}


def problem_responses(*statuses: int, open_to_all: bool = False) -> Responses:
    """Return the declaration of the problems an operation may answer: ``statuses`` and those all share."""
    shared = {422, 500, 503} if open_to_all else {401, 422, 500, 503}
    return {
        status: {
            "description": _DESCRIPTIONS[status],
            "content": {PROBLEM_MEDIA_TYPE: {"schema": _REFERENCE}},
        }
        for status in sorted(shared | set(statuses))
    }


def protocol_errors(*statuses: int, open_to_all: bool = False) -> Responses:
    """Return the same for an operation of the Open Inference Protocol, whose errors have a form of their own."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ProtocolError"}}}
    declared = problem_responses(*statuses, open_to_all=open_to_all)
    return {status: answer | {"content": content} for status, answer in declared.items()}


def described(status: int, description: str, *media_types: str) -> Responses:
    """Return the declaration of an answer that is no JSON; without a media type it has no body."""
    answer: dict[str, Any] = {"description": description}
    if media_types:
        answer["content"] = {media_type: {"schema": {"type": "string"}} for media_type in media_types}
    return {status: answer}


def accepted_response(what: str) -> Responses:
    """Return the declaration of the answer to a request that made a job or a study."""
    return {
        202: {
            "description": f"The {what} is accepted",
            "headers": {
                "Location": {"description": f"the {what}", "schema": {"type": "string"}},
                "Retry-After": {"description": "seconds until it is worth asking", "schema": {"type": "integer"}},
                "Idempotency-Replayed": {
                    "description": "`true`: the answer to an earlier request with this key",
                    "schema": {"type": "string"},
                },
            },
        }
    }


POSTED = (400, 413, 415)
"""The problems of every request with a body."""


class DescribedApp(FastAPI):
    """FastAPI whose description knows the problem schema and the API key."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        made_before = self.openapi_schema
        document = super().openapi()
        if document is not made_before:
            components = document.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            for model in (ProblemDocument, PredictRequest, ProtocolError, InferBody, LoadQuery, RepositoryQuery):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                for name, part in schema.pop("$defs", {}).items():
                    schemas.setdefault(name, part)
                schemas[model.__name__] = schema
            components["securitySchemes"] = {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "when the server has an API key set"}
            }
            for path, operations in document["paths"].items():
                if path not in OPEN_PATHS:
                    for operation in operations.values():
                        operation["security"] = [{}, {"apiKey": []}]
        return document
