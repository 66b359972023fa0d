"""The search for the critical step: what it measured, the bracket, and the runs it saved."""

from typing import Any

from api.paper.findings import StudyFindings
from api.paper.preset import PaperNumbers
from api.paper.seed_statistics import percent, seeds_in_words
from api.paper.table import NOT_MEASURED, Table
from api.paper.training_grid import bracket_in_words
from ode_core.specs import Bracket, CriticalStepSearch, StudySpec


def search_tables(study: StudyFindings, numbers: PaperNumbers) -> list[Table]:
    """Return a table of the step counts measured, and one of the bracket beside the paper's."""
    whole = StudySpec.model_validate(study.study["spec"])
    spec = whole.search
    found = study.study["search"]
    assert spec is not None
    assert found is not None
    least = spec.required_accuracy(whole.base.dataset.classes)
    criterion = "accuracy drops by" if spec.criterion == "accuracy" else "share of predictions that change is"
    checked = Table(
        f"{study.name}: step counts measured",
        ("trained with", "accuracy, same solver, %", f"accuracy, {spec.test.label}, %", "change, %", "passes"),
        tuple(_checked_row(spec, one, least) for one in found["checked"]),
        (
            f"A step count passes if with every seed the {criterion} at most {spec.threshold:g}, and the accuracy with "
            f"the same solver is at least {100 * least:.3g} %: a model that has learnt nothing has nothing to lose. A "
            f"training that diverged does not pass.",
            *_not_measured(spec.method, found),
            *_contradictions(found),
        ),
    )
    paper = numbers.critical_evaluations
    saved = NOT_MEASURED if found["runs_saved"] is None else f"{found['runs_saved']} of {found['full_grid_runs']}"
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


def _checked_row(spec: CriticalStepSearch, one: dict[str, Any], least: float) -> tuple[str, ...]:
    seeds = one["by_seed"].values()
    return (
        f"{spec.method}-{one['steps']}",
        percent(seed["train_accuracy"] for seed in seeds),
        percent(seed["test_accuracy"] for seed in seeds),
        percent(seed["flip_rate"] for seed in seeds),
        "yes" if one["passes"] else f"no ({_why_not(one['by_seed'], least)})",
    )


def _why_not(by_seed: dict[str, dict[str, Any]], least: float) -> str:
    """Return the reasons with their seeds, for example ``seed 2 diverged; seeds 0, 1 changed``."""
    reasons: dict[str, list[int]] = {}
    for seed, facts in by_seed.items():
        if facts["passes"]:
            continue
        if facts["train_accuracy"] is None:
            reason = "diverged"
        elif facts["train_accuracy"] < least:
            reason = f"below {100 * least:.3g} %"
        else:
            reason = "changed"
        reasons.setdefault(reason, []).append(int(seed))
    return "; ".join(f"{seeds_in_words(seeds)} {reason}" for reason, seeds in reasons.items())


def _not_measured(method: str, found: dict[str, Any]) -> list[str]:
    return [
        f"{method}-{one['steps']} was not measured with {seeds_in_words(one['seeds'])}: {one['reason']}"
        for one in found["not_measured"]
    ]


def _contradictions(found: dict[str, Any]) -> list[str]:
    return [
        f"Seed {one['seed']} passes with {one['passes_at']} steps and fails with {one['fails_at']}: the bracket is not "
        f"that of a monotone effect."
        for one in found["violations"]
    ]
