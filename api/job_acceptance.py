"""Accepts jobs and studies: checks what can be checked before any work, stores them, rings for the workers."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from api.budget_problems import within_budget
from api.idempotency_problems import conflicting_key
from api.identifiers import find_version
from api.problems import Problem, invalid
from api.schemas.jobs import JobAnswer
from api.schemas.studies import StudyAnswer
from api.services import Services
from api.uploaded_datasets import fill_in_dataset, fill_in_study_dataset, require_dataset
from ode_core.specs import (
    AuditJobSpec,
    ModifiedFieldSpec,
    PortraitImpossible,
    PortraitJobSpec,
    SolverSpec,
    Spec,
    StartFrom,
    StudySpec,
    SweepJobSpec,
    TrainingJobSpec,
    check_portrait_budget,
    check_solve_budget,
    check_start,
    check_study_budget,
    check_training_budget,
    evaluations_in_field,
    model_state_shape,
    portrait_solvers,
    steps_of_portrait,
)
from store.errors import IdempotencyConflict
from store.jobs import Job
from store.settings import Settings
from store.unit_of_work import Transaction

JobSpec = TrainingJobSpec | SweepJobSpec | AuditJobSpec | PortraitJobSpec


@dataclass(frozen=True)
class Accepted:
    """What was accepted: its id, the body of the answer, and whether it is an earlier request's."""

    id: str
    body: dict[str, Any]
    replayed: bool


@dataclass(frozen=True)
class Stored:
    """What a request's transaction stored: its id, the body of the answer, and the jobs to ring for."""

    id: str
    body: dict[str, Any]
    job_ids: list[str]


def accept_job(services: Services, spec: JobSpec, idempotency_key: str | None) -> Accepted:
    """Store a job for ``spec`` and ring for the workers; with an idempotency key, once.

    Raises:
        Problem: the job cannot be accepted.
    """

    def store(tx: Transaction) -> Stored:
        job = _submit(tx, services.settings, spec)
        return Stored(job.id, JobAnswer.of(job).model_dump(mode="json"), [job.id])

    return _accept(services, spec, idempotency_key, store)


def accept_study(services: Services, spec: StudySpec, idempotency_key: str | None) -> Accepted:
    """Store a study with its first jobs and ring for the workers; with an idempotency key, once.

    Raises:
        Problem: the study cannot be accepted.
    """

    def store(tx: Transaction) -> Stored:
        filled = _with_resolved_start(tx, fill_in_study_dataset(tx, spec))
        with within_budget():
            check_study_budget(filled, services.settings.budget)
        require_dataset(filled.base.dataset, services.settings)
        study, jobs = tx.studies.submit(filled)
        answer = StudyAnswer.of(study, tx.studies.jobs(study.id))
        return Stored(study.id, answer.model_dump(mode="json"), [job.id for job in jobs])

    return _accept(services, spec, idempotency_key, store)


def _accept(services: Services, spec: Spec, key: str | None, store: Callable[[Transaction], Stored]) -> Accepted:
    """Store what a request asks for and ring for its jobs.

    With an idempotency key a repeated request gets the first one's answer. The key, the jobs and the
    answer are written in one transaction: a refused request leaves no trace, and of two at the same
    time one waits for the other.
    """
    fingerprint = _fingerprint(spec)
    try:
        with services.store.transaction() as tx:
            if key is not None:
                earlier = tx.idempotency.begin(key, fingerprint)
                if earlier is not None:
                    assert earlier.job_id is not None
                    return Accepted(earlier.job_id, earlier.body, replayed=True)
            stored = store(tx)
            if key is not None:
                tx.idempotency.finish(key, fingerprint, status=202, body=stored.body, job_id=stored.id)
    except IdempotencyConflict as conflict:
        raise conflicting_key(conflict) from conflict
    for job_id in stored.job_ids:
        services.doorbell.ring(job_id)
    return Accepted(stored.id, stored.body, replayed=False)


def _fingerprint(spec: Spec) -> str:
    kind = type(spec).__name__
    content = orjson.dumps([kind, spec.model_dump(mode="json")], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()


def _submit(tx: Transaction, settings: Settings, spec: JobSpec) -> Job:
    if isinstance(spec, TrainingJobSpec):
        return _submit_training(tx, settings, spec)
    return _submit_evaluation(tx, settings, spec)


def _submit_training(tx: Transaction, settings: Settings, spec: TrainingJobSpec) -> Job:
    spec = fill_in_dataset(tx, spec)
    with within_budget():
        check_training_budget(spec, settings.budget)
    require_dataset(spec.dataset, settings)
    document = spec.document()
    if spec.start_from is not None:
        document["start_from"] = _resolve_start(tx, spec, spec.start_from, "start_from").model_dump(mode="json")
    return tx.jobs.submit("training", document, name=spec.name, model=spec.name, total=spec.training.iterations)


def _with_resolved_start(tx: Transaction, spec: StudySpec) -> StudySpec:
    start = spec.base.start_from
    if start is None:
        return spec
    resolved = _resolve_start(tx, spec.configurations()[0].training, start, "base.start_from")
    return spec.model_copy(update={"base": spec.base.model_copy(update={"start_from": resolved})})


def _resolve_start(tx: Transaction, spec: TrainingJobSpec, start: StartFrom, path: str) -> StartFrom:
    """Return the version to start from by its number, if its weights fit the training."""
    version = find_version(tx, start.model, start.version)
    if version.parent is not None and version.modified_field is not None:
        model, number = version.parent
        raise invalid(
            path,
            f"{version.model} version {version.version} is a repair, whose modified field training cannot keep: start "
            f"from {model} version {number}, which has the same weights",
        )
    try:
        check_start(spec, TrainingJobSpec.model_validate(version.training_spec))
    except ValueError as error:
        raise invalid(path, str(error)) from error
    return StartFrom(model=version.model, version=version.version)


def _submit_evaluation(tx: Transaction, settings: Settings, spec: SweepJobSpec | AuditJobSpec | PortraitJobSpec) -> Job:
    version = find_version(tx, spec.model, spec.version)
    trained = TrainingJobSpec.model_validate(version.training_spec)
    require_dataset(trained.dataset, settings)
    field = None if version.modified_field is None else ModifiedFieldSpec.model_validate(version.modified_field)
    state_size = math.prod(model_state_shape(trained.architecture, trained.dataset.input_shape))
    each = evaluations_in_field(field, state_size)
    document = spec.model_dump(mode="json") | {"version": version.version}
    total = 0
    if isinstance(spec, SweepJobSpec):
        end_time, limit = trained.architecture.end_time, settings.budget.evaluations_per_solve
        for position, solver in enumerate(spec.solvers):
            with within_budget(f"solvers.{position}"):
                check_solve_budget(solver, end_time, limit, state_size, each=each)
        document["solvers"] = [solver.document() for solver in spec.solvers]
        total = len(spec.solvers)
    if isinstance(spec, PortraitJobSpec):
        own = SolverSpec.model_validate(version.solver)
        solver = own if field is None else steps_of_portrait(field, trained.architecture.end_time)
        document |= _portrait_solvers(spec, trained, solver, settings, each)
    return tx.jobs.submit(spec.kind, document, model=spec.model, model_version=version.version, total=total)


def _portrait_solvers(
    spec: PortraitJobSpec, trained: TrainingJobSpec, solver: SolverSpec, settings: Settings, each: int
) -> dict[str, Any]:
    try:
        solvers = dict(zip(("solver", "finer"), portrait_solvers(spec, trained, solver), strict=True))
    except PortraitImpossible as error:
        raise Problem(
            422, "portrait_impossible", str(error), errors=[{"path": error.part, "message": str(error)}]
        ) from error
    for part, one in solvers.items():
        with within_budget(part):
            check_portrait_budget(spec, part, one, trained.architecture.end_time, settings.budget, each=each)
    return {part: one.document() for part, one in solvers.items()}
