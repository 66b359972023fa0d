"""Names and ids in paths: what cannot exist is not looked up."""

import re
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, WithJsonSchema

from api.problems import Problem
from ode_core.specs import ALIAS_PATTERN, LATEST, NAME_PATTERN
from store.aliases import Alias
from store.ids import is_id
from store.jobs import Job
from store.models import ModelVersion
from store.studies import Study
from store.unit_of_work import Transaction

JobId = Annotated[str, Path(description="id of a job")]
StudyId = Annotated[str, Path(description="id of a study")]
ModelName = Annotated[str, Path(description="name of a model")]
VersionReference = int | str | None
"""A version's number, an alias, or None for the latest."""


def _reference(given: str) -> str:
    if re.fullmatch(ALIAS_PATTERN, given) or (re.fullmatch("[1-9][0-9]{0,9}", given) and int(given) <= _LAST_VERSION):
        return given
    shown = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}…"
    raise ValueError(f'"{shown}" is no version: give its number, from 1 on, an alias, or {LATEST}')


_LAST_VERSION, _SHOWN = 2**31 - 1, 40
_REFERENCE_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": _LAST_VERSION},
        {"type": "string", "pattern": ALIAS_PATTERN},
    ]
}
Version = Annotated[
    str,
    AfterValidator(_reference),
    WithJsonSchema(_REFERENCE_SCHEMA),
    Path(description="version of a model: its number, an alias, or latest"),
]
AliasName = Annotated[str, Path(description="name for a version of a model")]


def find_job(tx: Transaction, job_id: str) -> Job:
    """Return the job; a 404 problem if there is none."""
    job = tx.jobs.get(job_id) if is_id(job_id) else None
    if job is None:
        raise Problem(404, "job_not_found", f"there is no job {job_id[:100]}: GET /v1/jobs lists them")
    return job


def find_study(tx: Transaction, study_id: str) -> Study:
    """Return the study; a 404 problem if there is none."""
    study = tx.studies.get(study_id) if is_id(study_id) else None
    if study is None:
        raise Problem(404, "study_not_found", f"there is no study {study_id[:100]}: GET /v1/studies lists them")
    return study


def find_version(tx: Transaction, model: str, reference: VersionReference) -> ModelVersion:
    """Return the version that a number or an alias means, the latest for None; a 404 problem if there is none."""
    known = re.fullmatch(NAME_PATTERN, model) is not None
    found = tx.models.resolve(model, reference) if known else None
    if found is not None:
        return found
    if reference is None or not known or tx.models.get(model) is None:
        raise model_not_found(model)
    if isinstance(reference, int) or reference.isdecimal():
        raise Problem(
            404,
            "model_version_not_found",
            f"model {model} has no version {str(reference)[:20]}: GET /v1/models/{model} lists its versions",
        )
    raise _alias_not_found(model, reference)


def find_alias(tx: Transaction, model: str, alias: str) -> Alias:
    """Return the model's alias; a 404 problem if there is none."""
    require_model(tx, model)
    found = tx.aliases.get(model, alias) if re.fullmatch(ALIAS_PATTERN, alias) else None
    if found is None:
        raise _alias_not_found(model, alias)
    return found


def require_model(tx: Transaction, model: str) -> None:
    """Raise a 404 problem if there is no such model."""
    if not re.fullmatch(NAME_PATTERN, model) or tx.models.get(model) is None:
        raise model_not_found(model)


def _alias_not_found(model: str, alias: str) -> Problem:
    detail = f"model {model} has no alias {alias[:100]}: GET /v1/models/{model}/aliases lists them"
    if alias == LATEST:
        detail = f"{LATEST} is always the newest version and no alias: GET /v1/models/{model} tells which that is"
    return Problem(404, "alias_not_found", detail)


def model_not_found(model: str) -> Problem:
    """Return the problem of a model that does not exist."""
    return Problem(
        404,
        "model_not_found",
        f"there is no model {model[:100]}: GET /v1/models lists them; a finished training job makes one",
    )
