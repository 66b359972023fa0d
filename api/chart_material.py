"""Reads from the database what figures are drawn from."""

from collections.abc import Sequence
from typing import Any

from api.charts.catalogue import StoredChart, charts_of
from api.charts.material import Material, Source, Training, XAxis
from api.finished_jobs import not_finished, result_of
from api.identifiers import find_job
from api.problems import Problem, invalid
from api.schemas.results import ResultRow
from api.schemas.studies import StudyResultRow
from store.jobs import Job, JobKind
from store.models import ModelVersion
from store.studies import Study
from store.unit_of_work import Transaction

MOST_RESULTS = 1000
MOST_POINTS = 2000  # of a metric series: more than a picture has columns
_MOST_CHANGES = 100_000
_NOISY = ("loss", "train_accuracy", "nfe")
# Thinned, they would lack the iterations of decisions. Drawn are only the points where they change.
_PIECEWISE_CONSTANT = ("steps", "tolerance")
_AT_CHECKS = (
    "adaptation_accepted",
    "adaptation_difference",
    "adaptation_flip_rate",
    "adaptation_flip_rate_upper",
    "certified",
)

SOURCES: dict[JobKind, tuple[Source, ...]] = {
    "portrait": ("portrait",),
    "sweep": ("results",),
    "audit": ("results", "audit"),
    "training": ("training",),
    "study_run": ("training",),
}
"""Which sources of figures a kind of job is."""


def charts_of_job(tx: Transaction, job: Job) -> list[StoredChart]:
    """Return the figures a job offers, now or when it has finished."""
    charts = [chart for source in SOURCES.get(job.kind, ()) for chart in charts_of(source)]
    return _with_their_metrics(tx, job, charts)


def charts_of_study() -> list[StoredChart]:
    """Return the figures a study offers, which grow with its results."""
    return charts_of("study")


def charts_of_version(tx: Transaction, version: ModelVersion) -> list[StoredChart]:
    """Return the figures a model version offers: of its training, its test results and its latest portrait."""
    job = _training_of(tx, version)
    charts = [] if job is None else _with_their_metrics(tx, job, charts_of("training"), _seed_of(version))
    if _results_of_version(tx, version):
        charts += charts_of("results")
    if latest_portrait(tx, version) is not None:
        charts += charts_of("portrait")
    if latest_audit(tx, version) is not None:
        charts += charts_of("audit")
    return charts


def material_of_jobs(tx: Transaction, chart: StoredChart, job: Job, others: Sequence[str], x: XAxis | None) -> Material:
    """Return what a figure of a job, and of ``others`` beside it, is drawn from.

    Raises:
        Problem: a job is not there (404), has no result yet or never will (409), or cannot be shown beside the first
            (422).
    """
    jobs = [job, *(_beside(tx, chart, job, number, other) for number, other in enumerate(others))]
    if chart.source == "portrait":
        return Material(portraits=[result_of(each) for each in jobs])
    if chart.source == "audit":
        return Material(audit=result_of(job))
    if chart.source == "results":
        return Material(results=[row for each in jobs for row in _results_of_job(tx, each)], x=x)
    return Material(trainings=_trainings(tx, jobs))


def material_of_version(tx: Transaction, chart: StoredChart, version: ModelVersion, x: XAxis | None) -> Material:
    """Return what a figure of a model version is drawn from."""
    if chart.source == "portrait":
        job = latest_portrait(tx, version)
        return Material(portraits=[] if job is None else [result_of(job)])
    if chart.source == "audit":
        job = latest_audit(tx, version)
        return Material(audit=None if job is None else result_of(job))
    if chart.source == "results":
        return Material(results=_results_of_version(tx, version), x=x)
    job = _training_of(tx, version)
    return Material(trainings=[] if job is None else _trainings(tx, [job], _seed_of(version)))


def _training_of(tx: Transaction, version: ModelVersion) -> Job | None:
    """Return the job that trained a version; None for one that no job made."""
    return None if version.job_id is None else tx.jobs.get(version.job_id)


def material_of_study(tx: Transaction, study: Study, x: XAxis | None) -> Material:
    """Return what a figure of a study is drawn from."""
    rows = [StudyResultRow.of(row).model_dump(mode="json") for row in tx.studies.results(study.id)]
    return Material(study=rows, x=x)


def latest_portrait(tx: Transaction, version: ModelVersion) -> Job | None:
    """Return the latest portrait of a model version that has succeeded, or None."""
    return latest_job(tx, version, "portrait")


def latest_audit(tx: Transaction, version: ModelVersion) -> Job | None:
    """Return the audit that finished last, which answers for the version; of those before solvers were chosen, another.

    An audit that was submitted earlier than another may finish later.
    """
    stored = tx.solver_choices.of_version(version.id)
    return latest_job(tx, version, "audit") if stored is None else tx.jobs.get(stored.job_id)


def latest_job(tx: Transaction, version: ModelVersion, kind: JobKind) -> Job | None:
    """Return the latest job of a kind about a model version that has succeeded, or None."""
    after: str | None = None
    while True:
        page = tx.jobs.list(kind=kind, status="succeeded", model=version.model, limit=100, after=after)
        found = next((job for job in page.items if job.model_version == version.version), None)
        if found is not None:
            return tx.jobs.get(found.id)
        if page.next_cursor is None:
            return None
        after = page.next_cursor


def _with_their_metrics(
    tx: Transaction, job: Job, charts: Sequence[StoredChart], seed: int | None = None
) -> list[StoredChart]:
    # Those of any run: the first seed may have diverged before it had a point.
    known: set[frozenset[str]] = set()
    if any(chart.metrics for chart in charts):
        names = tx.metrics.latest(job.id)
        for _, prefix in _runs(job, seed):
            of_run = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
            known |= {chart.metrics for chart in charts if chart.metrics <= of_run}
    return [chart for chart in charts if not chart.metrics or chart.metrics in known]


def _seed_of(version: ModelVersion) -> int | None:
    """Return the seed of a version that a study made; a training job makes one version only."""
    seed = version.metadata.get("seed") if "study" in version.metadata else None
    return seed if isinstance(seed, int) else None


def _runs(job: Job, seed: int | None = None) -> list[tuple[str, str]]:
    """Return the runs of a job, or the one of a seed: what tells it apart, and the prefix of its metrics.

    A job of a study trains a configuration with several seeds, and its metrics are named by them.
    """
    if job.kind != "study_run":
        return [("", "")]
    return [(f", seed {one}", f"seed{one}.") for one in job.spec["seeds"] if seed in (None, one)]


def _beside(tx: Transaction, chart: StoredChart, job: Job, number: int, other: str) -> Job:
    found = find_job(tx, other)
    if chart.source not in SOURCES.get(found.kind, ()):
        raise invalid(f"with.{number}", f"a {found.kind} job cannot be shown beside a {job.kind} job")
    return found


def _results_of_job(tx: Transaction, job: Job) -> list[dict[str, Any]]:
    rows = tx.results.list(job=job.id, sort="test_steps", limit=MOST_RESULTS).items
    if not rows and not job.finished:
        raise not_finished(job)
    if not rows:
        result_of(job)  # says why there is none
    return [ResultRow.of(row).model_dump(mode="json") for row in rows]


def _results_of_version(tx: Transaction, version: ModelVersion) -> list[dict[str, Any]]:
    """Return the latest result under each test solver."""
    rows = tx.results.list(model=version.model, version=version.version, limit=MOST_RESULTS).items
    latest = {str(sorted(row.test_solver.items())): row for row in reversed(rows)}
    ordered = sorted(latest.values(), key=lambda row: (row.test_steps or 0, row.nfe))
    return [ResultRow.of(row).model_dump(mode="json") for row in ordered]


def _trainings(tx: Transaction, jobs: Sequence[Job], seed: int | None = None) -> list[Training]:
    """Return the runs of training jobs; of one seed where it is given."""
    trainings: list[Training] = []
    for job in jobs:
        spec = _training_spec(job)
        runs = _runs(job, seed)
        for told_apart, prefix in runs:
            label = _label_of(job, told_apart, compared=len(jobs) > 1)
            if label in [training.label for training in trainings]:
                label = f"{label} ({len(trainings) + 1})"
            trainings.append(Training(label, _series(tx, job, prefix), _facts(job, prefix), spec.get("adaptation")))
    return trainings


def _training_spec(job: Job) -> dict[str, Any]:
    spec: dict[str, Any] = job.spec["training"] if job.kind == "study_run" else job.spec
    return spec


def _label_of(job: Job, told_apart: str, *, compared: bool) -> str:
    spec = _training_spec(job)
    name = job.spec["label"] if job.kind == "study_run" else job.name
    gradient = f", {spec.get('gradient', 'backprop')}" if compared else ""
    return f"{name}{gradient}{told_apart}"


def _series(tx: Transaction, job: Job, prefix: str) -> dict[str, list[tuple[int, float | None]]]:
    series: dict[str, list[tuple[int, float | None]]] = {}
    for name in (*_NOISY, *_PIECEWISE_CONSTANT, *_AT_CHECKS):
        most = MOST_POINTS if name in _NOISY else _MOST_CHANGES
        found = tx.metrics.read(job.id, name=prefix + name, max_points=most)
        series |= {whole.removeprefix(prefix): points for whole, points in found.items()}
    return series


def _facts(job: Job, prefix: str) -> dict[str, Any]:
    result = job.result or {}
    if job.kind != "study_run":
        return result
    return next((run for run in result.get("runs", []) if f"seed{run['seed']}." == prefix), {})


def chart_not_found(name: str, offered: Sequence[StoredChart], what: str, remedy: str) -> Problem:
    """Return the problem of a figure that is not offered."""
    there = ", ".join(chart.name for chart in offered)
    known = f"it offers {there}" if there else remedy
    return Problem(404, "chart_not_found", f"{what} has no chart {name[:100]!r}: {known}")
