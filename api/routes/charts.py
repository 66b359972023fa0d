"""Figures of jobs, model versions and studies, drawn from what is stored: as page, picture or data."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from api.chart_answer import CHART_RESPONSES, AskedFormat, Format, Scale, asked_format, figure_response
from api.chart_material import (
    chart_not_found,
    charts_of_job,
    charts_of_study,
    charts_of_version,
    material_of_jobs,
    material_of_study,
    material_of_version,
)
from api.charts.catalogue import StoredChart
from api.charts.material import Material, NothingToDraw, XAxis
from api.identifiers import JobId, ModelName, StudyId, Version, find_job, find_study, find_version
from api.openapi import problem_responses
from api.problems import Problem, invalid
from api.query_parameters import refuse_unknown_query
from api.schemas.charts import ChartDocument, ChartList, ChartOffer
from api.services import StoreOfApp

router = APIRouter(prefix="/v1", tags=["charts"], dependencies=[Depends(refuse_unknown_query)])

MOST_JOBS = 8

ChartName = Annotated[str, Path(description="name of a chart")]
AskedX = Annotated[
    XAxis | None,
    Query(
        description="of accuracy: the axis shows steps or evaluations (nfe); default: steps, "
        "but nfe where some of the test solvers have tolerances"
    ),
]


@router.get("/jobs/{job_id}/charts", responses=problem_responses(404), summary="Which charts a job offers")
def list_job_charts(store: StoreOfApp, job_id: JobId) -> ChartList:
    """List the charts of a job; those of its result can be had when it has succeeded."""
    with store.reading() as tx:
        charts = charts_of_job(tx, find_job(tx, job_id))
    return _offers(charts, f"/v1/jobs/{job_id}/charts", beside=True)


@router.get(
    "/jobs/{job_id}/charts/{chart}",
    response_class=Response,
    response_model=ChartDocument,
    responses=CHART_RESPONSES | problem_responses(404, 406, 409),
    summary="A chart of a job, as page, picture or data",
)
def get_job_chart(
    request: Request,
    store: StoreOfApp,
    job_id: JobId,
    chart: ChartName,
    asked: AskedFormat = None,
    x: AskedX = None,
    beside: Annotated[
        list[str] | None,
        Query(alias="with", max_length=MOST_JOBS - 1, description="ids of other jobs to show beside it; may repeat"),
    ] = None,
    scale: Scale = 2.0,
) -> Response:
    """Draw a chart of a job, and of others beside it."""
    kind = asked_format(asked, request)
    with store.reading() as tx:
        job = find_job(tx, job_id)
        offered = charts_of_job(tx, job)
        found = _find(offered, chart, f"this {job.kind} job", "it offers none")
        _check_options(found, x, beside)
        material = material_of_jobs(tx, found, job, beside or [], x)
    return _drawn(found, material, kind, scale, request)


@router.get(
    "/models/{name}/versions/{version}/charts",
    responses=problem_responses(404),
    summary="Which charts a version offers",
)
def list_version_charts(store: StoreOfApp, name: ModelName, version: Version) -> ChartList:
    """List the charts of a model version: of its training, its test results and its latest portrait."""
    with store.reading() as tx:
        found = find_version(tx, name, version)
        charts = charts_of_version(tx, found)
    return _offers(charts, f"/v1/models/{name}/versions/{found.version}/charts", beside=False)


@router.get(
    "/models/{name}/versions/{version}/charts/{chart}",
    response_class=Response,
    response_model=ChartDocument,
    responses=CHART_RESPONSES | problem_responses(404, 406, 409),
    summary="A chart of a version, as page, picture or data",
)
def get_version_chart(
    request: Request,
    store: StoreOfApp,
    name: ModelName,
    version: Version,
    chart: ChartName,
    asked: AskedFormat = None,
    x: AskedX = None,
    scale: Scale = 2.0,
) -> Response:
    """Draw a chart of a model version."""
    kind = asked_format(asked, request)
    with store.reading() as tx:
        found_version = find_version(tx, name, version)
        offered = charts_of_version(tx, found_version)
        remedy = "submit a sweep, an audit or a portrait of it"
        found = _find(offered, chart, f"version {found_version.version} of {name}", remedy)
        _check_options(found, x, None)
        material = material_of_version(tx, found, found_version, x)
    return _drawn(found, material, kind, scale, request)


@router.get("/studies/{study_id}/charts", responses=problem_responses(404), summary="Which charts a study offers")
def list_study_charts(store: StoreOfApp, study_id: StudyId) -> ChartList:
    """List the charts of a study; those of its single trainings are at its jobs and model versions."""
    with store.reading() as tx:
        find_study(tx, study_id)
    return _offers(charts_of_study(), f"/v1/studies/{study_id}/charts", beside=False)


@router.get(
    "/studies/{study_id}/charts/{chart}",
    response_class=Response,
    response_model=ChartDocument,
    responses=CHART_RESPONSES | problem_responses(404, 406),
    summary="A chart of a study, as page, picture or data",
)
def get_study_chart(
    request: Request,
    store: StoreOfApp,
    study_id: StudyId,
    chart: ChartName,
    asked: AskedFormat = None,
    x: AskedX = None,
    scale: Scale = 2.0,
) -> Response:
    """Draw a chart of a study from the results that are there."""
    kind = asked_format(asked, request)
    with store.reading() as tx:
        study = find_study(tx, study_id)
        found = _find(charts_of_study(), chart, f"the study {study.name}", "it offers none")
        _check_options(found, x, None)
        material = material_of_study(tx, study, x)
    return _drawn(found, material, kind, scale, request)


def _offers(charts: Sequence[StoredChart], place: str, *, beside: bool) -> ChartList:
    return ChartList(
        data=[
            ChartOffer(
                name=chart.name,
                summary=chart.summary,
                href=f"{place}/{chart.name}",
                several=chart.several and beside,
            )
            for chart in charts
        ]
    )


def _find(offered: Sequence[StoredChart], name: str, what: str, remedy: str) -> StoredChart:
    for chart in offered:
        if chart.name == name:
            return chart
    raise chart_not_found(name, offered, what, remedy)


def _check_options(chart: StoredChart, x: XAxis | None, beside: Sequence[str] | None) -> None:
    if x is not None and not chart.has_x:
        raise invalid("x", f"the axis of {chart.name} cannot be chosen: leave x out")
    if beside and not chart.several:
        raise invalid("with", f"{chart.name} shows one job: leave with out")


def _drawn(chart: StoredChart, material: Material, kind: Format, scale: float, request: Request) -> Response:
    """Return the response with the figure, for a ``def`` route: drawing takes up to seconds."""
    try:
        figure = chart.draw(material)
    except NothingToDraw as error:
        raise Problem(422, "nothing_to_draw", str(error)) from error
    return figure_response(chart.name, figure, kind, scale, known_tag=request.headers.get("if-none-match"))
