"""Model versions that no job makes: repairs of others, and weights that were uploaded."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from api.budget_problems import within_budget
from api.idempotent_requests import Answer, Made, answer_once
from api.identifiers import find_version
from api.problems import invalid
from api.schemas.models import ModelVersionAnswer
from api.services import Services
from api.uploaded_datasets import fill_in_dataset, require_dataset
from api.validation_messages import invalid_fields
from ode_core.specs import (
    REPAIRED_SOLVER,
    RepairSpec,
    SolverSpec,
    TrainingJobSpec,
    check_model_budget,
    check_repair,
    model_state_shape,
)
from ode_core.specs.solver import Precision
from ode_core.specs.spec import first_reason
from ode_core.specs.weights_file import (
    LENGTH_BYTES,
    MOST_HEADER_BYTES,
    WeightsHeader,
    WeightsRefused,
    read_header,
    weight_shapes,
)
from store.models import ModelVersion
from store.unit_of_work import Transaction

CREATED: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "The version is stored",
        "headers": {
            "Location": {"description": "the version", "schema": {"type": "string"}},
            "Idempotency-Replayed": {
                "description": "`true`: the answer to an earlier request with this key",
                "schema": {"type": "string"},
            },
        },
    }
}


def headers_of(answer: Answer) -> dict[str, str]:
    """Return the headers of the answer."""
    return {"Location": str(answer.body["links"]["self"])} | answer.headers


def store_repair(services: Services, name: str, repair: RepairSpec, key: str | None) -> Answer:
    """Store a version of the model ``name`` with a modified field in the place of another version's field.

    Raises:
        Problem: there is no such version, or it has no such modified field.
    """

    def make(tx: Transaction) -> Made:
        parent = find_version(tx, name, repair.from_version)
        _check_parent(parent, repair)
        field = repair.modified_field
        trained = TrainingJobSpec.model_validate(parent.training_spec)
        state_size = math.prod(model_state_shape(trained.architecture, trained.dataset.input_shape))
        version = tx.models.register_repair(
            parent,
            modified_field=field.model_dump(mode="json", exclude_none=True),
            solver=REPAIRED_SOLVER.document(),
            metadata={"modified_field": field.label, "evaluations_in_field": field.evaluations(state_size)},
        )
        return _made(version)

    return answer_once(services, ["repair", name, repair.model_dump(mode="json")], key, status=201, make=make)


def _check_parent(parent: ModelVersion, repair: RepairSpec) -> None:
    if parent.origin == "repair":
        raise invalid(
            "from_version",
            f"{parent.model} version {parent.version} is itself a repair: give the version it was made from, "
            f"{parent.parent_version}",
        )
    end_time = TrainingJobSpec.model_validate(parent.training_spec).architecture.end_time
    try:
        check_repair(repair.modified_field, SolverSpec.model_validate(parent.solver), end_time)
    except ValueError as error:
        raise invalid("modified_field.solver", str(error)) from error


def _made(version: ModelVersion) -> Made:
    return Made(ModelVersionAnswer.of(version).model_dump(mode="json"))


@dataclass(frozen=True)
class UploadDeclaration:
    """What goes with uploaded weights: the parts of a request, as JSON texts."""

    name: str
    model: str
    dataset: str
    solver: str
    precision: Precision | None


def declared_training(services: Services, declaration: UploadDeclaration) -> TrainingJobSpec:
    """Return what was declared as a training, whose other settings are defaults that a further one would begin with.

    Raises:
        Problem: the parts do not fit together, or are more than the budget allows.
    """
    document: dict[str, Any] = {"name": declaration.name}
    for part in ("model", "dataset", "solver"):
        try:
            document[part] = json.loads(getattr(declaration, part))
        except (ValueError, RecursionError):
            raise invalid(part, f"{part} must be JSON, as in a training job, for example {_EXAMPLES[part]}") from None
    if declaration.precision is not None:
        document["training"] = {"precision": declaration.precision}
    try:
        spec = TrainingJobSpec.model_validate(document)
    except ValidationError as error:
        errors = [dict(one) | {"loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise invalid_fields(errors, document) from error
    with services.store.reading() as tx:
        spec = fill_in_dataset(tx, spec)
    require_dataset(spec.dataset, services.settings)
    with within_budget():
        check_model_budget(spec, services.settings.budget)
    return spec


def store_upload(
    services: Services, source: Path, checksum: str, spec: TrainingJobSpec, precision: Precision | None, key: str | None
) -> Answer:
    """Store a file of weights as the next version of a model.

    Args:
        services: of the application.
        source: the file.
        checksum: its SHA-256.
        spec: what was declared.
        precision: what was declared of it; None: the file's.
        key: of a request that may be repeated.

    Raises:
        Problem: the file holds other weights than declared, or values that are no numbers.
    """
    size = source.stat().st_size
    shape, classes = spec.dataset.input_shape, spec.dataset.classes
    try:
        with source.open("rb") as file:
            start = file.read(LENGTH_BYTES + MOST_HEADER_BYTES)
        header = read_header(start, size, weight_shapes(spec.architecture, shape, classes))
        if precision not in (None, header.precision):
            raise WeightsRefused(f"the weights are {header.precision}, precision is {precision}: leave it out")
        _require_finite(source, header)
    except WeightsRefused as error:
        raise invalid("body", str(error), code="invalid_file") from error
    document = spec.model_dump(mode="json")
    document["training"]["precision"] = header.precision
    try:
        spec = TrainingJobSpec.model_validate(document)  # float64 does not go with everything
    except ValidationError as error:
        raise invalid("body", first_reason(error)) from error
    blob_id = services.store.save_file(source)

    def make(tx: Transaction) -> Made:
        version = tx.models.register_upload(
            spec.name,
            training_spec=spec.document(),
            solver=spec.solver.document(),
            blob_id=blob_id,
            metadata={"bytes": size, "sha256": checksum, "tensors": len(header.places)},
        )
        return _made(version)

    answer = answer_once(services, ["weights", document, checksum], key, status=201, make=make)
    if answer.replayed:
        with services.store.transaction() as tx:
            tx.blobs.remove([blob_id])
    return answer


def _require_finite(source: Path, header: WeightsHeader) -> None:
    """Raise ``WeightsRefused`` where a weight is NaN or infinite; the file is mapped, not read into memory."""
    kind = "<f4" if header.precision == "float32" else "<f8"
    for name, (begin, stop) in header.places.items():
        count = (stop - begin) // np.dtype(kind).itemsize
        values = np.memmap(source, dtype=kind, mode="r", offset=header.begin + begin, shape=(count,))
        if not np.isfinite(values).all():
            raise WeightsRefused(f"{name} has values that are not finite: a model cannot compute with them")


_EXAMPLES = {
    "model": '{"kind": "preset", "name": "sphere2"}',
    "dataset": '{"kind": "concentric_spheres"}',
    "solver": '{"method": "euler", "steps": 16}',
}
