"""One model under many test solvers."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ode_core.audit.measurement import Measurement, measure_together
from ode_core.models.audited_model import AuditedModel
from ode_core.models.predictions import OnBatch, Predictions, batch_size_for
from ode_core.solvers.solution import Execution
from ode_core.solvers.stacked_grids import stacks
from ode_core.solvers.truncated_grid import precision_of
from ode_core.specs.solver import SolverSpec


@dataclass(frozen=True)
class TestResult:
    """What a model does under one test solver.

    Attributes:
        solver: the test solver.
        steps: its steps on a fixed grid, else None.
        nfe: evaluations of the field for one sample, on average.
        accuracy: share of right labels; a failed solve counts as wrong.
        flip_rate: share of samples whose prediction differs from that under the training solver.
        reference_flip_rate: the same against the converged reference, where there is one.
        samples: number of samples.
        failures: samples whose solve failed.
        failure_reasons: how many of them ended with which status.
        seconds: wall time of the solves; of solves that were stacked, the share of its evaluations.
        execution: how the numbers were computed.
    """

    __test__ = False  # pytest: not a test class

    solver: SolverSpec
    steps: int | None
    nfe: float
    accuracy: float
    flip_rate: float
    samples: int
    failures: int
    failure_reasons: dict[str, int]
    seconds: float
    execution: Execution
    reference_flip_rate: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self) | {"solver": self.solver.document()}


OnResult = Callable[[int, int, TestResult], None]
"""Called for each solver with how many are done, how many there are, and the result."""


def sweep(
    model: AuditedModel,
    inputs: Tensor,
    labels: Tensor,
    train_solver: SolverSpec,
    solvers: Sequence[SolverSpec],
    *,
    on_result: OnResult | None = None,
    on_batch: OnBatch | None = None,
    max_evaluations: int | None = None,
    trained: Measurement | None = None,
) -> list[TestResult]:
    """Test ``model`` on ``inputs`` ``(n, *sample_shape)`` under each of ``solvers``; return results in their order.

    Solvers whose solves are stacked are done together. A sample whose solve would take more than ``max_evaluations``
    of the field fails. ``trained`` is what the training solver gives for ``inputs``, where it is known: it is not
    measured again, and the result under it tells of the same predictions.
    """
    tested = functools.partial(measure_together, model, inputs, on_batch=on_batch, max_evaluations=max_evaluations)
    # The training solver is tested in any case: its predictions are what the others are held against.
    measured: dict[SolverSpec, Measurement] = {} if trained is None else {train_solver: trained}
    distinct = [solver for solver in dict.fromkeys([train_solver, *solvers]) if solver not in measured]
    results: dict[int, TestResult] = {}
    rows = min(len(inputs), batch_size_for(model))
    groups = [[distinct[position] for position in group] for group in stacks(distinct, rows, model.device)]
    for group in [list(measured), *sorted(groups, key=lambda group: train_solver not in group)]:
        missing = [solver for solver in group if solver not in measured]
        if missing:
            measured |= dict(zip(missing, tested(missing), strict=True))
        for position in [p for p, solver in enumerate(solvers) if solver in group]:
            own = measured[train_solver].predictions
            result = test_result(measured[solvers[position]], labels, model.end_time, own, None)
            results[position] = result
            if on_result is not None:
                on_result(len(results), len(solvers), result)
    return [results[position] for position in range(len(solvers))]


def test_result(
    measurement: Measurement,
    labels: Tensor,
    end_time: float,
    trained: Predictions,
    reference: Predictions | None,
) -> TestResult:
    """Compare predictions with the labels, those under the training solver and, if there is one, a reference's."""
    predictions, solver = measurement.predictions, measurement.solver
    precision = precision_of(predictions.logits.dtype)
    return TestResult(
        solver=solver,
        steps=None if solver.adaptive else solver.fixed_steps(0.0, end_time, precision),
        nfe=predictions.mean_evaluations,
        accuracy=predictions.accuracy(labels),
        flip_rate=float(predictions.flips(trained).double().mean()),
        samples=len(labels),
        failures=predictions.failures,
        failure_reasons=predictions.failure_reasons,
        execution=predictions.execution,
        seconds=measurement.seconds,
        reference_flip_rate=None if reference is None else float(predictions.flips(reference).double().mean()),
    )
