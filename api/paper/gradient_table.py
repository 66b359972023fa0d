"""The same training with its gradient computed in different ways."""

from typing import Any

from api.paper.findings import Configuration, Findings, finest_of, solver_label
from api.paper.seed_statistics import percent, spread
from api.paper.table import NOT_MEASURED, Table


def gradient_table(findings: Findings) -> Table:
    """Return a row for each solver and way of computing the gradient."""
    configurations = [one for study in findings.studies for one in study.configurations]
    converged = finest_of(configurations)
    fine = NOT_MEASURED if converged is None else solver_label(converged)
    ordered = sorted(configurations, key=lambda one: one.label)  # stable: solvers together, gradients in their order
    return Table(
        "Gradients",
        (
            "trained with",
            "gradient",
            "accuracy, %",
            f"accuracy, {fine}, %",
            "predictions that change, %",
            "evaluations an iteration",
            "ms an iteration",
        ),
        tuple(_row(one, converged) for one in ordered),
        (
            "Trainings that differ in nothing but their seed run as one where they can (backprop on a grid); the time "
            "is then a seed's share, and less than that of a training by itself.",
        ),
    )


def _row(one: Configuration, converged: dict[str, Any] | None) -> tuple[str, ...]:
    tested = [None if converged is None else one.tested_with(seed.seed, converged) for seed in one.seeds]
    lost = [None] * len(one.failed)
    return (
        solver_label(one.training["solver"]),
        one.training["gradient"],
        percent([*(seed.facts["test_accuracy"] for seed in one.seeds), *lost]),
        percent([*(None if row is None else row["accuracy"] for row in tested), *lost]),
        percent([*(None if row is None else row["flip_rate"] for row in tested), *lost]),
        spread([*(seed.facts["mean_training_evaluations"] for seed in one.seeds), *lost]),
        spread([*(1000 * seed.facts["training_seconds"] / seed.facts["iterations"] for seed in one.seeds), *lost]),
    )
