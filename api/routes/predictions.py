"""Predictions with a version of a model, the solver chosen by the request."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response

from api.content_coding import packed, unpacked
from api.identifiers import ModelName, Version, VersionReference
from api.inference.prediction_answer import answer_of
from api.inference.prediction_call import PredictionCall
from api.inference.prediction_request import parse_body
from api.openapi import POSTED, problem_responses
from api.query_parameters import refuse_unknown_query
from api.schemas.prediction import PredictAnswer
from api.services import Services, ServicesOfApp

router = APIRouter(prefix="/v1", tags=["predictions"], dependencies=[Depends(refuse_unknown_query)])

# What is larger is read and written beside the event loop, which others wait for.
PARSED_AT_ONCE = 2**15
ROWS_WRITTEN_AT_ONCE = 256
STATE_NUMBERS_WRITTEN_AT_ONCE = 2**13

# Most clients accept codings whether or not they gain by them: what is shorter is sent sooner than packed.
PACKED_BYTES = 2**15

Alias = Annotated[str, Path(description="alias of a version, or latest")]

# The body is parsed as it comes; this is what the description says of it.
PREDICT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/PredictRequest"}}},
    }
}
_ANSWERS = problem_responses(404, 409, 504, *POSTED)


@router.post(
    "/models/{name}/predict",
    response_model=PredictAnswer,
    responses=_ANSWERS,
    openapi_extra=PREDICT_BODY,
    summary="Predict with the latest version",
)
async def predict(request: Request, services: ServicesOfApp, name: ModelName) -> Response:
    """Predict with the latest version, with the solver it was trained with or the one given."""
    return await answer_prediction(request, services, name, None)


@router.post(
    "/models/{name}/versions/{version}/predict",
    response_model=PredictAnswer,
    responses=_ANSWERS,
    openapi_extra=PREDICT_BODY,
    summary="Predict with one version",
)
async def predict_with_version(
    request: Request, services: ServicesOfApp, name: ModelName, version: Version
) -> Response:
    """Predict with one version, with the solver it was trained with or the one given."""
    return await answer_prediction(request, services, name, version)


@router.post(
    "/models/{name}/aliases/{alias}/predict",
    response_model=PredictAnswer,
    responses=_ANSWERS,
    openapi_extra=PREDICT_BODY,
    summary="Predict with the version an alias means",
)
async def predict_with_alias(request: Request, services: ServicesOfApp, name: ModelName, alias: Alias) -> Response:
    """Predict with the version that the alias means when the request is computed."""
    return await answer_prediction(request, services, name, alias)


async def answer_prediction(request: Request, services: Services, name: str, version: VersionReference) -> Response:
    """Return the answer to a request for predictions."""
    call, size = await asked_prediction(request, services, name, version)
    prediction = await services.inference.predict(call, size=size, is_disconnected=request.is_disconnected)
    outcome = prediction.outcome
    states = 0 if outcome.trajectory is None else outcome.trajectory.size
    if len(outcome) > ROWS_WRITTEN_AT_ONCE or states > STATE_NUMBERS_WRITTEN_AT_ONCE:
        content = await run_in_threadpool(answer_of, prediction)
    else:
        content = answer_of(prediction)
    if len(content) < PACKED_BYTES:
        return Response(content, media_type="application/json")
    accepted = request.headers.get("accept-encoding")
    content, coded = await run_in_threadpool(packed, content, accepted, worth_bytes=PACKED_BYTES)
    return Response(content, headers=coded, media_type="application/json")


async def asked_prediction(
    request: Request, services: Services, name: str, version: VersionReference
) -> tuple[PredictionCall, int]:
    """Return what a request asks, and how many bytes that has once it is unpacked."""
    body = await request.body()
    headers = request.headers
    most = services.settings.max_body_bytes
    if len(body) > PARSED_AT_ONCE or "content-encoding" in headers:
        return await run_in_threadpool(_read, headers, body, most, name, version)
    return _read(headers, body, most, name, version)


def _read(headers: Headers, body: bytes, most: int, name: str, version: VersionReference) -> tuple[PredictionCall, int]:
    content = unpacked(body, headers.get("content-encoding"), most)
    return parse_body(content, headers.get("content-type"), name, version), len(content)
