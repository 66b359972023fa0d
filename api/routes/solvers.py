"""The solver methods that can be named in a spec."""

from typing import Any

from fastapi import APIRouter, Depends

from api.openapi import problem_responses
from api.query_parameters import refuse_unknown_query
from api.schemas.catalogue import SolverMethod, SolverMethods
from ode_core.specs import METHODS, MethodFacts

router = APIRouter(prefix="/v1", tags=["catalogue"], dependencies=[Depends(refuse_unknown_query)])


@router.get("/solvers", responses=problem_responses(), summary="List the solver methods")
async def list_solvers() -> SolverMethods:
    """List the solver methods, with an example of each."""
    return SolverMethods(
        data=[
            SolverMethod(
                method=method,
                family=facts.family,
                order=facts.order,
                stages=facts.stages,
                embedded_order=facts.embedded_order,
                adaptive=facts.adaptive,
                fixed_grid=facts.fixed_grid,
                first_same_as_last=facts.first_same_as_last,
                stability_limit=facts.stability_limit,
                dense_output_order=facts.dense_output_order,
                backends=list(facts.backends),
                description=facts.description,
                example=_example(method, facts),
            )
            for method, facts in METHODS.items()
        ]
    )


def _example(method: str, facts: MethodFacts) -> dict[str, Any]:
    if facts.adaptive:
        return {"method": method, "rtol": 1e-5, "atol": 1e-5}
    return {"method": method, "steps": 16}
