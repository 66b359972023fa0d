"""Models: list them, read their versions, download weights."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from api.checkpoint_download import download
from api.dataset_upload import received_file
from api.idempotency_key import IdempotencyKey
from api.identifiers import ModelName, Version, find_version, model_not_found
from api.json_answers import json_response
from api.model_versions import (
    CREATED,
    UploadDeclaration,
    declared_training,
    headers_of,
    store_repair,
    store_upload,
)
from api.openapi import POSTED, described, problem_responses
from api.problems import Problem
from api.query_parameters import After, Limit, refuse_unknown_query
from api.schemas.answer import ListOf
from api.schemas.models import CheckpointAnswer, ModelAnswer, ModelSummary, ModelVersionAnswer, ModelVersionDetail
from api.schemas.solver_choice import SolverChoiceSummary
from api.services import ServicesOfApp, StoreOfApp
from ode_core.specs import NAME_PATTERN, RepairSpec
from ode_core.specs.solver import Precision
from store.models import ModelVersion

router = APIRouter(prefix="/v1", tags=["models"], dependencies=[Depends(refuse_unknown_query)])

_WEIGHTS_TYPE = "application/octet-stream"
_WEIGHTS_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {_WEIGHTS_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
}


@router.get("/models", responses=problem_responses(), summary="List models by name")
def list_models(store: StoreOfApp, limit: Limit = 50, after: After = None) -> ListOf[ModelSummary]:
    """List models by name."""
    with store.reading() as tx:
        page = tx.models.list(limit=limit, after=after)
    return ListOf[ModelSummary](
        data=[ModelSummary.of(model) for model in page.items], has_more=page.has_more, next_cursor=page.next_cursor
    )


@router.post(
    "/models",
    status_code=201,
    response_model=ModelVersionAnswer,
    responses=CREATED | problem_responses(404, 408, 409, *POSTED),
    openapi_extra=_WEIGHTS_BODY,
    summary="Upload weights trained elsewhere",
)
async def upload_model(
    request: Request,
    services: ServicesOfApp,
    name: Annotated[str, Query(pattern=NAME_PATTERN, description="a name in use gets another version")],
    model: Annotated[str, Query(description="the architecture as JSON, as in a training job")],
    dataset: Annotated[str, Query(description="what it reads and is tested on, as JSON")],
    solver: Annotated[str, Query(description="what it was trained with, as JSON")],
    precision: Annotated[Precision | None, Query(description="the weights'; default: the file's")] = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Store the body, a safetensors file, as a new version of a model, which then never changes.

    Names and shapes of its tensors must be those of the declared architecture. Predictions, sweeps, audits, portraits
    and `start_from` then take the version like one that was trained here.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != _WEIGHTS_TYPE:
        raise Problem(
            415, "unsupported_media_type", f"send the file as the body, with the header Content-Type: {_WEIGHTS_TYPE}"
        )
    declaration = UploadDeclaration(name, model, dataset, solver, precision)
    spec = await run_in_threadpool(declared_training, services, declaration)
    async with received_file(request, services) as (source, checksum):
        made = await run_in_threadpool(store_upload, services, source, checksum, spec, precision, idempotency_key)
    return json_response(made.body, 201, headers_of(made))


@router.get("/models/{name}", responses=problem_responses(404), summary="Read a model and its versions")
def get_model(store: StoreOfApp, name: ModelName) -> ModelAnswer:
    """Read a model with all its versions, newest first."""
    with store.reading() as tx:
        model = tx.models.get(name) if re.fullmatch(NAME_PATTERN, name) else None
        if model is None:
            raise model_not_found(name)
        versions = tx.models.versions(name)
    return ModelAnswer(
        **ModelSummary.of(model).model_dump(), versions=[ModelVersionAnswer.of(version) for version in versions]
    )


@router.post(
    "/models/{name}/versions",
    status_code=201,
    responses=CREATED | problem_responses(404, 409, *POSTED),
    summary="Repair a version: put a modified field in the place of its field",
)
def repair_model_version(
    services: ServicesOfApp,
    response: Response,
    name: ModelName,
    repair: RepairSpec,
    idempotency_key: IdempotencyKey = None,
) -> ModelVersionAnswer:
    """Make a version with the weights of another and a modified field in its field's place; nothing is trained.

    It gives under accurate solvers what its parent gives under its training solver. Predictions use dopri5 with
    tolerances of 1e-5 unless they name another solver. Which modified field, an audit with `mechanism` says.
    """
    made = store_repair(services, name, repair, idempotency_key)
    response.headers.update(headers_of(made))
    return ModelVersionAnswer.model_validate(made.body)


@router.get("/models/{name}/versions/{version}", responses=problem_responses(404), summary="Read a model version")
def get_model_version(store: StoreOfApp, name: ModelName, version: Version) -> ModelVersionDetail:
    """Read one version of a model."""
    with store.reading() as tx:
        found = find_version(tx, name, version)
        blob = tx.blobs.info(found.blob_id)
        stored = tx.solver_choices.of_version(found.id)
    if blob is None:
        raise _weights_missing(found)
    answer = ModelVersionAnswer.of(found)
    checkpoint = CheckpointAnswer(href=answer.links.checkpoint, bytes=blob.size, sha256=blob.sha256)
    choice = None if stored is None else SolverChoiceSummary.of(found, stored)
    return ModelVersionDetail(**dict(answer), checkpoint=checkpoint, solver_choice=choice)


@router.get(
    "/models/{name}/versions/{version}/checkpoint",
    response_class=Response,
    responses=described(200, "The weights as a safetensors file", "application/octet-stream")
    | described(206, "The range asked for", "application/octet-stream")
    | described(304, "Unchanged: the ETag is one of those in If-None-Match")
    | problem_responses(404, 416),
    summary="Download a version's weights",
)
def get_checkpoint(request: Request, store: StoreOfApp, name: ModelName, version: Version) -> Response:
    """Download a version's weights, whole or in part: the ETag is their SHA-256."""
    with store.reading() as tx:
        found = find_version(tx, name, version)
        blob = tx.blobs.info(found.blob_id)
    if blob is None:
        raise _weights_missing(found)
    own = version == str(found.version)
    return download(store, blob, f"{name}-v{found.version}.safetensors", request.headers, lasting=own)


def _weights_missing(version: ModelVersion) -> Problem:
    detail = f"the weights of {version.model} version {version.version} are not in the database: train it again"
    return Problem(500, "weights_missing", detail)
