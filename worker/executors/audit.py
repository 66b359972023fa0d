"""Decides whether a stored model is an ODE, and finds out why not."""

from importlib.metadata import version
from typing import Any

from ode_core.audit.advice import advice
from ode_core.audit.audit import AuditReport, audit
from ode_core.audit.diagnosis import PARTS, Diagnosis, diagnose, is_to_repair, no_diagnosis, why_left_out
from ode_core.audit.flipping_samples import FlippingSamples, flipping_samples
from ode_core.audit.parent_agreement import parent_agreement
from ode_core.audit.repair import Repair, repair_options
from ode_core.audit.verdict import TRAINED_WITH
from ode_core.specs import AuditJobSpec, StartFrom, evaluation_operations
from store.unit_of_work import Transaction
from worker.executors.result_rows import result_rows
from worker.executors.stored_model import StoredModel, load_stored_model
from worker.running_job import FinishJob, RunningJob

SERVED_WITH = "the solver it is served with"


def run_audit(running: RunningJob) -> FinishJob:
    """Run an audit job to its end; the ladder of solvers becomes result rows like a sweep's.

    The solvers to serve the version with are stored with it.

    Raises:
        LeaseLost, JobCancelled, WorkerDraining: at the audit's next progress report.
        ModelUnavailable, DatasetUnavailable: the job fails.
    """
    spec = AuditJobSpec.model_validate(running.job.spec)
    tested = load_stored_model(running, spec.samples)
    job, attempt = running.job, running.attempt
    running.check()
    progress = _Progress(running, PARTS if spec.mechanism is not False else 0)
    report = audit(
        tested.model,
        tested.inputs,
        tested.labels,
        tested.solver,
        epsilon=spec.epsilon,
        on_progress=progress.of_audit,
        max_evaluations=running.settings.budget.evaluations_per_solve,
        role=TRAINED_WITH if tested.parent is None else SERVED_WITH,
        held_out=tested.held_out,
    )
    agreement = _agreement(running, tested, report)
    diagnosis = _diagnosis(spec, tested, report, progress)
    repair = _repair(running, tested, report, diagnosis)
    flipping = _flipping(tested, report, diagnosis)

    def finish(tx: Transaction) -> dict[str, Any]:
        tx.results.replace_for_job(job.id, attempt, result_rows(tested, report.ladder))
        tx.solver_choices.replace_for_version(tested.version.id, job.id, attempt, report.solver_choice.to_json())
        return {
            "model": tested.version.model,
            "version": tested.version.version,
            **report.to_json(),
            **tested.counts(),
            **diagnosis.to_json(),
            "parent": agreement,
            "repair": None if repair is None else repair.to_json(),
            "flipping_samples": flipping.to_json(),
            "measured": _measured(tested),
        }

    return finish


def _flipping(tested: StoredModel, report: AuditReport, diagnosis: Diagnosis) -> FlippingSamples:
    return flipping_samples(
        report,
        tested.inputs,
        tested.labels,
        input_scale=tested.model.input_scale,
        turning_times=diagnosis.turning_time_by_sample,
    )


def _measured(tested: StoredModel) -> dict[str, Any]:
    return {
        "dataset": tested.spec.dataset.model_dump(mode="json"),
        "classes": tested.spec.dataset.classes,
        "device": tested.model.device.type,
        "precision": tested.spec.training.precision,
        "versions": {name: version(name) for name in ("odeness", "torch")},
    }


def _agreement(running: RunningJob, tested: StoredModel, report: AuditReport) -> dict[str, Any] | None:
    """Return a repair's agreement with the version it was made from; None for other versions."""
    parent = tested.parent
    if parent is None:
        return None
    found = parent_agreement(
        parent.model,
        tested.inputs,
        tested.labels,
        parent.solver,
        report.trained,
        report.reference.predictions,
        on_batch=lambda left: running.check(),
        max_evaluations=running.settings.budget.evaluations_per_solve,
    )
    return {"model": parent.version.model, "version": parent.version.version, **found.to_json()}


def _repair(running: RunningJob, tested: StoredModel, report: AuditReport, diagnosis: Diagnosis) -> Repair | None:
    if not is_to_repair(report, diagnosis):
        return None
    # What can be done with a repair that is no ODE, can be done with the version it was made from.
    version = tested.version if tested.parent is None else tested.parent.version
    return repair_options(
        tested.spec,
        StartFrom(model=version.model, version=version.version),
        tested.solver if tested.parent is None else tested.parent.solver,
        report.epsilon,
        diagnosis.samples,
        diagnosis.rescues,
        diagnosis.no_rescue,
        running.settings.budget,
        verdict=report.verdict,
        advice=advice(
            report.verdict,
            solver=tested.solver.label,
            epsilon=report.epsilon,
            needed=report.samples_needed,
            held_out=tested.held_out,
        ),
        is_repair=tested.parent is not None,
    )


class _Progress:
    """Reports an audit and the diagnosis after it as the parts of one job."""

    def __init__(self, running: RunningJob, after: int) -> None:
        self.running, self._after, self._before = running, after, 0

    def of_audit(self, part: int, parts: int, message: str) -> None:
        """Report a part of the audit."""
        self._before = parts
        self.running.report(part, parts + self._after, message)

    def of_diagnosis(self, part: int, parts: int, message: str) -> None:
        """Report a part of the diagnosis."""
        self.running.report(self._before + part, self._before + parts, message)


def _diagnosis(spec: AuditJobSpec, tested: StoredModel, report: AuditReport, progress: _Progress) -> Diagnosis:
    left_out = why_left_out(spec.mechanism, report.verdict, ask="set mechanism to true")
    if left_out is not None:
        return no_diagnosis(left_out)
    return diagnose(
        tested.model,
        tested.inputs,
        tested.labels,
        report,
        operations=evaluation_operations(tested.spec.architecture, tested.spec.dataset.input_shape),
        on_progress=progress.of_diagnosis,
        max_evaluations=progress.running.settings.budget.evaluations_per_solve,
    )
