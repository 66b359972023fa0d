"""Model versions that no job makes: repairs of others, and weights that were uploaded."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from api.idempotency_problems import conflicting_key
from api.identifiers import find_version
from api.problems import invalid
from api.schemas.models import ModelVersionAnswer
from api.services import Services
from ode_core.specs import REPAIRED_SOLVER, RepairSpec, SolverSpec, TrainingJobSpec, check_repair
from store.errors import IdempotencyConflict
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


@dataclass(frozen=True)
class MadeVersion:
    """The body of the answer, and whether it is an earlier request's."""

    body: dict[str, Any]
    replayed: bool


def headers_of(made: MadeVersion) -> dict[str, str]:
    """Return the headers of the answer."""
    headers = {"Location": str(made.body["links"]["self"])}
    return headers | {"Idempotency-Replayed": "true"} if made.replayed else headers


def store_repair(services: Services, name: str, repair: RepairSpec, key: str | None) -> MadeVersion:
    """Store a version of the model ``name`` with a modified field in the place of another version's field.

    Raises:
        Problem: there is no such version, or it has no such modified field.
    """

    def store(tx: Transaction) -> ModelVersion:
        parent = find_version(tx, name, repair.from_version)
        _check_parent(parent, repair)
        field = repair.modified_field
        return tx.models.register_repair(
            parent,
            modified_field=field.model_dump(mode="json", exclude_none=True),
            solver=REPAIRED_SOLVER.document(),
            metadata={"modified_field": field.label, "evaluations_in_field": field.evaluations},
        )

    return store_version(services, ["repair", name, repair.model_dump(mode="json")], key, store)


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


def store_version(
    services: Services, request: Any, key: str | None, store: Callable[[Transaction], ModelVersion]
) -> MadeVersion:
    """Store a version in one transaction; with an idempotency key, once for the same ``request``.

    Raises:
        Problem: ``store`` refused, or the key belongs to another request.
    """
    fingerprint = hashlib.sha256(orjson.dumps(request, option=orjson.OPT_SORT_KEYS)).hexdigest()
    try:
        with services.store.transaction() as tx:
            if key is not None:
                earlier = tx.idempotency.begin(key, fingerprint)
                if earlier is not None:
                    return MadeVersion(earlier.body, replayed=True)
            body = ModelVersionAnswer.of(store(tx)).model_dump(mode="json")
            if key is not None:
                tx.idempotency.finish(key, fingerprint, status=201, body=body)
    except IdempotencyConflict as conflict:
        raise conflicting_key(conflict) from conflict
    return MadeVersion(body, replayed=False)
