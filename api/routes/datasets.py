"""The data sets that can be named in a spec."""

import inspect

from fastapi import APIRouter, Depends

from api.openapi import problem_responses
from api.query_parameters import refuse_unknown_query
from api.schemas.catalogue import DatasetKind, DatasetKinds
from api.services import ServicesOfApp
from ode_core.datasets.files import DatasetUnavailable, check_dataset_files
from ode_core.specs import (
    Cifar10Spec,
    ConcentricSpheresSpec,
    DatasetSpec,
    DigitsSpec,
    MnistSpec,
    ThreeMinimaSpec,
    XorSpec,
)
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


@router.get("/datasets", responses=problem_responses(), summary="List the data sets")
def list_datasets(services: ServicesOfApp) -> DatasetKinds:
    """List the data sets, and whether this server has their files."""
    return DatasetKinds(data=[_describe(example, services.settings) for example in _EXAMPLES])


def _describe(example: DatasetSpec, settings: Settings) -> DatasetKind:
    reason = None
    try:
        check_dataset_files(example, settings.datasets)
    except DatasetUnavailable as error:
        reason = str(error)
    return DatasetKind(
        kind=example.kind,
        description=inspect.cleandoc(type(example).__doc__ or "").splitlines()[0],
        available=reason is None,
        unavailable_because=reason,
        sample_shape=list(example.input_shape),
        classes=example.classes,
        example=example.model_dump(mode="json"),
    )
