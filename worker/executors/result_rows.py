"""Turns test results into rows of the result table, the same for sweeps and audits."""

from collections.abc import Sequence
from typing import Any

from ode_core.audit.sweep import TestResult
from ode_core.specs import SolverSpec
from worker.executors.stored_model import StoredModel


def result_rows(job_id: str, tested: StoredModel, results: Sequence[TestResult]) -> list[dict[str, Any]]:
    """Return one row for each test solver."""
    train = tested.solver
    end_time = tested.spec.architecture.end_time
    return [
        {
            "job_id": job_id,
            "model": tested.version.name,
            "version": tested.version.version,
            "dataset": tested.spec.dataset.model_dump(mode="json"),
            "dataset_kind": tested.spec.dataset.kind,
            "train_solver": solver_json(train),
            "test_solver": solver_json(result.solver),
            "train_method": train.method,
            "test_method": result.solver.method,
            "train_steps": None if train.adaptive else train.fixed_steps(0.0, end_time),
            "test_steps": result.steps,
            "nfe": result.nfe,
            "accuracy": result.accuracy,
            "flip_rate": result.flip_rate,
            "samples": result.samples,
            "failures": result.failures,
            "seconds": result.seconds,
        }
        for result in results
    ]


def solver_json(solver: SolverSpec) -> dict[str, Any]:
    """Return the solver as users write it, without the settings that do not apply."""
    return solver.model_dump(mode="json", exclude_none=True)
