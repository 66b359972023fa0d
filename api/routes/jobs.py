"""Jobs: accept them, read them, cancel them."""

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from api.event_stream import event_stream
from api.finished_jobs import RETRY_AFTER_SECONDS, result_of
from api.idempotency_key import IdempotencyKey
from api.identifiers import JobId, find_job
from api.job_acceptance import JobSpec, accept_job
from api.json_answers import json_response
from api.openapi import POSTED, accepted_response, described, problem_responses
from api.problems import invalid
from api.query_parameters import After, Limit, NameFilter, StudyFilter, refuse_unknown_query
from api.schemas.answer import ListOf
from api.schemas.audit import AuditResult
from api.schemas.jobs import EventAnswer, JobAnswer, JobResult, MetricSeriesList
from api.services import Services, ServicesOfApp, StoreOfApp
from api.waiting import preferred_wait, wait_for_job
from ode_core.specs import EvaluationJobSpec, TrainingJobSpec
from store.ids import is_id
from store.jobs import JobKind, JobStatus

router = APIRouter(prefix="/v1", tags=["jobs"], dependencies=[Depends(refuse_unknown_query)])

_METRIC_NAME = r"^[A-Za-z0-9_.:-]{1,100}$"

Prefer = Annotated[
    str | None, Header(description="`wait=N`: wait up to N seconds, at most 60, for the job to end", max_length=1000)
]

_ACCEPTED = accepted_response("job")


@router.post(
    "/training-jobs",
    status_code=202,
    response_model=JobAnswer,
    responses=_ACCEPTED | problem_responses(404, 409, *POSTED),
    summary="Train a model",
)
async def create_training_job(
    request: Request,
    spec: TrainingJobSpec,
    services: ServicesOfApp,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    """Train a model, from the beginning or from a stored version's weights.

    When the job has succeeded, the model named has one version more.
    """
    return await _accept(request, services, spec, idempotency_key, prefer)


@router.post(
    "/evaluation-jobs",
    status_code=202,
    response_model=JobAnswer,
    responses=_ACCEPTED | problem_responses(404, 409, *POSTED),
    summary="Sweep a model over test solvers, audit it, or make its portrait",
)
async def create_evaluation_job(
    request: Request,
    spec: EvaluationJobSpec,
    services: ServicesOfApp,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    """Test a stored model version; without a version, the latest at this moment."""
    return await _accept(request, services, spec, idempotency_key, prefer)


async def _accept(
    request: Request, services: Services, spec: JobSpec, idempotency_key: str | None, prefer: str | None
) -> Response:
    accepted = await run_in_threadpool(accept_job, services, spec, idempotency_key)
    body, job_id = accepted.body, str(accepted.body["id"])
    headers = {"Location": f"/v1/jobs/{job_id}"} | accepted.headers
    seconds = preferred_wait(prefer)
    finished = False
    if seconds:
        job = await wait_for_job(request, services, job_id, seconds)
        headers["Preference-Applied"] = f"wait={seconds}"
        body, finished = JobAnswer.of(job).model_dump(mode="json"), job.finished
    if not finished:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return json_response(body, 202, headers)


@router.get("/jobs", responses=problem_responses(), summary="List jobs, newest first")
def list_jobs(
    store: StoreOfApp,
    kind: Annotated[JobKind | None, Query()] = None,
    status: Annotated[list[JobStatus] | None, Query(max_length=10, description="may be repeated")] = None,
    model: NameFilter = None,
    name: NameFilter = None,
    study: StudyFilter = None,
    limit: Limit = 50,
    after: After = None,
) -> ListOf[JobAnswer]:
    """List jobs, newest first."""
    if study is not None and not is_id(study):
        return ListOf[JobAnswer](data=[], has_more=False, next_cursor=None)
    with store.reading() as tx:
        page = tx.jobs.list(kind=kind, status=status, model=model, name=name, study=study, limit=limit, after=after)
    return ListOf[JobAnswer](
        data=[JobAnswer.of(job) for job in page.items], has_more=page.has_more, next_cursor=page.next_cursor
    )


@router.get("/jobs/{job_id}", responses=problem_responses(404), summary="Read a job")
def get_job(store: StoreOfApp, job_id: JobId, response: Response) -> JobAnswer:
    """Read a job."""
    with store.reading() as tx:
        job = find_job(tx, job_id)
    if not job.finished:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return JobAnswer.of(job)


@router.get(
    "/jobs/{job_id}/result",
    response_model=AuditResult | JobResult,
    responses=problem_responses(404, 409),
    summary="What a finished job found",
)
def get_job_result(store: StoreOfApp, job_id: JobId) -> Response:
    """Return what a job found; 409 until it has succeeded, with the reason if it never will."""
    with store.reading() as tx:
        job = find_job(tx, job_id)
    return json_response(result_of(job))


@router.get(
    "/jobs/{job_id}/metrics",
    response_model=MetricSeriesList,
    responses=problem_responses(404),
    summary="A job's metrics, one point an iteration",
)
def get_job_metrics(
    store: StoreOfApp,
    job_id: JobId,
    name: Annotated[list[str] | None, Query(max_length=100, description="may be repeated; all if left out")] = None,
    after_step: Annotated[int, Query(ge=0, le=2**53, description="only points of later steps")] = 0,
    max_points: Annotated[
        int, Query(ge=4, le=100_000, description="a longer series is thinned; extremes and ends stay")
    ] = 10_000,
) -> Response:
    """Return the metrics of a job; steps count from 1, so that `after_step=0` gives all."""
    for position, given in enumerate(name or []):
        if not re.fullmatch(_METRIC_NAME, given):
            raise invalid(f"name.{position}", f"metric names match {_METRIC_NAME}")
    with store.reading() as tx:
        find_job(tx, job_id)
        known = tx.metrics.latest(job_id)
        wanted = sorted(known) if name is None else [one for one in dict.fromkeys(name) if one in known]
        series = [
            {
                "name": one,
                "points": tx.metrics.read(job_id, name=one, after_step=after_step, max_points=max_points).get(one, []),
                "non_finite": known[one].non_finite,
            }
            for one in wanted
        ]
    return json_response({"data": series})


@router.get(
    "/jobs/{job_id}/events",
    response_model=ListOf[EventAnswer],
    responses=described(200, "A list, or an event stream: one event each, `id` is its sequence", "text/event-stream")
    | described(204, "To an event stream that comes back: the job has ended and all was sent")
    | problem_responses(404),
    summary="What happened to a job, as a list or an event stream",
)
def get_job_events(
    request: Request,
    services: ServicesOfApp,
    job_id: JobId,
    after: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="only events numbered above")] = None,
    limit: Limit = 1000,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", max_length=20, description="only later events, like `after`")
    ] = None,
) -> Response:
    """List a job's events; with `Accept: text/event-stream`, send them as they happen until the job has ended."""
    start = after if after is not None else _sequence(last_event_id)
    streaming = "text/event-stream" in request.headers.get("accept", "")
    with services.store.reading() as tx:
        job = find_job(tx, job_id)
        events = tx.events.list(job_id, after=start, limit=limit)
    if streaming:
        # 204 is how an EventSource learns that it need not come back.
        if job.finished and not events and last_event_id is not None:
            return Response(status_code=204)
        return event_stream(services, job_id, start)
    more = bool(events) and events[-1].sequence < job.event_count
    return json_response(
        {
            "data": [EventAnswer.of(event).model_dump(mode="json") for event in events],
            "has_more": more,
            "next_cursor": str(events[-1].sequence) if more else None,
        }
    )


def _sequence(last_event_id: str | None) -> int:
    if last_event_id is None or last_event_id == "":
        return 0
    if not re.fullmatch(r"\d{1,9}", last_event_id):
        raise invalid("Last-Event-ID", "must be the id of an event of this job")
    return int(last_event_id)


@router.post("/jobs/{job_id}/cancel", responses=problem_responses(404), summary="Cancel a job")
def cancel_job(store: StoreOfApp, job_id: JobId) -> JobAnswer:
    """Ask a job to stop: a queued one does at once, a running one within seconds; an ended one stays as it is.

    Its metrics, its last checkpoint and the results so far stay.
    """
    with store.transaction() as tx:
        find_job(tx, job_id)
        job = tx.jobs.request_cancel(job_id)
    return JobAnswer.of(job)
