"""Which solver to serve a model version with."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api.identifiers import ModelName, Version, find_version
from api.openapi import problem_responses
from api.problems import Problem
from api.query_parameters import refuse_unknown_query
from api.schemas.solver_choice import SolverChoiceAnswer
from api.services import StoreOfApp
from ode_core.audit.solver_choice import DEFAULT_AGREEMENT, DEFAULT_EVIDENCE, Evidence
from store.models import ModelVersion

router = APIRouter(prefix="/v1", tags=["models"], dependencies=[Depends(refuse_unknown_query)])


@router.get(
    "/models/{name}/versions/{version}/solver-choice",
    responses=problem_responses(404, 409),
    summary="The cheapest solver that agrees well enough",
)
def choose_solver(
    store: StoreOfApp,
    name: ModelName,
    version: Version,
    agreement: Annotated[
        float, Query(gt=0, le=1, allow_inf_nan=False, description="on which share of the samples it has to agree")
    ] = DEFAULT_AGREEMENT,
    evidence: Annotated[
        Evidence, Query(description="what has to reach it: the estimate, or the lower end of its 95 % interval")
    ] = DEFAULT_EVIDENCE,
) -> SolverChoiceAnswer:
    """Choose among the solvers that the version's latest finished audit tried: by evaluations, then by time."""
    with store.reading() as tx:
        found = find_version(tx, name, version)
        stored = tx.solver_choices.of_version(found.id)
    if stored is None:
        raise not_audited(found)
    return SolverChoiceAnswer.of(found, stored, agreement, evidence)


def not_audited(version: ModelVersion) -> Problem:
    """Return the problem of a version whose solvers no audit has compared."""
    model, number = version.model, version.version
    return Problem(
        409,
        "not_audited",
        f"no audit of version {number} of {model} has compared solvers yet: POST "
        f'{{"kind": "audit", "model": "{model}", "version": {number}}} to /v1/evaluation-jobs, and ask again when that '
        "job has succeeded",
    )
