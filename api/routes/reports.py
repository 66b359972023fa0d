"""An audit for people, and its description for programs."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse
from starlette.responses import Response

from api.audit_report import CONTENT_SECURITY_POLICY, report_name, report_page
from api.charts.drawing import DrawingFailed
from api.finished_jobs import result_of
from api.identifiers import JobId, find_job
from api.json_answers import json_response
from api.openapi import described, problem_responses
from api.problems import Problem
from api.query_parameters import refuse_unknown_query
from api.schemas.answer import JsonObject
from api.schemas.audit import audit_result_schema
from api.services import ServicesOfApp

router = APIRouter(prefix="/v1", tags=["reports"], dependencies=[Depends(refuse_unknown_query)])


@router.get(
    "/jobs/{job_id}/report",
    response_class=HTMLResponse,
    responses=described(200, "The page; it needs nothing else", "text/html") | problem_responses(404, 409),
    summary="An audit's result as a page for people",
)
def get_job_report(
    request: Request,
    services: ServicesOfApp,
    job_id: JobId,
    download: Annotated[bool, Query(description="as a file to save")] = False,
) -> Response:
    """Return one self-contained page: verdict, ladder, where and when, samples that change, repairs."""
    with services.store.reading() as tx:
        job = find_job(tx, job_id)
    if job.kind != "audit":
        raise Problem(
            404, "report_not_found", f"a {job.kind} job has no report: audits have; submit an audit of the model"
        )
    audit = result_of(job)
    if "measured" not in audit:
        raise Problem(409, "report_impossible", "this audit was made before there were reports: submit it again")
    try:
        page = report_page(
            job,
            audit,
            server=str(request.base_url).rstrip("/"),
            protected=services.settings.api_key is not None,
        )
    except DrawingFailed as error:
        raise Problem(503, "drawing_failed", str(error), headers={"Retry-After": "5"}) from error
    headers = {
        "Content-Security-Policy": f"{CONTENT_SECURITY_POLICY}; frame-ancestors 'none'",
        "Cache-Control": "private, no-cache",
    }
    if download:
        headers["Content-Disposition"] = f'attachment; filename="{report_name(audit)}"'
    return HTMLResponse(page, headers=headers)


@router.get(
    "/schemas/audit-result",
    responses=problem_responses(),
    summary="The JSON schema of an audit's result",
    response_model=JsonObject,
)
def get_audit_result_schema() -> Response:
    """Describe every field of an audit's result; complete in itself."""
    return json_response(audit_result_schema())
