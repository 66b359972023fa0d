"""The predictions of a whole data set, sample by sample."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response, StreamingResponse

from api.finished_jobs import not_finished
from api.identifiers import JobId, find_job
from api.openapi import described, problem_responses
from api.problems import Problem, invalid
from api.query_parameters import refuse_unknown_query
from api.schemas.answer import ListOf
from api.schemas.stored_predictions import SamplePrediction
from api.services import StoreOfApp
from api.stored_predictions import FORMATS, StoredPredictions, page, page_content
from store.jobs import Job

router = APIRouter(prefix="/v1", tags=["jobs"], dependencies=[Depends(refuse_unknown_query)])

_ROWS = 100


@router.get(
    "/jobs/{job_id}/predictions",
    response_model=ListOf[SamplePrediction],
    responses=described(200, "A page, or all predictions as a file", "text/csv", "application/zip")
    | problem_responses(404, 409),
    summary="Every sample's prediction, of a job that predicts a data set",
)
def get_job_predictions(
    store: StoreOfApp,
    job_id: JobId,
    format: Annotated[Literal["json", "csv", "npz"], Query(description="`csv` and `npz`: a file with all")] = "json",
    after: Annotated[int | None, Query(ge=0, le=2**53, description="only samples numbered above")] = None,
    limit: Annotated[
        int | None, Query(ge=1, le=1000, description=f"most samples to return; {_ROWS} if left out")
    ] = None,
) -> Response:
    """Return the predictions that are stored, in the order of the data set.

    A page holds what there is so far, also while the job runs. A file is had when the job has ended; of a cancelled or
    failed one it holds what was predicted until then, and its name says `partial`.
    """
    with store.reading() as tx:
        job = find_job(tx, job_id)
        if job.kind != "predict":
            raise Problem(
                404,
                "predictions_not_found",
                f"a {job.kind} job has no predictions: submit an evaluation job of the kind predict",
            )
        if format == "json":
            rows = page(tx, job.id, -1 if after is None else after, limit or _ROWS)
            return Response(page_content(rows, tx.predictions.stored_samples(job.id)), media_type="application/json")
        if not job.finished:
            raise not_finished(job)
        predictions = StoredPredictions.of(store, tx, job)
    for name, given in (("after", after), ("limit", limit)):
        if given is not None:
            raise invalid(name, f"a {format} file has all predictions: leave {name} out")
    media_type, pieces = FORMATS[format]
    headers = {
        "Content-Disposition": f'attachment; filename="{_file_name(job)}.{format}"',
        "Cache-Control": "private, no-cache",
    }
    return StreamingResponse(pieces(predictions), 200, headers, media_type=media_type)


def _file_name(job: Job) -> str:
    partial = "" if job.status == "succeeded" else "-partial"
    return f"{job.model}-v{job.model_version}-{job.spec['split']}-predictions{partial}"
