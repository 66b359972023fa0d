"""Predictions as a picture: where the states of a model in the plane go, with a solver and along the exact flow."""

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from api.chart_answer import CHART_RESPONSES, AskedFormat, Format, Scale, asked_format, figure_response
from api.identifiers import ModelName, Version, VersionReference
from api.inference.prediction_answer import answer_of
from api.inference.prediction_call import Explanation, Prediction
from api.openapi import POSTED, problem_responses
from api.query_parameters import refuse_unknown_query
from api.routes.predictions import PREDICT_BODY, Alias, asked_prediction
from api.schemas.charts import ExplanationDocument
from api.services import Services, ServicesOfApp

router = APIRouter(prefix="/v1", tags=["predictions"], dependencies=[Depends(refuse_unknown_query)])

_ANSWERS = CHART_RESPONSES | problem_responses(404, 406, 409, 504, *POSTED)


@router.post(
    "/models/{name}/predict/explain",
    response_class=Response,
    response_model=ExplanationDocument,
    responses=_ANSWERS,
    openapi_extra=PREDICT_BODY,
    summary="A picture of predictions with the latest version",
)
async def explain(
    request: Request,
    services: ServicesOfApp,
    name: ModelName,
    asked: AskedFormat = None,
    scale: Scale = 2.0,
) -> Response:
    """Draw how the latest version comes to its predictions, beside the exact flow; the body is that of a prediction."""
    return await _answer(request, services, name, None, asked, scale)


@router.post(
    "/models/{name}/versions/{version}/predict/explain",
    response_class=Response,
    response_model=ExplanationDocument,
    responses=_ANSWERS,
    openapi_extra=PREDICT_BODY,
    summary="A picture of predictions with one version",
)
async def explain_version(
    request: Request,
    services: ServicesOfApp,
    name: ModelName,
    version: Version,
    asked: AskedFormat = None,
    scale: Scale = 2.0,
) -> Response:
    """Draw how one version comes to its predictions, beside the exact flow; the body is that of a prediction."""
    return await _answer(request, services, name, version, asked, scale)


@router.post(
    "/models/{name}/aliases/{alias}/predict/explain",
    response_class=Response,
    response_model=ExplanationDocument,
    responses=_ANSWERS,
    openapi_extra=PREDICT_BODY,
    summary="A picture of predictions with the version an alias means",
)
async def explain_alias(
    request: Request,
    services: ServicesOfApp,
    name: ModelName,
    alias: Alias,
    asked: AskedFormat = None,
    scale: Scale = 2.0,
) -> Response:
    """Draw how an alias's version comes to its predictions, beside the exact flow; the body is that of a prediction."""
    return await _answer(request, services, name, alias, asked, scale)


async def _answer(
    request: Request, services: Services, name: str, version: VersionReference, asked: Format | None, scale: float
) -> Response:
    kind = asked_format(asked, request)
    call, size = await asked_prediction(request, services, name, version)
    prediction, explanation = await services.inference.explain(call, size=size, is_disconnected=request.is_disconnected)
    return await run_in_threadpool(_drawn, prediction, explanation, kind, scale)


def _drawn(prediction: Prediction, explanation: Explanation, kind: Format, scale: float) -> Response:
    # The drawing library is loaded with the first figure, not with every server.
    from api.charts.explanation import ExplainedRows, explanation_figure  # noqa: PLC0415

    outcome, version = prediction.outcome, prediction.served.version
    rows = ExplainedRows(
        version=f"{version.model} version {version.version}",
        solver=prediction.solver.label,
        classes=outcome.logits.shape[1],
        labels=[
            None if status else label for label, status in zip(outcome.labels.tolist(), outcome.statuses, strict=True)
        ],
        statuses=[status.text for status in outcome.statuses],
    )
    figure = explanation_figure(explanation, rows)
    return figure_response(
        "explanation", figure, kind, scale, beside={"prediction": orjson.Fragment(answer_of(prediction))}
    )
