"""The data sets of requests: uploaded ones found by name and filled into specs, files of others required."""

import re
from typing import Any, TypeVar

from pydantic import ValidationError

from api.problems import Problem, invalid
from api.validation_messages import invalid_fields
from ode_core.datasets.files import DatasetUnavailable, check_dataset_files
from ode_core.specs import NAME_PATTERN, DatasetSpec, Spec, StudySpec, TrainingJobSpec, UploadedSpec
from store.datasets import DatasetVersion
from store.settings import Settings
from store.unit_of_work import Transaction


def find_dataset(tx: Transaction, name: str, version: int | None = None) -> DatasetVersion:
    """Return one version of an uploaded data set, the latest for None; a 404 problem if there is none."""
    known = re.fullmatch(NAME_PATTERN, name) is not None
    found = tx.datasets.version(name, version) if known else None
    if found is not None:
        return found
    if version is not None and known and tx.datasets.version(name) is not None:
        raise Problem(
            404,
            "dataset_version_not_found",
            f"the data set {name} has no version {version}: GET /v1/datasets/{name} lists its versions",
        )
    raise Problem(
        404,
        "dataset_not_found",
        f"there is no uploaded data set {name[:100]}: upload it with POST /v1/datasets, or see GET /v1/datasets",
    )


def fill_in_dataset(tx: Transaction, spec: TrainingJobSpec) -> TrainingJobSpec:
    """Return a job's spec with version and facts of an uploaded data set; any other spec as it is.

    Without the facts the spec's shapes could not be checked yet: that is done here.

    Raises:
        Problem: there is no such data set, the facts sent are not its own, or the model does not fit it.
    """
    found = _facts_of(tx, spec.dataset, "dataset")
    return spec if found is None else _validated(spec, spec.model_dump(mode="json") | {"dataset": found})


def filled_in(tx: Transaction, dataset: DatasetSpec, path: str) -> DatasetSpec:
    """Return a data set of a request with version and facts where it is uploaded; any other as it is.

    Raises:
        Problem: there is no such data set, or the facts sent are not its own.
    """
    found = _facts_of(tx, dataset, path)
    return dataset if found is None else UploadedSpec.model_validate(found)


def fill_in_study_dataset(tx: Transaction, spec: StudySpec) -> StudySpec:
    """Return a study's spec with the same of its base."""
    found = _facts_of(tx, spec.base.dataset, "base.dataset")
    if found is None:
        return spec
    document = spec.model_dump(mode="json")
    return _validated(spec, document | {"base": document["base"] | {"dataset": found}})


def _facts_of(tx: Transaction, dataset: DatasetSpec, path: str) -> dict[str, Any] | None:
    if not isinstance(dataset, UploadedSpec):
        return None
    found = find_dataset(tx, dataset.name, dataset.version).spec
    if dataset.facts not in (None, found.facts):
        raise invalid(
            f"{path}.facts", f"these are not the facts of {found.name} version {found.version}: leave them out"
        )
    return found.model_dump(mode="json")


S = TypeVar("S", bound=Spec)


def _validated(spec: S, document: dict[str, Any]) -> S:
    try:
        return type(spec).model_validate(document)
    except ValidationError as error:
        errors = [dict(one) | {"loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise invalid_fields(errors, document) from error


def require_dataset(dataset: DatasetSpec, settings: Settings) -> None:
    """Raise a ``Problem`` where the files of a data set are not at the server."""
    try:
        check_dataset_files(dataset, settings.datasets)
    except DatasetUnavailable as error:
        raise Problem(409, "dataset_unavailable", str(error)) from error
