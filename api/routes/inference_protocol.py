"""The Open Inference Protocol (V2): what there is, whether it is ready, predictions and their statistics."""

import importlib.metadata
import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response

from api.content_coding import packed, unpacked
from api.identifiers import ModelName, find_version
from api.inference.prediction_call import Prediction
from api.inference_protocol.answer import infer_answer
from api.inference_protocol.call_parameters import asked_call
from api.inference_protocol.prediction import prediction_call
from api.inference_protocol.request import HEADER_LENGTH, InferRequest, parse_infer_request
from api.inference_protocol.signature import wanted_outputs
from api.openapi import POSTED, described, protocol_errors
from api.readiness import require_ready
from api.schemas.inference_protocol import (
    InferAnswer,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    ModelsStats,
    ModelStats,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from api.services import Services, ServicesOfApp, StoreOfApp
from ode_core.specs import SolverSpec
from store.models import ModelVersion
from store.unit_of_work import Store

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

# What is larger is read and written beside the event loop, which others wait for.
READ_AT_ONCE = 2**15  # bytes
PACKED_AT_ONCE = 2**16
STATE_NUMBERS_WRITTEN_AT_ONCE = 2**13

EXTENSIONS = ["binary_tensor_data", "parameters", "statistics", "model_configuration", "model_repository"]

VersionReference = Annotated[str, Path(description="number of a version, or an alias")]

# Requests are read from the raw body; this is what the description says of it.
_INFER_BODY: dict[str, Any] = {
    "parameters": [
        {
            "name": HEADER_LENGTH,
            "in": "header",
            "required": False,
            "description": "bytes of the JSON, where the bytes of tensors follow it",
            "schema": {"type": "integer"},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferBody"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
_INFER_ERRORS = protocol_errors(404, 409, 504, *POSTED)


@router.get("", responses=protocol_errors(), summary="Name, version and extensions of the server")
@router.get("/", include_in_schema=False)
async def server_metadata() -> ServerMetadata:
    """Tell what the server is, and which extensions of the protocol it has."""
    return ServerMetadata(name="odeness", version=importlib.metadata.version("odeness"), extensions=EXTENSIONS)


@router.get("/health/live", responses=protocol_errors(open_to_all=True), summary="Alive")
async def server_live() -> ServerLive:
    """Answer that the process runs; does nothing else."""
    return ServerLive(live=True)


@router.get("/health/ready", responses=protocol_errors(open_to_all=True), summary="Ready to predict")
def server_ready(services: ServicesOfApp) -> ServerReady:
    """Answer whether the database can be used and the models asked for are loaded, as ``/readyz`` does."""
    require_ready(services)
    return ServerReady(ready=True)


# Before those of one model: "stats" is none's name here.
@router.get("/models/stats", responses=protocol_errors(), summary="Statistics of all models")
def all_statistics(services: ServicesOfApp) -> ModelsStats:
    """Return what the versions that were asked for have done since this process started."""
    statistics = services.statistics
    return ModelsStats(
        model_stats=[
            ModelStats.of(model, version, statistics.of(model, version)) for model, version in statistics.known()
        ]
    )


@router.get("/models/{name}", responses=protocol_errors(404), summary="Tensors of a model's latest version")
def model_metadata(store: StoreOfApp, name: ModelName) -> ModelMetadata:
    """Describe inputs and outputs of the latest version."""
    return _metadata(store, name, None)


@router.get(
    "/models/{name}/versions/{version}", responses=protocol_errors(404), summary="Tensors of one version of a model"
)
def version_metadata(store: StoreOfApp, name: ModelName, version: VersionReference) -> ModelMetadata:
    """Describe inputs and outputs of one version."""
    return _metadata(store, name, version)


def _metadata(store: Store, name: str, reference: str | None) -> ModelMetadata:
    with store.reading() as tx:
        version = find_version(tx, name, reference)
        numbers = [number for _, number in tx.models.version_numbers(name)]
    return ModelMetadata.of(version, numbers, _solver_label(version))


@router.get("/models/{name}/ready", responses=protocol_errors(404, 503), summary="Whether a model is ready")
def model_ready(services: ServicesOfApp, name: ModelName) -> ModelReady:
    """Answer whether there is the model and the server does not still load it before it is ready itself."""
    return _ready(services, name, None)


@router.get(
    "/models/{name}/versions/{version}/ready",
    responses=protocol_errors(404, 503),
    summary="Whether one version of a model is ready",
)
def version_ready(services: ServicesOfApp, name: ModelName, version: VersionReference) -> ModelReady:
    """Answer whether there is the version and the server does not still load it before it is ready itself."""
    return _ready(services, name, version)


def _ready(services: Services, name: str, reference: str | None) -> ModelReady:
    with services.store.reading() as tx:
        version = find_version(tx, name, reference)
        services.warm_up.require_not_awaited(tx, version)
    return ModelReady(name=version.model, ready=True)


@router.get(
    "/models/{name}/config",
    response_model_exclude_none=True,
    responses=protocol_errors(404),
    summary="Configuration of a model",
)
def model_config(services: ServicesOfApp, name: ModelName) -> ModelConfig:
    """Return the latest version's configuration, in the form of Triton's."""
    return _config(services, name, None)


@router.get(
    "/models/{name}/versions/{version}/config",
    response_model_exclude_none=True,
    responses=protocol_errors(404),
    summary="Configuration of one version of a model",
)
def version_config(services: ServicesOfApp, name: ModelName, version: VersionReference) -> ModelConfig:
    """Return one version's configuration, in the form of Triton's."""
    return _config(services, name, version)


def _config(services: Services, name: str, reference: str | None) -> ModelConfig:
    with services.store.reading() as tx:
        version = find_version(tx, name, reference)
    return ModelConfig.of(version, services.settings.budget.inference_rows, _solver_label(version))


@router.get("/models/{name}/stats", responses=protocol_errors(404), summary="Statistics of a model's versions")
def model_statistics(services: ServicesOfApp, name: ModelName) -> ModelsStats:
    """Return what all versions of a model have done since this process started."""
    with services.store.reading() as tx:
        find_version(tx, name, None)
        numbers = tx.models.version_numbers(name)
    return ModelsStats(
        model_stats=[ModelStats.of(name, number, services.statistics.of(name, number)) for _, number in numbers]
    )


@router.get(
    "/models/{name}/versions/{version}/stats",
    responses=protocol_errors(404),
    summary="Statistics of one version of a model",
)
def version_statistics(services: ServicesOfApp, name: ModelName, version: VersionReference) -> ModelsStats:
    """Return what one version has done since this process started."""
    with services.store.reading() as tx:
        found = find_version(tx, name, version)
    statistics = services.statistics.of(found.model, found.version)
    return ModelsStats(model_stats=[ModelStats.of(found.model, found.version, statistics)])


@router.post(
    "/models/{name}/infer",
    response_model=InferAnswer,
    responses=described(200, "Outputs, and the solver", "application/octet-stream") | _INFER_ERRORS,
    openapi_extra=_INFER_BODY,
    summary="Predict with the latest version",
)
async def infer(request: Request, services: ServicesOfApp, name: ModelName) -> Response:
    """Predict with the latest version, with the solver it was trained with or the one in `parameters`."""
    return await answer_infer(request, services, name, None)


@router.post(
    "/models/{name}/versions/{version}/infer",
    response_model=InferAnswer,
    responses=described(200, "Outputs, and the solver", "application/octet-stream") | _INFER_ERRORS,
    openapi_extra=_INFER_BODY,
    summary="Predict with one version",
)
async def infer_with_version(
    request: Request, services: ServicesOfApp, name: ModelName, version: VersionReference
) -> Response:
    """Predict with one version, with the solver it was trained with or the one in `parameters`."""
    return await answer_infer(request, services, name, version)


async def answer_infer(request: Request, services: Services, name: str, reference: str | None) -> Response:
    """Return the answer to an infer request."""
    body = await request.body()
    began = time.perf_counter_ns()
    statistics = services.statistics
    call = None
    try:
        headers = request.headers
        most = services.settings.max_body_bytes
        if len(body) > READ_AT_ONCE or "content-encoding" in headers:
            asked, size = await run_in_threadpool(_read, headers, body, most)
        else:
            asked, size = _read(headers, body, most)
        options = asked_call(asked)
        call = prediction_call(name, reference, asked, options)
        wanted = wanted_outputs(asked, certify=options.certify, trajectory=bool(options.times))
        read = time.perf_counter_ns()
        prediction = await services.inference.predict(call, size=size, is_disconnected=request.is_disconnected)
        predicted = time.perf_counter_ns()
        if _states(prediction) > STATE_NUMBERS_WRITTEN_AT_ONCE:
            content, answered = await run_in_threadpool(infer_answer, prediction, wanted, asked.id)
        else:
            content, answered = infer_answer(prediction, wanted, asked.id)
        if coding := headers.get("accept-encoding"):
            if len(content) > PACKED_AT_ONCE:
                content, coded = await run_in_threadpool(packed, content, coding)
            else:
                content, coded = packed(content, coding)
            answered |= coded
    except Exception:
        # A request that could not be read, or of a model that is not there, belongs to no version's statistics.
        if call is not None and (found := call.found.version) is not None:
            statistics.failed(found.model, found.version, time.perf_counter_ns() - began)
        raise
    version = prediction.served.version
    statistics.succeeded(
        version.model,
        version.version,
        len(prediction.outcome),
        read - began,
        round(prediction.waited_seconds * 1e9),
        predicted - read - round(prediction.waited_seconds * 1e9),
        time.perf_counter_ns() - predicted,
    )
    return Response(content, headers=answered)


def _read(headers: Headers, body: bytes, most: int) -> tuple[InferRequest, int]:
    """Return the request, and how many bytes it has once it is unpacked."""
    content = unpacked(body, headers.get("content-encoding"), most)
    return parse_infer_request(content, headers.get(HEADER_LENGTH)), len(content)


def _states(prediction: Prediction) -> int:
    """Return how many numbers the states along the way are."""
    trajectory = prediction.outcome.trajectory
    return 0 if trajectory is None else trajectory.size


def _solver_label(version: ModelVersion) -> str:
    return SolverSpec.model_validate(version.solver).label
