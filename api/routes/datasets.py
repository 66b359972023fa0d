"""The data sets that can be named in a spec: ours, and those that were uploaded."""

import inspect
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from api.dataset_upload import MEDIA_TYPES, UploadOptions, take_in
from api.idempotency_key import IdempotencyKey
from api.json_answers import json_response
from api.openapi import POSTED, problem_responses
from api.problems import Problem, invalid
from api.query_parameters import After, Limit, refuse_unknown_query
from api.schemas.answer import ListOf
from api.schemas.catalogue import DatasetKind, UploadedDataset, UploadedVersion
from api.services import ServicesOfApp, StoreOfApp
from api.uploaded_datasets import find_dataset
from ode_core.datasets.files import DatasetUnavailable, check_dataset_files
from ode_core.specs import (
    NAME_PATTERN,
    Cifar10Spec,
    ConcentricSpheresSpec,
    DatasetSpec,
    DigitsSpec,
    MnistSpec,
    ThreeMinimaSpec,
    XorSpec,
)
from store.datasets import DatasetVersion
from store.settings import Settings

router = APIRouter(prefix="/v1", tags=["catalogue"], dependencies=[Depends(refuse_unknown_query)])

_EXAMPLES: tuple[DatasetSpec, ...] = (
    DigitsSpec(),
    ConcentricSpheresSpec(),
    ThreeMinimaSpec(),
    XorSpec(),
    MnistSpec(),
    Cifar10Spec(),
)
_RESERVED = frozenset(example.kind for example in _EXAMPLES) | {"uploaded"}

_FILE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in MEDIA_TYPES},
    }
}
_CREATED: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "The version is stored",
        "headers": {
            "Location": {"description": "the data set", "schema": {"type": "string"}},
            "Idempotency-Replayed": {
                "description": "`true`: the answer to an earlier request with this key",
                "schema": {"type": "string"},
            },
        },
    }
}


@router.get("/datasets", responses=problem_responses(), summary="List the data sets")
def list_datasets(services: ServicesOfApp, limit: Limit = 50, after: After = None) -> ListOf[DatasetKind]:
    """List our data sets, and whether this server has their files; then those uploaded, by name, `limit` a page."""
    with services.store.reading() as tx:
        page = tx.datasets.list(limit=limit, after=after)
    ours = [_describe(example, services.settings) for example in _EXAMPLES] if after is None else []
    uploaded = [_describe_upload(version) for version in page.items]
    return ListOf[DatasetKind](data=ours + uploaded, has_more=page.has_more, next_cursor=page.next_cursor)


@router.post(
    "/datasets",
    status_code=201,
    response_model=UploadedVersion,
    responses=_CREATED | problem_responses(408, 409, *POSTED),
    openapi_extra=_FILE,
    summary="Upload a data set",
)
async def upload_dataset(
    request: Request,
    services: ServicesOfApp,
    name: Annotated[str, Query(pattern=NAME_PATTERN, description="a name in use gets another version")],
    input_scale: Annotated[
        float, Query(ge=1e-9, le=1e9, description="factor from the inputs' own units to what a model computes with")
    ] = 1.0,
    test_fraction: Annotated[
        float | None, Query(ge=0.05, le=0.5, description="of each class, where the file has no test samples; 0.2")
    ] = None,
    split_seed: Annotated[int | None, Query(ge=0, lt=2**31, description="of the draw of the test samples; 0")] = None,
    label: Annotated[
        str | None, Query(min_length=1, max_length=200, description="a Parquet file's column of labels; `label`")
    ] = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Store the body, an npz or a Parquet file, as a new version of a data set, which then never changes.

    An npz file has `inputs` (samples first) and integer `labels`, and `test_inputs` and `test_labels` unless they are
    to be drawn. In a Parquet file one column is the labels and the others, numbers or one column of lists, the inputs.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise Problem(
            415, "unsupported_media_type", f"send the file as the body, with the header Content-Type: {MEDIA_TYPES[0]}"
        )
    if name in _RESERVED:
        raise invalid("name", f"{name} is the name of a data set of ours: choose another")
    options = UploadOptions(name, input_scale, label, test_fraction, split_seed)
    uploaded = await take_in(request, services, options, idempotency_key)
    return json_response(uploaded.body, 201, {"Location": f"/v1/datasets/{name}"} | uploaded.headers)


@router.get("/datasets/{name}", responses=problem_responses(404), summary="Read an uploaded data set and its versions")
def get_dataset(store: StoreOfApp, name: Annotated[str, Path(description="name of a data set")]) -> UploadedDataset:
    """Read an uploaded data set with all its versions, newest first."""
    with store.reading() as tx:
        latest = find_dataset(tx, name)
        versions = tx.datasets.versions(name)
    return UploadedDataset(
        name=name, latest_version=latest.version, versions=[UploadedVersion.of(version) for version in versions]
    )


def _describe(example: DatasetSpec, settings: Settings) -> DatasetKind:
    reason = None
    try:
        check_dataset_files(example, settings.datasets)
    except DatasetUnavailable as error:
        reason = str(error)
    return DatasetKind(
        kind=example.kind,
        name=None,
        description=inspect.cleandoc(type(example).__doc__ or "").splitlines()[0],
        available=reason is None,
        unavailable_because=reason,
        sample_shape=list(example.input_shape),
        classes=example.classes,
        example=example.model_dump(mode="json"),
        uploaded=None,
    )


def _describe_upload(version: DatasetVersion) -> DatasetKind:
    uploaded = UploadedVersion.of(version)
    return DatasetKind(
        kind="uploaded",
        name=version.name,
        description=f"Uploaded: {version.train_samples:,} training and {version.test_samples:,} test samples.",
        available=True,
        unavailable_because=None,
        sample_shape=version.input_shape,
        classes=version.classes,
        example=uploaded.spec.model_dump(mode="json", exclude_none=True),
        uploaded=uploaded,
    )
