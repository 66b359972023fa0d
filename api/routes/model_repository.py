"""The Open Inference Protocol's model repository: which versions there are, and whether they are in memory."""

from collections.abc import Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ValidationError

from api.identifiers import ModelName, find_version
from api.openapi import POSTED, protocol_errors
from api.problems import Problem, invalid
from api.schemas.inference_protocol import Loaded, LoadQuery, RepositoryEntry, RepositoryQuery, Unloaded
from api.services import ServicesOfApp
from ode_core.specs.spec import reasons
from store.models import ModelVersion
from store.unit_of_work import Store

router = APIRouter(prefix="/v2/repository", tags=["open inference protocol"])

Query = TypeVar("Query", bound=BaseModel)


def _optional_body(schema: type[BaseModel]) -> dict[str, Any]:
    # Clients send an empty body, and not always a Content-Type.
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}}
    return {"requestBody": {"required": False, "content": content}}


@router.post(
    "/index",
    responses=protocol_errors(*POSTED),
    openapi_extra=_optional_body(RepositoryQuery),
    summary="All versions of all models",
)
async def repository_index(request: Request, services: ServicesOfApp) -> list[RepositoryEntry]:
    """List all versions of all models by name; every one is ready."""
    _read(await request.body(), RepositoryQuery)
    found = await run_in_threadpool(_all_versions, services.store)
    return [RepositoryEntry(name=name, version=str(number), state="READY", reason="") for name, number in found]


@router.post(
    "/models/{name}/load",
    responses=protocol_errors(404, *POSTED),
    openapi_extra=_optional_body(LoadQuery),
    summary="Load a model's latest version",
)
async def load_model(request: Request, services: ServicesOfApp, name: ModelName) -> Loaded:
    """Load the latest version and predict once with it, so that the next request need not wait for that."""
    wish = _read(await request.body(), LoadQuery)
    if wish.parameters and wish.parameters.keys() - {"unload_dependents"}:
        raise invalid("parameters", "a model cannot be given another configuration or other files: leave them out")
    version = await run_in_threadpool(_latest, services.store, name)
    await services.inference.warm([services.inference.served(version)])
    return Loaded(name=name, load=True)


@router.post(
    "/models/{name}/unload",
    responses=protocol_errors(404, *POSTED),
    openapi_extra=_optional_body(LoadQuery),
    summary="Drop a model from memory",
)
async def unload_model(request: Request, services: ServicesOfApp, name: ModelName) -> Unloaded:
    """Drop all versions of a model from this process's memory; the next request for one loads it again."""
    _read(await request.body(), LoadQuery)
    versions = await run_in_threadpool(_versions, services.store, name)
    await services.inference.forget([version.id for version in versions])
    return Unloaded(name=name, unload=True)


def _read(body: bytes, schema: type[Query]) -> Query:
    if not body:
        return schema()
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise Problem(400, "invalid_json", f"the body is not JSON: {reasons(error)}") from error
        raise Problem(422, "invalid_request", reasons(error)) from error


def _all_versions(store: Store) -> list[tuple[str, int]]:
    with store.reading() as tx:
        return list(tx.models.version_numbers())


def _latest(store: Store, name: str) -> ModelVersion:
    with store.reading() as tx:
        return find_version(tx, name, None)


def _versions(store: Store, name: str) -> Sequence[ModelVersion]:
    with store.reading() as tx:
        find_version(tx, name, None)
        return tx.models.versions(name)
