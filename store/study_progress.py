"""How a study goes on when one of its jobs has ended: nothing yet, the next step of its search, or its end."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from sqlalchemy import exists, select, update

from ode_core.specs import StudyRunSpec, StudySpec, next_steps
from store.jobs import PUBLIC_COLUMNS, TERMINAL, Job, JobKind, job_from_row
from store.scope import Scope
from store.study_jobs import is_done
from store.study_search import outcomes
from store.tables import job, study

StudyStatus = Literal["running", "cancelling", "succeeded", "failed", "cancelled"]


class Submit(Protocol):
    """``Jobs.submit``, as far as studies use it."""

    def __call__(
        self,
        kind: JobKind,
        spec: dict[str, Any],
        *,
        name: str | None = ...,
        model: str | None = ...,
        total: int = ...,
        study_id: str | None = ...,
        study_cell: int | None = ...,
    ) -> Job:
        """Add a queued job."""


def hold_study_of(scope: Scope, job_id: str) -> None:
    """Keep others from changing the job's study, if it has one, until this transaction ends.

    Two jobs of a study that end at once would otherwise each see the other running, and neither would end the study.
    To come before any lock on a job's own row: in the other order two transactions could wait for each other.
    """
    of_job = select(job.c.study_id).where(job.c.id == job_id).scalar_subquery()
    scope.connection.execute(select(study.c.id).where(study.c.id == of_job).with_for_update(key_share=True))


def current_jobs(scope: Scope, study_id: str) -> Sequence[Job]:
    """Return the study's jobs by their place; those whose place another has taken are left out."""
    query = (
        select(*PUBLIC_COLUMNS)
        .where(job.c.study_id == study_id, job.c.study_cell.is_not(None))
        .order_by(job.c.study_cell)
    )
    return [job_from_row(row) for row in scope.connection.execute(query).mappings()]


def submit_runs(runs: Sequence[StudyRunSpec], study_id: str, submit: Submit, *, first_cell: int = 0) -> list[Job]:
    """Add the jobs of a study, numbered from ``first_cell``; the longest first in the order they are worked off."""
    numbered = sorted(enumerate(runs, start=first_cell), key=lambda pair: -pair[1].cost)
    return [submit_run(run, study_id, cell, submit) for cell, run in numbered]


def submit_run(run: StudyRunSpec, study_id: str, cell: int, submit: Submit) -> Job:
    """Add one job of a study."""
    name = run.training.name
    iterations = run.training.training.iterations
    return submit(
        "study_run", run.document(), name=name, model=name, total=iterations, study_id=study_id, study_cell=cell
    )


def advance_study(scope: Scope, study_id: str, submit: Submit) -> None:
    """Go on with a study whose row is held, after one of its jobs has ended."""
    waiting = exists().where(
        job.c.study_id == study_id, job.c.study_cell.is_not(None), job.c.status.not_in(sorted(TERMINAL))
    )
    if scope.connection.execute(select(waiting)).scalar_one():
        return
    row = scope.connection.execute(select(study).where(study.c.id == study_id)).mappings().one()
    if row["status"] in TERMINAL:
        return
    spec = StudySpec.model_validate(row["spec"])
    jobs = current_jobs(scope, study_id)
    steps = _next_search_steps(spec, jobs)
    if steps is not None and row["status"] == "running":
        submit_runs(spec.search_jobs(steps), study_id, submit, first_cell=len(jobs))
        return
    status = _final_status(jobs, complete=steps is None)
    values = {"status": status, "finished_at": scope.now()}
    scope.connection.execute(update(study).where(study.c.id == study_id).values(values))


def _next_search_steps(spec: StudySpec, jobs: Sequence[Job]) -> int | None:
    if spec.search is None or not all(is_done(one) for one in jobs):
        return None
    return next_steps(spec.search.candidates, outcomes(spec, jobs), confirm=spec.search.confirm)


def _final_status(jobs: Sequence[Job], *, complete: bool) -> StudyStatus:
    if not complete or any(one.status == "cancelled" for one in jobs):
        return "cancelled"
    return "succeeded" if all(is_done(one) for one in jobs) else "failed"
