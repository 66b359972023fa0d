"""Writes a model version with a solver as a file that runs without this package."""

from typing import Any

from ode_core.export.export import export_classifier
from ode_core.specs import ExportJobSpec, ModifiedFieldSpec, SolverSpec, check_solve_budget, export_solver
from store.unit_of_work import Transaction
from worker.executors.stored_model import StoredModel, load_stored_model
from worker.running_job import FinishJob, RunningJob

SAMPLES = 32  # that the file's answers are compared on
PARTS = 3
SUFFIXES = {"onnx": "onnx", "torch": "pt2"}


def run_export(running: RunningJob) -> FinishJob:
    """Run an export job to its end; the file, checked, becomes the job's artifact.

    Raises:
        LeaseLost, JobCancelled, WorkerDraining: between two parts.
        ModelUnavailable, DatasetUnavailable, ExportImpossible, ExportUnavailable, ExportFailed, BudgetExceeded: the
            job fails.
    """
    spec = ExportJobSpec.model_validate(running.job.spec)
    stored = load_stored_model(running, SAMPLES)
    solver = _solver(running, spec, stored)
    parts = 0

    def on_part(part: str) -> None:
        nonlocal parts
        running.report(parts, PARTS, part)
        parts += 1

    about = {
        "model": stored.version.model,
        "version": stored.version.version,
        "train_solver": stored.solver.document(),
        "modified_field": stored.version.modified_field,
    }
    exported = export_classifier(stored.model, solver, stored.inputs, spec.format, about=about, on_part=on_part)
    running.check()
    job, attempt = running.job, running.attempt
    blob_id = running.keep_trying(lambda: running.store.save_blob(exported.data, job_id=job.id, attempt=attempt))
    steps = exported.description["steps"]
    name = f"{stored.version.model}-v{stored.version.version}-{solver.method}-{steps}.{SUFFIXES[spec.format]}"

    def finish(tx: Transaction) -> dict[str, Any]:
        tx.artifacts.add(job.id, attempt, name, blob_id)
        blob = tx.blobs.require(blob_id)
        return {
            **exported.description,
            "format": spec.format,
            "file": {"name": name, "bytes": blob.size, "sha256": blob.sha256},
            "check": {"runtime": exported.runtime, **exported.agreement.to_json()},
        }

    return finish


def _solver(running: RunningJob, spec: ExportJobSpec, stored: StoredModel) -> SolverSpec:
    document = stored.version.modified_field
    field = None if document is None else ModifiedFieldSpec.model_validate(document)
    solver = export_solver(spec, stored.spec, stored.solver, field)
    check_solve_budget(
        solver,
        stored.model.end_time,
        running.settings.budget.evaluations_per_solve,
        each=stored.model.evaluations_in_field,
    )
    return solver
