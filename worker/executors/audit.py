"""Decides whether a stored model is an ODE."""

from typing import Any

from ode_core.audit.audit import audit
from ode_core.specs import AuditJobSpec
from store.unit_of_work import Transaction
from worker.executors.result_rows import result_rows, solver_json
from worker.executors.stored_model import load_stored_model
from worker.running_job import FinishJob, RunningJob


def run_audit(running: RunningJob) -> FinishJob:
    """Run an audit job to its end; the ladder of solvers becomes result rows like a sweep's.

    Raises:
        LeaseLost, JobCancelled, WorkerDraining: at the audit's next progress report.
        ModelUnavailable, DatasetUnavailable: the job fails.
    """
    spec = AuditJobSpec.model_validate(running.job.spec)
    tested = load_stored_model(running, spec.samples)
    job, attempt = running.job, running.attempt
    running.check()
    report = audit(
        tested.model,
        tested.inputs,
        tested.labels,
        tested.solver,
        epsilon=spec.epsilon,
        on_progress=running.report,
        max_evaluations=running.settings.budget.evaluations_per_solve,
    )

    def finish(tx: Transaction) -> dict[str, Any]:
        tx.results.replace_for_job(job.id, attempt, result_rows(tested, report.ladder))
        return {
            "model": tested.version.model,
            "version": tested.version.version,
            "train_solver": solver_json(tested.solver),
            **report.to_json(),
        }

    return finish
