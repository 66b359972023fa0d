"""Computes what the figures of a model with a two-dimensional state are drawn from."""

from typing import Any

from ode_core.audit.portrait import PortraitSize, portrait
from ode_core.specs import PortraitJobSpec, check_portrait_budget, portrait_solvers
from store.unit_of_work import Transaction
from worker.executors.stored_model import load_stored_model
from worker.running_job import FinishJob, RunningJob


def run_portrait(running: RunningJob) -> FinishJob:
    """Run a portrait job to its end.

    Raises:
        LeaseLost, JobCancelled, WorkerDraining: between two parts.
        ModelUnavailable, DatasetUnavailable, PortraitImpossible, BudgetExceeded: the job fails.
    """
    spec = PortraitJobSpec.model_validate(running.job.spec)
    seen = load_stored_model(running, None)
    budget = running.settings.budget
    solver, finer = portrait_solvers(spec, seen.spec, seen.solver)
    for part, each in (("solver", solver), ("finer", finer)):
        check_portrait_budget(spec, part, each, seen.model.end_time, budget, each=seen.model.evaluations_in_field)
    document = portrait(
        seen.model,
        seen.inputs,
        seen.labels,
        solver,
        finer,
        # Fields without weights know no time.
        autonomous=not getattr(seen.spec.architecture.field, "time_dependent", False),
        size=PortraitSize(
            samples=spec.samples,
            fan_samples=spec.fan_samples,
            grid=spec.grid,
            max_evaluations=budget.evaluations_per_solve,
        ),
        on_progress=running.report,
    )
    result = {
        "model": seen.version.model,
        "version": seen.version.version,
        "train_solver": seen.solver.document(),
        **document,
    }

    def finish(tx: Transaction) -> dict[str, Any]:
        return result

    return finish
