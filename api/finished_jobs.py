"""The result of a job that has one, and a problem that says why another has none."""

from typing import Any

from api.problems import Problem
from store.jobs import Job

RETRY_AFTER_SECONDS = 1


def result_of(job: Job) -> dict[str, Any]:
    """Return what a job found; a 409 problem until it has succeeded, with the reason if it never will."""
    if job.status == "succeeded":
        return job.result or {}
    if job.status == "failed":
        error = job.error or {}
        raise Problem(
            409,
            "job_failed",
            f"the job failed ({error.get('code')}): {error.get('message')}",
            errors=[{"path": "job.error", "message": f"{error.get('code')}: {error.get('message')}"}],
        )
    if job.status == "cancelled":
        raise Problem(409, "job_cancelled", "the job was cancelled and has no result: submit it again")
    raise not_finished(job)


def not_finished(job: Job) -> Problem:
    """Return the problem of a job that still goes on."""
    return Problem(
        409,
        "job_not_finished",
        f"the job is {job.status}, at step {job.progress_step} of {job.progress_total}: ask again later, "
        f"or follow /v1/jobs/{job.id}/events",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )
