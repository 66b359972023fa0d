"""Test results: every (model version, train solver, test solver) that was measured."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from api.openapi import problem_responses
from api.query_parameters import After, Limit, NameFilter, StudyFilter, refuse_unknown_query
from api.schemas.answer import ListOf
from api.schemas.results import ResultRow
from api.services import StoreOfApp
from ode_core.specs import MethodName
from store.ids import is_id
from store.results import SORTABLE

router = APIRouter(prefix="/v1", tags=["results"], dependencies=[Depends(refuse_unknown_query)])

DatasetName = Literal["digits", "concentric_spheres", "three_minima", "xor", "mnist", "cifar10", "uploaded"]
Share = Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False)]


@router.get("/results", responses=problem_responses(), summary="List test results")
def list_results(
    store: StoreOfApp,
    model: NameFilter = None,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    dataset: Annotated[DatasetName | None, Query(description="kind of the data set")] = None,
    train_method: Annotated[MethodName | None, Query()] = None,
    test_method: Annotated[MethodName | None, Query()] = None,
    job: Annotated[str | None, Query(max_length=36, description="id of the job that measured them")] = None,
    study: StudyFilter = None,
    min_accuracy: Share = None,
    max_flip_rate: Share = None,
    max_nfe: Annotated[float | None, Query(ge=0, allow_inf_nan=False)] = None,
    sort: Annotated[
        str,
        Query(
            pattern=rf"^-?({'|'.join(SORTABLE)})$",
            description=f"{', '.join(SORTABLE)}; with `-` in front from the greatest down; null comes last",
        ),
    ] = "-created_at",
    limit: Limit = 50,
    after: After = None,
) -> ListOf[ResultRow]:
    """List test results, filtered and sorted."""
    minimum = {"accuracy": min_accuracy} if min_accuracy is not None else {}
    maximum = {column: bound for column, bound in (("flip_rate", max_flip_rate), ("nfe", max_nfe)) if bound is not None}
    if not all(is_id(one) for one in (job, study) if one is not None):
        return ListOf[ResultRow](data=[], has_more=False, next_cursor=None)
    with store.reading() as tx:
        page = tx.results.list(
            model=model,
            version=version,
            dataset=dataset,
            train_method=train_method,
            test_method=test_method,
            job=job,
            study=study,
            minimum=minimum,
            maximum=maximum,
            sort=sort,
            limit=limit,
            after=after,
        )
    return ListOf[ResultRow](
        data=[ResultRow.of(row) for row in page.items], has_more=page.has_more, next_cursor=page.next_cursor
    )
