"""Accepts jobs: checks what can be checked before any work, stores the job, rings for the workers."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import orjson

from api.budget_problems import within_budget
from api.idempotency_problems import conflicting_key
from api.identifiers import find_version
from api.problems import Problem
from api.schemas.jobs import JobAnswer
from api.schemas.solvers import solver_document
from api.services import Services
from api.uploaded_datasets import fill_in_dataset
from ode_core.datasets.files import DatasetUnavailable, check_dataset_files
from ode_core.specs import (
    AuditJobSpec,
    DatasetSpec,
    SweepJobSpec,
    TrainingJobSpec,
    check_solve_budget,
    check_training_budget,
    model_state_shape,
)
from store.errors import IdempotencyConflict
from store.jobs import Job
from store.settings import Settings
from store.unit_of_work import Transaction

JobSpec = TrainingJobSpec | SweepJobSpec | AuditJobSpec


@dataclass(frozen=True)
class Accepted:
    """An accepted job: the body of the answer, and whether it is an earlier request's."""

    job_id: str
    body: dict[str, Any]
    replayed: bool


def accept_job(services: Services, spec: JobSpec, idempotency_key: str | None) -> Accepted:
    """Store a job for ``spec`` and ring for the workers.

    With an idempotency key a repeated request gets the first one's answer. The key, the job and the
    answer are written in one transaction: a refused request leaves no trace, and of two at the same
    time one waits for the other.

    Raises:
        Problem: the job cannot be accepted.
    """
    fingerprint = _fingerprint(spec)
    try:
        with services.store.transaction() as tx:
            if idempotency_key is not None:
                stored = tx.idempotency.begin(idempotency_key, fingerprint)
                if stored is not None:
                    assert stored.job_id is not None
                    return Accepted(stored.job_id, stored.body, replayed=True)
            job = _submit(tx, services.settings, spec)
            body = JobAnswer.of(job).model_dump(mode="json")
            if idempotency_key is not None:
                tx.idempotency.finish(idempotency_key, fingerprint, status=202, body=body, job_id=job.id)
    except IdempotencyConflict as conflict:
        raise conflicting_key(conflict) from conflict
    services.doorbell.ring(job.id)
    return Accepted(job.id, body, replayed=False)


def _fingerprint(spec: JobSpec) -> str:
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
    _require_dataset(spec.dataset, settings)
    document = spec.model_dump(mode="json") | {"solver": solver_document(spec.solver)}
    return tx.jobs.submit("training", document, name=spec.name, model=spec.name, total=spec.training.iterations)


def _submit_evaluation(tx: Transaction, settings: Settings, spec: SweepJobSpec | AuditJobSpec) -> Job:
    version = find_version(tx, spec.model, spec.version)
    trained = TrainingJobSpec.model_validate(version.training_spec)
    _require_dataset(trained.dataset, settings)
    document = spec.model_dump(mode="json") | {"version": version.version}
    total = 0
    if isinstance(spec, SweepJobSpec):
        end_time, limit = trained.architecture.end_time, settings.budget.evaluations_per_solve
        state_size = math.prod(model_state_shape(trained.architecture, trained.dataset.input_shape))
        for position, solver in enumerate(spec.solvers):
            with within_budget(f"solvers.{position}"):
                check_solve_budget(solver, end_time, limit, state_size)
        document["solvers"] = [solver_document(solver) for solver in spec.solvers]
        total = len(spec.solvers)
    return tx.jobs.submit(spec.kind, document, model=spec.model, model_version=version.version, total=total)


def _require_dataset(dataset: DatasetSpec, settings: Settings) -> None:
    try:
        check_dataset_files(dataset, settings.datasets)
    except DatasetUnavailable as error:
        raise Problem(409, "dataset_unavailable", str(error)) from error
