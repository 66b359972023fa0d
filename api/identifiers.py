"""Names and ids in paths: what cannot exist is not looked up."""

import re
from typing import Annotated

from fastapi import Path

from api.problems import Problem
from ode_core.specs import NAME_PATTERN
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
Version = Annotated[int, Path(ge=1, le=2**31 - 1, description="version of a model")]


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
    raise Problem(
        404,
        "alias_not_found",
        f"model {model} has no alias {reference[:100]}: GET /v1/models/{model}/aliases lists them",
    )


def model_not_found(model: str) -> Problem:
    """Return the problem of a model that does not exist."""
    return Problem(
        404,
        "model_not_found",
        f"there is no model {model[:100]}: GET /v1/models lists them; a finished training job makes one",
    )
