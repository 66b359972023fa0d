"""Trainings with adaptation: what they cost, where they end, and what a converged solver says of the models."""

from collections.abc import Sequence
from typing import Any

from api.paper.findings import Configuration, StudyFindings, TrainedSeed, finest_of, solver_label
from api.paper.preset import PaperNumbers
from api.paper.seed_statistics import percent, spread
from api.paper.table import NOT_MEASURED, Table
from api.paper.training_grid import FLIP_THRESHOLD


def adaptation_table(study: StudyFindings, numbers: PaperNumbers) -> Table:
    """Return a row for each rule of adaptation, and the paper's below them."""
    adapted = [one for one in study.configurations if one.training.get("adaptation") is not None]
    converged = finest_of(adapted)
    fine = NOT_MEASURED if converged is None else solver_label(converged)
    rows = [_row(one, converged) for one in adapted]
    if numbers.adaptation_evaluations is not None:
        evaluations, accuracy = f"{numbers.adaptation_evaluations:g}", numbers.adaptation_accuracy or NOT_MEASURED
        rows.append(("the paper", evaluations, *[NOT_MEASURED] * 2, accuracy, *[NOT_MEASURED] * 4))
    return Table(
        f"{study.name}: training with adaptation",
        (
            "trained with",
            "evaluations an iteration",
            "checks, evaluations an iteration",
            "at the end",
            "accuracy, %",
            f"accuracy, {fine}, %",
            "predictions that change, %",
            f"models with changes <= {FLIP_THRESHOLD:g}",
            "certified",
        ),
        tuple(rows),
        (
            "Evaluations of the field for one sample in the forward solve, mean over the whole training; those of the "
            "checks apart.",
            "At the end: steps or tolerance of each seed. Accuracy: under that solver, on the whole test split. "
            f"Changes are from it to {fine}.",
        ),
    )


def _row(one: Configuration, converged: dict[str, Any] | None) -> tuple[str, ...]:
    tested = [None if converged is None else one.tested_with(seed.seed, converged) for seed in one.seeds]
    lost = [None] * len(one.failed)
    flips = [None if row is None else row["flip_rate"] for row in tested]
    small = sum(rate is not None and rate <= FLIP_THRESHOLD + 1e-9 for rate in flips)
    return (
        one.label,
        spread([*(seed.facts["mean_training_evaluations"] for seed in one.seeds), *lost]),
        spread([*(seed.facts["adaptation_evaluations"] / seed.facts["iterations"] for seed in one.seeds), *lost]),
        ", ".join(_step_or_tolerance(seed) for seed in one.seeds) or NOT_MEASURED,
        percent([*(seed.facts["test_accuracy"] for seed in one.seeds), *lost]),
        percent([*(None if row is None else row["accuracy"] for row in tested), *lost]),
        percent([*flips, *lost]),
        f"{small} of {len(one.seeds) + len(one.failed)}",
        _certified(one.seeds),
    )


def _step_or_tolerance(seed: TrainedSeed) -> str:
    return str(seed.solver["steps"]) if "steps" in seed.solver else f"{seed.solver['rtol']:.1e}"


def _certified(seeds: Sequence[TrainedSeed]) -> str:
    """Return how many models were certified; a dash for rules that certify nothing."""
    told = [(seed.facts.get("adaptation") or {}).get("certified") for seed in seeds]
    if all(one is None for one in told):
        return NOT_MEASURED
    return f"{sum(bool(one) for one in told)} of {len(told)}"
