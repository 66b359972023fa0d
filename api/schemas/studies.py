"""Answers about studies."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import Field

from api.schemas.answer import Answer, JsonObject
from api.schemas.jobs import JobError
from api.schemas.solvers import SolverAnswer
from ode_core.specs import SolverSpec, StudySpec
from store.jobs import Job, JobStatus
from store.studies import Study, StudyProgress
from store.study_jobs import failed_seeds
from store.study_progress import StudyStatus
from store.study_results import OverSeeds, StudyResult
from store.study_search import search_findings


class StudyProgressAnswer(Answer):
    """How far the jobs of a study are, together."""

    step: int = Field(description="iterations done; those of stacked seeds count once")
    total: int = Field(description="iterations of all jobs there are so far")
    jobs: int
    finished_jobs: int


class SeedVersion(Answer):
    """The model version of one seed."""

    seed: int
    version: int
    solver: SolverAnswer = Field(description="what it was trained with at the end")
    accuracy: float = Field(description="under that solver")
    mean_training_evaluations: float = Field(description="of the field, an iteration")
    training_seconds: float


class FailedSeed(Answer):
    """A seed whose training left no model."""

    seed: int
    reason: str


class StudyCell(Answer):
    """One job of a study: a training configuration with some of its seeds."""

    label: str = Field(description="of the configuration", examples=["euler-16"])
    status: JobStatus
    job_id: str
    seeds: list[int]
    train_solver: SolverAnswer
    adaptation: JsonObject | None
    model: str
    versions: list[SeedVersion]
    failed_seeds: list[FailedSeed]
    progress: int = Field(description="iterations done")
    total: int
    message: str
    error: JobError | None

    @classmethod
    def of(cls, job: Job) -> "StudyCell":
        """Return the cell of a study's job."""
        training = job.spec["training"]
        return cls(
            label=job.spec["label"],
            status=job.status,
            job_id=job.id,
            seeds=job.spec["seeds"],
            train_solver=SolverSpec.model_validate(training["solver"]),
            adaptation=training["adaptation"],
            model=training["name"],
            versions=[
                SeedVersion.model_validate({name: run[name] for name in SeedVersion.model_fields})
                for run in (job.result or {}).get("runs", [])
            ],
            failed_seeds=[FailedSeed(**failed) for failed in failed_seeds(job)],
            progress=job.progress_step,
            total=job.progress_total,
            message=job.progress_message,
            error=None if job.error is None else JobError(**job.error),
        )


class Bracket(Answer):
    """Where the critical number of steps lies."""

    last_failing: int | None = Field(description="the greatest measured that does not pass; null: none was seen")
    first_passing: int | None = Field(description="the least measured above that; null: none was seen to pass there")


class SearchedSeed(Answer):
    """What one seed's model lost between the solver of its training and the fine one; null: it has no model."""

    passes: bool
    train_accuracy: float | None
    test_accuracy: float | None
    flip_rate: float | None
    reason: str | None = Field(description="why the training failed")


class SearchedSteps(Answer):
    """One number of steps that a search has measured."""

    steps: int
    passes: bool = Field(description="for every seed")
    by_seed: dict[str, SearchedSeed]


class NotMeasuredSteps(Answer):
    """A job of a search that ended without an answer: resumed, the study runs it again."""

    steps: int
    seeds: list[int]
    reason: str


class MonotonyViolation(Answer):
    """A seed whose model passes at one number of steps and not at a greater one."""

    seed: int
    passes_at: int
    fails_at: int


class StudySearchAnswer(Answer):
    """What a search for the critical number of steps has found so far."""

    finished: bool
    bracket: Bracket
    checked: list[SearchedSteps]
    not_measured: list[NotMeasuredSteps] = Field(
        description="jobs that were cancelled, or failed for another reason than a diverged training"
    )
    monotone: bool = Field(description="whether no seed contradicts what bisection supposes: `violations` is empty")
    violations: list[MonotonyViolation]
    runs: int = Field(description="trainings submitted")
    full_grid_runs: int = Field(description="trainings of all numbers of steps")
    runs_saved: int | None = Field(description="of the full grid; null until the search has finished")


class StudyLinks(Answer):
    """Where to go from a study."""

    self: str
    results: str
    charts: str
    jobs: str
    cancel: str
    resume: str


class StudySummary(Answer):
    """A study in a list."""

    id: str
    name: str
    status: StudyStatus = Field(
        description="`failed`: a job failed; `cells` say which. A training that diverges is a result and fails no study"
    )
    progress: StudyProgressAnswer
    created_at: datetime
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    links: StudyLinks

    @classmethod
    def of_study(cls, study: Study, progress: StudyProgress) -> "StudySummary":
        """Return the summary of a study of the store."""
        return StudySummary(**_summary(study, progress))


class StudyAnswer(StudySummary):
    """A study with its jobs."""

    spec: JsonObject = Field(description="the request, with its defaults filled in")
    cells: list[StudyCell] = Field(description="its jobs, in the order of the grid or of the search")
    search: StudySearchAnswer | None

    @classmethod
    def of(cls, study: Study, jobs: Sequence[Job]) -> "StudyAnswer":
        """Return the answer about a study and its current jobs."""
        progress = StudyProgress(
            step=sum(job.progress_step for job in jobs),
            total=sum(job.progress_total for job in jobs),
            jobs=len(jobs),
            finished_jobs=sum(job.finished for job in jobs),
        )
        return cls(
            **_summary(study, progress),
            spec=study.spec,
            cells=[StudyCell.of(job) for job in jobs],
            search=_search(study, jobs),
        )


def _summary(study: Study, progress: StudyProgress) -> dict[str, Any]:
    own = f"/v1/studies/{study.id}"
    return {
        "id": study.id,
        "name": study.name,
        "status": study.status,
        "progress": StudyProgressAnswer(**vars(progress)),
        "created_at": study.created_at,
        "finished_at": study.finished_at,
        "cancel_requested_at": study.cancel_requested_at,
        "links": StudyLinks(
            self=own,
            results=f"{own}/results",
            charts=f"{own}/charts",
            jobs=f"/v1/jobs?study={study.id}",
            cancel=f"{own}/cancel",
            resume=f"{own}/resume",
        ),
    }


def _search(study: Study, jobs: Sequence[Job]) -> StudySearchAnswer | None:
    spec = StudySpec.model_validate(study.spec)
    if spec.search is None:
        return None
    return StudySearchAnswer.model_validate(search_findings(spec, jobs))


class OverSeedsAnswer(Answer):
    """One number of every seed."""

    mean: float | None
    sd: float | None = Field(description="sample standard deviation; null for fewer than two seeds")
    n: int
    by_seed: dict[str, float]

    @classmethod
    def of(cls, values: OverSeeds) -> "OverSeedsAnswer":
        """Return the answer about values of the store."""
        by_seed = {str(seed): value for seed, value in values.by_seed.items()}
        return cls(mean=values.mean, sd=values.sd, n=values.n, by_seed=by_seed)


class StudyResultRow(Answer):
    """One training configuration under one test solver, over the seeds."""

    label: str
    model: str
    train_solver: SolverAnswer
    train_method: str
    train_steps: int | None = Field(description="of the configuration; null with tolerances or under adaptation")
    final_steps: OverSeedsAnswer = Field(description="with which each seed's training ended, on a fixed grid")
    adaptation: JsonObject | None
    test_solver: SolverAnswer
    test_method: str
    test_steps: int | None
    nfe: float | None = Field(description="mean evaluations of the vector field for one sample")
    accuracy: OverSeedsAnswer
    flip_rate: OverSeedsAnswer
    failed_seeds: list[int]

    @classmethod
    def of(cls, row: StudyResult) -> "StudyResultRow":
        """Return the row of a result of the store."""
        return cls(
            label=row.label,
            model=row.model,
            train_solver=SolverSpec.model_validate(row.train_solver),
            train_method=row.train_solver["method"],
            train_steps=None if row.adaptation is not None else row.train_solver.get("steps"),
            final_steps=OverSeedsAnswer.of(row.train_steps),
            adaptation=row.adaptation,
            test_solver=SolverSpec.model_validate(row.test_solver),
            test_method=row.test_solver["method"],
            test_steps=row.test_steps,
            nfe=row.nfe,
            accuracy=OverSeedsAnswer.of(row.accuracy),
            flip_rate=OverSeedsAnswer.of(row.flip_rate),
            failed_seeds=row.failed_seeds,
        )


class StudyResults(Answer):
    """All rows of a study: by configuration, then by test solver."""

    data: list[StudyResultRow]
