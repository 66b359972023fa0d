"""Turns test results into rows of the result table, the same for sweeps and audits."""

from collections.abc import Sequence
from typing import Any

from ode_core.audit.sweep import TestResult
from ode_core.specs import SolverSpec
from store.results import NewResult
from worker.executors.stored_model import StoredModel


def result_rows(tested: StoredModel, results: Sequence[TestResult]) -> list[NewResult]:
    """Return one row for each test solver."""
    train = tested.solver
    end_time, precision = tested.spec.architecture.end_time, tested.spec.training.precision
    return [
        NewResult(
            model=tested.version.model,
            version=tested.version.version,
            dataset=tested.spec.dataset.model_dump(mode="json"),
            train_solver=solver_json(train),
            test_solver=solver_json(result.solver),
            train_steps=None if train.adaptive else train.fixed_steps(0.0, end_time, precision),
            test_steps=result.steps,
            nfe=result.nfe,
            accuracy=result.accuracy,
            flip_rate=result.flip_rate,
            samples=result.samples,
            failures=result.failures,
            seconds=result.seconds,
        )
        for result in results
    ]


def solver_json(solver: SolverSpec) -> dict[str, Any]:
    """Return the solver as users write it, without the settings that do not apply."""
    return solver.model_dump(mode="json", exclude_none=True)
