"""Studies: accepted, read, cancelled and resumed as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update

from ode_core.specs import StudyRunSpec, StudySpec, next_steps
from store import tables
from store.errors import IllegalTransition, NotFound
from store.ids import new_id
from store.job_lifecycle import Jobs
from store.jobs import TERMINAL, Job
from store.pagination import KeysetOrder, Page
from store.scope import Scope
from store.study_progress import (
    StudyStatus,
    advance_study,
    current_jobs,
    hold_study_of,
    is_done,
    submit_run,
    submit_runs,
)
from store.study_results import StudyResult, study_results
from store.tables import study


@dataclass(frozen=True)
class Study:
    """A study's row.

    Attributes:
        status: ``failed`` when a job failed for another reason than a diverged training, which is a result.
        spec: a ``StudySpec`` as JSON.
    """

    id: str
    name: str
    status: StudyStatus
    spec: dict[str, Any]
    created_at: datetime
    cancel_requested_at: datetime | None
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        """Whether no job of it is under way."""
        return self.status in TERMINAL


@dataclass(frozen=True)
class StudyProgress:
    """How far the jobs of a study are, together: iterations done and to do, and how many jobs have ended."""

    step: int
    total: int
    jobs: int
    finished_jobs: int


_NEWEST_FIRST = KeysetOrder("-created_at", None, study.c.id, descending=True)


class Studies:
    """Accepts, reads and changes studies; how they go on by themselves is in ``study_progress``."""

    def __init__(self, scope: Scope, jobs: Jobs) -> None:
        self._scope = scope
        self._jobs = jobs

    def submit(self, spec: StudySpec) -> tuple[Study, list[Job]]:
        """Add a study and its first jobs: all of a grid, those of one step count of a search."""
        study_id = new_id()
        values = {
            "id": study_id,
            "name": spec.name,
            "status": "running",
            "spec": spec.document(),
            "created_at": self._scope.now(),
        }
        row = self._scope.connection.execute(insert(study).values(values).returning(study)).mappings().one()
        return Study(**row), submit_runs(_first_runs(spec), study_id, self._jobs.submit)

    def get(self, study_id: str) -> Study | None:
        """Return the study, or None."""
        row = self._scope.connection.execute(select(study).where(study.c.id == study_id)).mappings().one_or_none()
        return None if row is None else Study(**row)

    def list(
        self,
        *,
        status: StudyStatus | Sequence[StudyStatus] | None = None,
        name: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page[Study]:
        """Return studies, newest first.

        Raises:
            InvalidCursor: ``after`` is malformed.
        """
        query = select(study)
        if name is not None:
            query = query.where(study.c.name == name)
        if status is not None:
            query = query.where(study.c.status.in_([status] if isinstance(status, str) else status))
        rows = self._scope.connection.execute(_NEWEST_FIRST.apply(query, limit, after)).mappings()
        studies = [Study(**row) for row in rows]
        more = len(studies) > limit
        studies = studies[:limit]
        return Page(studies, _NEWEST_FIRST.cursor(None, studies[-1].id) if more else None)

    def jobs(self, study_id: str) -> Sequence[Job]:
        """Return the study's jobs by their place; those whose place another has taken are left out."""
        return current_jobs(self._scope, study_id)

    def progress(self, study_ids: Sequence[str]) -> dict[str, StudyProgress]:
        """Return how far studies are, by id."""
        job = tables.job
        query = (
            select(
                job.c.study_id,
                func.sum(job.c.progress_step),
                func.sum(job.c.progress_total),
                func.count(),
                func.count(job.c.finished_at),
            )
            .where(job.c.study_id.in_(study_ids), job.c.study_cell.is_not(None))
            .group_by(job.c.study_id)
        )
        rows = self._scope.connection.execute(query)
        return {study_id: StudyProgress(int(step), int(total), n, ended) for study_id, step, total, n, ended in rows}

    def results(self, study_id: str) -> Sequence[StudyResult]:
        """Return the study's test results over its seeds."""
        return study_results(self._scope, study_id, self.jobs(study_id))

    def hold_of_job(self, job_id: str) -> None:
        """Lock the job's study; to be called first in a transaction that ends the job after other writes about it."""
        hold_study_of(self._scope, job_id)

    def request_cancel(self, study_id: str) -> Study:
        """Ask every job of the study to end; an ended study stays.

        Raises:
            NotFound: there is no such study.
        """
        current = self._hold(study_id)
        if current.finished:
            return current
        values = {"status": "cancelling", "cancel_requested_at": current.cancel_requested_at or self._scope.now()}
        self._update(study_id, values)
        for job in self.jobs(study_id):
            if not job.finished:
                self._jobs.request_cancel(job.id)
        return self._hold(study_id)

    def resume(self, study_id: str) -> tuple[Study, Sequence[Job]]:
        """Submit the failed and cancelled jobs of an ended study again; return the new ones.

        They go on from the last checkpoints. Jobs that have succeeded, or whose trainings diverged, stay.

        Raises:
            NotFound: there is no such study.
            IllegalTransition: it has not ended, or nothing is left to be done.
        """
        current = self._hold(study_id)
        if not current.finished:
            raise IllegalTransition(f"the study is {current.status}: wait until it has ended, or cancel it first")
        jobs = self.jobs(study_id)
        undone = [job for job in jobs if not is_done(job)]
        if not undone and current.status == "succeeded":
            raise IllegalTransition("every job of the study is done: there is nothing to resume")
        self._update(study_id, {"status": "running", "cancel_requested_at": None, "finished_at": None})
        for job in undone:
            self._take_over(job)
        advance_study(self._scope, study_id, self._jobs.submit)
        waiting = [job for job in self.jobs(study_id) if job.status == "queued"]
        return self._hold(study_id), waiting

    def unrung_jobs(self, study_id: str) -> Sequence[str]:
        """Return the ids of queued jobs of the study that no worker was told of yet."""
        job = tables.job
        query = (
            select(job.c.id)
            .where(job.c.study_id == study_id, job.c.status == "queued", job.c.rung_at.is_(None))
            .order_by(job.c.id)
        )
        return self._scope.connection.execute(query).scalars().all()

    def _take_over(self, ended: Job) -> None:
        job = tables.job
        self._scope.connection.execute(update(job).where(job.c.id == ended.id).values(study_cell=None))
        run = StudyRunSpec.model_validate(ended.spec).model_copy(update={"continues": ended.id})
        assert ended.study_id is not None
        assert ended.study_cell is not None
        submit_run(run, ended.study_id, ended.study_cell, self._jobs.submit)

    def _hold(self, study_id: str) -> Study:
        query = select(study).where(study.c.id == study_id).with_for_update(key_share=True)
        row = self._scope.connection.execute(query).mappings().one_or_none()
        if row is None:
            raise NotFound(f"there is no study {study_id}")
        return Study(**row)

    def _update(self, study_id: str, values: dict[str, Any]) -> None:
        self._scope.connection.execute(update(study).where(study.c.id == study_id).values(values))


def _first_runs(spec: StudySpec) -> list[StudyRunSpec]:
    if spec.search is None:
        return spec.jobs()
    first = next_steps(spec.search.candidates, {})
    assert first is not None
    return spec.search_jobs(first)
