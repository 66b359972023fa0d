"""Trainings with adaptation: what they cost, where they end, and what a converged solver says of the models."""

from collections.abc import Sequence
from typing import Any

from api.paper.findings import Configuration, StudyFindings, TrainedSeed, finest_of, solver_label
from api.paper.preset import PaperNumbers
from api.paper.seed_statistics import percent, spread
from api.paper.table import NOT_MEASURED, Table
from api.paper.training_grid import BY_FLIPS, FLIP_THRESHOLD, classes_of

LAST_PART = 0.9  # in which a certified rule only certifies


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
            "solver of the model",
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
            "Solver of the model: steps or tolerance of each seed. Accuracy: under that solver, on the whole test "
            f"split. Changes are from it to {fine}; a model no better than guessing does not count as one with few.",
            "A certified model has the last weights that could be certified. Where that was long before the end, the "
            "iteration is given: the model is then only as good as its weights were there.",
        ),
    )


def _row(one: Configuration, converged: dict[str, Any] | None) -> tuple[str, ...]:
    tested = [None if converged is None else one.tested_with(seed.seed, converged) for seed in one.seeds]
    lost = [None] * len(one.failed)
    flips = [None if row is None else row["flip_rate"] for row in tested]
    classes = classes_of(one)
    small = sum(
        BY_FLIPS.passes(seed.facts["test_accuracy"], row["accuracy"], row["flip_rate"], classes=classes)
        for seed, row in zip(one.seeds, tested, strict=True)
        if row is not None and None not in (row["accuracy"], row["flip_rate"])
    )
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
    """Return how many models were certified, and which long before the end; a dash for rules that certify nothing."""
    told = [seed.facts.get("adaptation") or {} for seed in seeds]
    if all(one.get("certified") is None for one in told):
        return NOT_MEASURED
    words = f"{sum(bool(one['certified']) for one in told)} of {len(told)}"
    early = [
        f"{one['certified_iteration']:,} of {seed.facts['iterations']:,}"
        for one, seed in zip(told, seeds, strict=True)
        if one["certified"] and one["certified_iteration"] < LAST_PART * seed.facts["iterations"]
    ]
    return f"{words} (iteration {', '.join(early)})" if early else words
