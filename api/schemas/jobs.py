"""Answers about jobs."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from api.schemas.answer import Answer, JsonObject
from store.events import Event, EventKind
from store.jobs import Job, JobKind, JobStatus


class Progress(Answer):
    """How far a job is."""

    step: int = Field(description="iterations trained, solvers tested, or samples predicted")
    total: int = Field(description="steps the job will take; 0: not known yet")
    message: str


class JobError(Answer):
    """Why a job failed."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str


class JobLinks(Answer):
    """Where to go from here."""

    self: str
    result: str
    metrics: str
    events: str
    charts: str
    report: str | None = Field(description="of an audit: its result as a page for people")
    predictions: str | None = Field(description="of a data set's prediction: every sample's")
    artifact: str | None = Field(description="of an export: its file, once the job has succeeded")
    cancel: str
    model: str | None = Field(description="the model trained or tested")
    study: str | None = Field(description="the study it is part of")


class JobAnswer(Answer):
    """A job."""

    id: str
    kind: JobKind
    name: str | None
    status: JobStatus
    progress: Progress
    attempt: int = Field(description="how often a worker took the job up")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    error: JobError | None = Field(description="of a failed job")
    spec: JsonObject = Field(description="the request, with its defaults filled in")
    model: str | None = Field(description="the model trained or tested")
    version: int | None = Field(description="of the model; of a training job, once it has succeeded")
    study: str | None = Field(description="id of the study it is part of")
    links: JobLinks

    @classmethod
    def of(cls, job: Job) -> "JobAnswer":
        """Return the answer about a job of the store."""
        own = f"/v1/jobs/{job.id}"
        return cls(
            id=job.id,
            kind=job.kind,
            name=job.name,
            status=job.status,
            progress=Progress(step=job.progress_step, total=job.progress_total, message=job.progress_message),
            attempt=job.attempt,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            cancel_requested_at=job.cancel_requested_at,
            error=None if job.error is None else JobError(**job.error),
            spec=job.spec,
            model=job.model,
            version=_version(job),
            study=job.study_id,
            links=JobLinks(
                self=own,
                result=f"{own}/result",
                metrics=f"{own}/metrics",
                events=f"{own}/events",
                charts=f"{own}/charts",
                report=f"{own}/report" if job.kind == "audit" else None,
                predictions=f"{own}/predictions" if job.kind == "predict" else None,
                artifact=f"{own}/artifact" if job.kind == "export" else None,
                cancel=f"{own}/cancel",
                model=None if job.model is None else f"/v1/models/{job.model}",
                study=None if job.study_id is None else f"/v1/studies/{job.study_id}",
            ),
        )


def _version(job: Job) -> int | None:
    if job.model_version is not None:
        return job.model_version
    version: Any = (job.result or {}).get("version")
    return version if isinstance(version, int) else None


class JobResult(Answer):
    """What a job found; the fields depend on its kind.

    Training: `model`, `version`, the final `solver`, `accuracy` on the test split and more. Sweep:
    `results`, a row for each solver. Audit: an `AuditResult`. Prediction of a data set: a `PredictResult`. Export: an
    `ExportResult`. Portrait:
    `views`, `reference` and more, which the charts are drawn from. Run of a study: `runs`, one for each seed with its
    `version`, and `failed_seeds`; `version` is the last of them.
    """

    model_config = ConfigDict(extra="allow")

    model: str
    version: int


class MetricSeries(Answer):
    """One metric of a job over its iterations."""

    name: str
    points: list[tuple[int, float | None]] = Field(description="[step, value]; null: the value was not finite")
    non_finite: int = Field(description="points of the whole series that were not finite")


class MetricSeriesList(Answer):
    """The metrics asked for."""

    data: list[MetricSeries]


class EventAnswer(Answer):
    """One event of a job."""

    job_id: str
    sequence: int = Field(description="1, 2, ... without gaps")
    kind: EventKind
    data: JsonObject
    created_at: datetime

    @classmethod
    def of(cls, event: Event) -> "EventAnswer":
        """Return the answer about an event of the store."""
        return cls(
            job_id=event.job_id,
            sequence=event.sequence,
            kind=event.kind,
            data=event.data,
            created_at=event.created_at,
        )
