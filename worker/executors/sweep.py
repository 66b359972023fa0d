"""Tests a stored model under a list of solvers."""

import math
from dataclasses import asdict
from typing import Any

from ode_core.audit.sweep import TestResult, sweep
from ode_core.specs import SweepJobSpec, check_sweep_budget
from store.unit_of_work import Transaction
from worker.executors.result_rows import result_rows
from worker.executors.stored_model import load_stored_model
from worker.running_job import FinishJob, RunningJob


def run_sweep(running: RunningJob) -> FinishJob:
    """Run a sweep job to its end; each solver's row is stored as soon as it is there.

    Raises:
        LeaseLost, JobCancelled, WorkerDraining: after the solver being tested.
        ModelUnavailable, DatasetUnavailable, BudgetExceeded: the job fails.
    """
    spec = SweepJobSpec.model_validate(running.job.spec)
    tested = load_stored_model(running, spec.samples)
    budget = running.settings.budget
    check_sweep_budget(
        spec, tested.model.end_time, budget, math.prod(tested.model.state_shape), each=tested.model.evaluations_in_field
    )
    job, attempt = running.job, running.attempt
    results: list[TestResult] = []

    def store_results(done: int, total: int, result: TestResult) -> None:
        results.append(result)
        rows = result_rows(tested, results)

        def write(tx: Transaction) -> None:
            tx.results.replace_for_job(job.id, attempt, rows)
            tx.jobs.report_progress(job.id, attempt, done, total, f"tested {result.solver.label}")

        running.write(write)
        running.check()

    running.check()

    def report(left: int) -> None:
        running.report(len(results), len(spec.solvers), f"{left:,} samples left under the next solver")

    in_order = sweep(
        tested.model,
        tested.inputs,
        tested.labels,
        tested.solver,
        spec.solvers,
        on_result=store_results,
        on_batch=report,
        max_evaluations=budget.evaluations_per_solve,
    )

    def finish(tx: Transaction) -> dict[str, Any]:
        rows = result_rows(tested, in_order)
        tx.results.replace_for_job(job.id, attempt, rows)
        return {
            "model": tested.version.model,
            "version": tested.version.version,
            "train_solver": tested.solver.document(),
            **tested.counts(),
            "results": [
                {
                    "test_solver": row.test_solver,
                    "test_steps": row.test_steps,
                    "nfe": row.nfe,
                    "accuracy": row.accuracy,
                    "flip_rate": row.flip_rate,
                    "samples": row.samples,
                    "failures": row.failures,
                    "failure_reasons": result.failure_reasons,
                    "execution": asdict(result.execution),
                }
                for row, result in zip(rows, in_order, strict=True)
            ],
        }

    return finish
