"""Uploaded data sets by name: found for reading, and filled into the specs of jobs that use them."""

import re

from pydantic import ValidationError

from api.problems import Problem, invalid
from api.validation_messages import invalid_fields
from ode_core.specs import NAME_PATTERN, TrainingJobSpec, UploadedSpec
from store.datasets import DatasetVersion
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
    dataset = spec.dataset
    if not isinstance(dataset, UploadedSpec):
        return spec
    found = find_dataset(tx, dataset.name, dataset.version).spec
    if dataset.facts not in (None, found.facts):
        raise invalid(
            "dataset.facts", f"these are not the facts of {found.name} version {found.version}: leave them out"
        )
    document = spec.model_dump(mode="json") | {"dataset": found.model_dump(mode="json")}
    try:
        return TrainingJobSpec.model_validate(document)
    except ValidationError as error:
        errors = [dict(one) | {"loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise invalid_fields(errors, document) from error
