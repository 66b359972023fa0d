"""Accepts jobs and studies: checks what can be checked before any work, stores them, rings for the workers."""

import math
from typing import Any

from api.budget_problems import within_budget
from api.idempotent_requests import Answer, Made, answer_once
from api.identifiers import find_version
from api.impossible_problems import possible
from api.prediction_acceptance import submit_prediction
from api.problems import invalid
from api.schemas.jobs import JobAnswer
from api.schemas.studies import StudyAnswer
from api.services import Services
from api.uploaded_datasets import fill_in_dataset, fill_in_study_dataset, require_dataset
from ode_core.specs import (
    AuditJobSpec,
    ExportJobSpec,
    ModifiedFieldSpec,
    PortraitJobSpec,
    PredictJobSpec,
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
    export_solver,
    model_state_shape,
    portrait_solvers,
    steps_of_portrait,
)
from store.jobs import Job
from store.settings import Settings
from store.unit_of_work import Transaction

JobSpec = TrainingJobSpec | SweepJobSpec | AuditJobSpec | PortraitJobSpec | PredictJobSpec | ExportJobSpec


def accept_job(services: Services, spec: JobSpec, idempotency_key: str | None) -> Answer:
    """Store a job for ``spec`` and ring for the workers; with an idempotency key, once.

    Raises:
        Problem: the job cannot be accepted.
    """

    def submit(tx: Transaction) -> Made:
        job = _submit(tx, services.settings, spec)
        return Made(JobAnswer.of(job).model_dump(mode="json"), job.id, [job.id])

    return answer_once(services, _request(spec), idempotency_key, status=202, make=submit)


def accept_study(services: Services, spec: StudySpec, idempotency_key: str | None) -> Answer:
    """Store a study with its first jobs and ring for the workers; with an idempotency key, once.

    Raises:
        Problem: the study cannot be accepted.
    """

    def submit(tx: Transaction) -> Made:
        filled = _with_resolved_start(tx, fill_in_study_dataset(tx, spec))
        with within_budget():
            check_study_budget(filled, services.settings.budget)
        require_dataset(filled.base.dataset, services.settings)
        study, jobs = tx.studies.submit(filled)
        answer = StudyAnswer.of(study, tx.studies.jobs(study.id))
        return Made(answer.model_dump(mode="json"), study.id, [job.id for job in jobs])

    return answer_once(services, _request(spec), idempotency_key, status=202, make=submit)


def _request(spec: Spec) -> list[Any]:
    return [type(spec).__name__, spec.model_dump(mode="json")]


def _submit(tx: Transaction, settings: Settings, spec: JobSpec) -> Job:
    if isinstance(spec, TrainingJobSpec):
        return _submit_training(tx, settings, spec)
    if isinstance(spec, PredictJobSpec):
        return submit_prediction(tx, settings, spec)
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


def _submit_evaluation(
    tx: Transaction, settings: Settings, spec: SweepJobSpec | AuditJobSpec | PortraitJobSpec | ExportJobSpec
) -> Job:
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
    if isinstance(spec, ExportJobSpec):
        document["solver"] = _export_solver(
            spec, trained, SolverSpec.model_validate(version.solver), field, settings, each
        )
    return tx.jobs.submit(spec.kind, document, model=spec.model, model_version=version.version, total=total)


def _portrait_solvers(
    spec: PortraitJobSpec, trained: TrainingJobSpec, solver: SolverSpec, settings: Settings, each: int
) -> dict[str, Any]:
    with possible():
        solvers = dict(zip(("solver", "finer"), portrait_solvers(spec, trained, solver), strict=True))
    for part, one in solvers.items():
        with within_budget(part):
            check_portrait_budget(spec, part, one, trained.architecture.end_time, settings.budget, each=each)
    return {part: one.document() for part, one in solvers.items()}


def _export_solver(
    spec: ExportJobSpec,
    trained: TrainingJobSpec,
    solver: SolverSpec,
    field: ModifiedFieldSpec | None,
    settings: Settings,
    each: int,
) -> dict[str, Any]:
    with possible():
        chosen = export_solver(spec, trained, solver, field)
    limit = settings.budget.evaluations_per_solve
    with within_budget("solver"):
        check_solve_budget(chosen, trained.architecture.end_time, limit, each=each)
    return chosen.document()
