"""What the server answers to the client, as types for the type checker."""

from typing import Any, Literal, TypedDict


class Progress(TypedDict):
    """How far a job is."""

    step: int
    total: int
    message: str


class JobFailure(TypedDict):
    """Why a job failed."""

    code: str
    message: str


class Job(TypedDict):
    """A job, as ``GET /v1/jobs/{id}`` describes it."""

    id: str
    kind: Literal["training", "sweep", "audit", "portrait", "study_run", "predict", "export"]
    name: str | None
    status: Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
    progress: Progress
    attempt: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    cancel_requested_at: str | None
    error: JobFailure | None
    spec: dict[str, Any]
    model: str | None
    version: int | None
    study: str | None
    links: dict[str, str | None]


class StudyProgress(TypedDict):
    """How far the jobs of a study are, together."""

    step: int
    total: int
    jobs: int
    finished_jobs: int


class Study(TypedDict):
    """A study, as ``GET /v1/studies/{id}`` describes it; ``cells`` are its jobs."""

    id: str
    name: str
    status: Literal["running", "cancelling", "succeeded", "failed", "cancelled"]
    progress: StudyProgress
    created_at: str
    finished_at: str | None
    cancel_requested_at: str | None
    spec: dict[str, Any]
    cells: list[dict[str, Any]]
    search: dict[str, Any] | None
    links: dict[str, str]


class OverSeeds(TypedDict):
    """One number of every seed; ``sd`` is the sample standard deviation."""

    mean: float | None
    sd: float | None
    n: int
    by_seed: dict[str, float]


class StudyResultRow(TypedDict):
    """One training configuration of a study under one test solver, over its seeds."""

    label: str
    model: str
    train_solver: dict[str, Any]
    train_method: str
    train_steps: int | None
    final_steps: OverSeeds
    adaptation: dict[str, Any] | None
    test_solver: dict[str, Any]
    test_method: str
    test_steps: int | None
    nfe: float | None
    accuracy: OverSeeds
    flip_rate: OverSeeds
    failed_seeds: list[int]


class Event(TypedDict):
    """Something that happened to a job."""

    job_id: str
    sequence: int
    kind: str
    data: dict[str, Any]
    created_at: str


class MetricSeries(TypedDict):
    """One metric of a job: points ``[step, value]``; a value that was not finite is None."""

    name: str
    points: list[tuple[int, float | None]]
    non_finite: int


class Prediction(TypedDict):
    """The answer for one input; label, probabilities and logits are None when its solve failed."""

    label: int | None
    probabilities: list[float] | None
    logits: list[float] | None
    status: str
    remedy: str | None
    nfe: int
    accepted: int
    rejected: int


class SamplePrediction(Prediction):
    """The stored prediction of one sample of a data set; ``logits`` are None, too, where none were asked for."""

    sample: int
    truth: int


class Predictions(TypedDict):
    """Predictions in the order of the inputs; ``nfe`` is the mean over them."""

    model: str
    version: int
    solver: dict[str, Any]
    predictions: list[Prediction]
    nfe: float
    accepted: float
    rejected: float
    failures: int


class ResultRow(TypedDict):
    """One model version tested under one solver."""

    id: str
    job_id: str
    model: str
    version: int
    dataset: dict[str, Any]
    train_solver: dict[str, Any]
    train_method: str
    train_steps: int | None
    test_solver: dict[str, Any]
    test_method: str
    test_steps: int | None
    nfe: float
    accuracy: float | None
    flip_rate: float | None
    samples: int
    failures: int
    seconds: float
    study: str | None
    seed: int | None
    created_at: str


class UploadedVersion(TypedDict):
    """One version of an uploaded data set; ``spec`` is how a training job names it."""

    name: str
    version: int
    created_at: str
    input_shape: list[int]
    classes: int
    input_scale: float
    train_samples: int
    test_samples: int
    sha256: str
    source: dict[str, Any]
    spec: dict[str, Any]
    links: dict[str, str]
