"""Turns test results into rows of the result table, the same for sweeps and audits."""

from collections.abc import Sequence

from ode_core.audit.sweep import TestResult
from ode_core.specs import SolverSpec, TrainingJobSpec
from store.results import NewResult
from worker.executors.stored_model import StoredModel


def result_rows(tested: StoredModel, results: Sequence[TestResult]) -> list[NewResult]:
    """Return one row for each test solver."""
    return rows_of_version(tested.version.model, tested.version.version, tested.spec, tested.solver, results)


def rows_of_version(
    model: str,
    version: int,
    spec: TrainingJobSpec,
    train: SolverSpec,
    results: Sequence[TestResult],
    *,
    study_id: str | None = None,
    seed: int | None = None,
) -> list[NewResult]:
    """Return one row for each test solver.

    Args:
        model: the name of the model tested.
        version: its version.
        spec: the training that made it.
        train: what it was trained with at the end.
        results: of its tests.
        study_id: of the study that trained it, if one did.
        seed: in the study.
    """
    end_time, precision = spec.architecture.end_time, spec.training.precision
    return [
        NewResult(
            model=model,
            version=version,
            dataset=spec.dataset.model_dump(mode="json"),
            train_solver=train.document(),
            test_solver=result.solver.document(),
            train_steps=None if train.adaptive else train.fixed_steps(0.0, end_time, precision),
            test_steps=result.steps,
            nfe=result.nfe,
            accuracy=result.accuracy,
            flip_rate=result.flip_rate,
            samples=result.samples,
            failures=result.failures,
            seconds=result.seconds,
            study_id=study_id,
            seed=seed,
        )
        for result in results
    ]
