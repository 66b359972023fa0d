"""The search for the critical step: what it measured, the bracket, and the runs it saved."""

from typing import Any

from api.paper.findings import StudyFindings
from api.paper.preset import PaperNumbers
from api.paper.seed_statistics import percent
from api.paper.table import NOT_MEASURED, Table
from api.paper.training_grid import bracket_in_words
from ode_core.specs import Bracket, StudySpec


def search_tables(study: StudyFindings, numbers: PaperNumbers) -> list[Table]:
    """Return a table of the step counts measured, and one of the bracket beside the paper's."""
    spec = StudySpec.model_validate(study.study["spec"]).search
    found = study.study["search"]
    assert spec is not None
    assert found is not None
    criterion = "accuracy drops by" if spec.criterion == "accuracy" else "share of predictions that change is"
    checked = Table(
        f"{study.name}: step counts measured",
        ("trained with", "accuracy, same solver, %", f"accuracy, {spec.test.label}, %", "change, %", "passes"),
        tuple(_checked_row(spec.method, one) for one in found["checked"]),
        (
            f"A step count passes if with every seed the {criterion} at most {spec.threshold:g}.",
            *_contradictions(found),
        ),
    )
    paper = numbers.critical_evaluations
    saved = f"{found['runs_saved']} of {found['full_grid_runs']}"
    critical = Table(
        f"{study.name}: critical step",
        ("", "measured", "paper"),
        (
            (
                "critical function evaluations",
                bracket_in_words(Bracket(**found["bracket"]), spec.method),
                NOT_MEASURED if paper is None else f"between {paper[0]} and {paper[1]}",
            ),
            ("trainings made", str(found["runs"]), NOT_MEASURED),
            ("trainings saved of the whole grid", saved, NOT_MEASURED),
        ),
    )
    return [checked, critical]


def _checked_row(method: str, one: dict[str, Any]) -> tuple[str, ...]:
    seeds = one["by_seed"].values()
    return (
        f"{method}-{one['steps']}",
        percent(seed["train_accuracy"] for seed in seeds),
        percent(seed["test_accuracy"] for seed in seeds),
        percent(seed["flip_rate"] for seed in seeds),
        "yes" if one["passes"] else "no",
    )


def _contradictions(found: dict[str, Any]) -> list[str]:
    return [
        f"Seed {one['seed']} passes with {one['passes_at']} steps and fails with {one['fails_at']}: the bracket is not "
        f"that of a monotone effect."
        for one in found["violations"]
    ]
