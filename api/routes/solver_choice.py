"""Which solver to serve a model version with."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api.identifiers import ModelName, Version, find_version
from api.openapi import problem_responses
from api.query_parameters import refuse_unknown_query
from api.schemas.solver_choice import SolverChoiceAnswer
from api.services import StoreOfApp
from api.solver_choice_problems import not_audited
from ode_core.audit.solver_choice import DEFAULT_AGREEMENT, DEFAULT_EVIDENCE, Evidence

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
