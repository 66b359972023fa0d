"""Studies: grids of trainings, and searches for the critical step, accepted and steered as a whole."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from api.idempotency_key import IdempotencyKey
from api.identifiers import StudyId, find_study
from api.job_acceptance import accept_study
from api.json_answers import json_response
from api.openapi import POSTED, accepted_response, problem_responses
from api.problems import Problem
from api.query_parameters import After, Limit, NameFilter, refuse_unknown_query
from api.schemas.answer import ListOf
from api.schemas.studies import StudyAnswer, StudyResultRow, StudyResults, StudySummary
from api.services import ServicesOfApp, StoreOfApp
from ode_core.specs import StudySpec
from store.errors import IllegalTransition
from store.study_progress import StudyStatus

router = APIRouter(prefix="/v1", tags=["studies"], dependencies=[Depends(refuse_unknown_query)])

RETRY_AFTER_SECONDS = 2


@router.post(
    "/studies",
    status_code=202,
    response_model=StudyAnswer,
    responses=accepted_response("study") | problem_responses(409, *POSTED),
    summary="Train and test a grid of models, or search for the critical step",
)
def create_study(spec: StudySpec, services: ServicesOfApp, idempotency_key: IdempotencyKey = None) -> Response:
    """Train every configuration with every seed and test each model under the sweep's solvers.

    The trainings are jobs of their own, shared by all workers; seeds of one configuration are trained as one where
    they can be. With `search` in place of `train`, step counts are tried one after another by bisection.
    """
    accepted = accept_study(services, spec, idempotency_key)
    headers = {"Location": f"/v1/studies/{accepted.body['id']}", "Retry-After": str(RETRY_AFTER_SECONDS)}
    return json_response(accepted.body, 202, headers | accepted.headers)


@router.get("/studies", responses=problem_responses(), summary="List studies, newest first")
def list_studies(
    store: StoreOfApp,
    status: Annotated[list[StudyStatus] | None, Query(max_length=10, description="may be repeated")] = None,
    name: NameFilter = None,
    limit: Limit = 50,
    after: After = None,
) -> ListOf[StudySummary]:
    """List studies, newest first."""
    with store.reading() as tx:
        page = tx.studies.list(status=status, name=name, limit=limit, after=after)
        progress = tx.studies.progress([study.id for study in page.items])
    return ListOf[StudySummary](
        data=[StudySummary.of_study(study, progress[study.id]) for study in page.items],
        has_more=page.has_more,
        next_cursor=page.next_cursor,
    )


@router.get("/studies/{study_id}", responses=problem_responses(404), summary="Read a study")
def get_study(store: StoreOfApp, study_id: StudyId, response: Response) -> StudyAnswer:
    """Read a study with its jobs and, of a search, the bracket so far."""
    with store.reading() as tx:
        study = find_study(tx, study_id)
        jobs = tx.studies.jobs(study_id)
    if not study.finished:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return StudyAnswer.of(study, jobs)


@router.get(
    "/studies/{study_id}/results", responses=problem_responses(404), summary="A study's test results over its seeds"
)
def get_study_results(store: StoreOfApp, study_id: StudyId) -> StudyResults:
    """Return a row for each configuration and test solver: mean, standard deviation and every seed.

    Seeds that are still to come are missing; those whose training failed are named. The single results are at
    `/v1/results?study=...`.
    """
    with store.reading() as tx:
        find_study(tx, study_id)
        rows = tx.studies.results(study_id)
    return StudyResults(data=[StudyResultRow.of(row) for row in rows])


@router.post("/studies/{study_id}/cancel", responses=problem_responses(404), summary="Cancel a study")
def cancel_study(store: StoreOfApp, study_id: StudyId) -> StudyAnswer:
    """Ask every job of a study to stop: waiting ones do at once, running ones within seconds; what is done stays."""
    with store.transaction() as tx:
        find_study(tx, study_id)
        study = tx.studies.request_cancel(study_id)
        jobs = tx.studies.jobs(study_id)
    return StudyAnswer.of(study, jobs)


@router.post("/studies/{study_id}/resume", responses=problem_responses(404, 409), summary="Resume a study")
def resume_study(services: ServicesOfApp, study_id: StudyId) -> StudyAnswer:
    """Submit the failed and cancelled jobs of an ended study again.

    They go on from their last checkpoints. Jobs that have succeeded stay, and so do trainings that diverged: they
    would again.
    """
    try:
        with services.store.transaction() as tx:
            find_study(tx, study_id)
            study, waiting = tx.studies.resume(study_id)
            jobs = tx.studies.jobs(study_id)
    except IllegalTransition as refused:
        raise Problem(409, "study_not_resumable", str(refused)) from refused
    for job in waiting:
        services.doorbell.ring(job.id)
    return StudyAnswer.of(study, jobs)
