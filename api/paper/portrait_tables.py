"""Portraits of models in the plane: crossings, clusters at two step sizes, and whether a line separates the classes."""

from collections.abc import Sequence
from typing import Any

from api.paper.findings import Findings, JobFindings
from api.paper.table import NOT_MEASURED, Table

# With these constants of the field; those of the paper's figure are unpublished.
FAN_MARGINS = ("+0.42", "-0.32", "-0.38")


def crossings_table(findings: Findings) -> Table:
    """Return a row for each model and solver it is seen with, and one for its exact flow."""
    return Table(
        "Trajectories",
        (
            "trained with",
            "seen with",
            "accuracy, %",
            "predictions that change",
            "crossings within steps",
            "crossings of exact points",
        ),
        tuple(row for portrait in _portraits(findings) for row in _crossing_rows(portrait)),
        (
            "Changes are from the solver of the training. Crossings: pairs of trajectories whose straight lines cross "
            "within a step; in the last column, such lines between the points of the exact flow at the same times.",
            "Exact trajectories do not cross; straight lines between their points can, where steps are long.",
        ),
    )


def _crossing_rows(portrait: JobFindings) -> list[tuple[str, ...]]:
    result = portrait.result
    own = result["views"][0]["final"]["predictions"]
    seen = [
        (
            portrait.label,
            view["label"],
            f"{100 * view['accuracy']:.1f}",
            _changed(own, view["final"]["predictions"]),
            str(view["crossings"]["count"]),
            _count(view["crossings"]["of_exact_points"]),
        )
        for view in result["views"]
    ]
    exact = result["reference"]
    return [
        *seen,
        (
            portrait.label,
            "exact flow",
            f"{100 * exact['accuracy']:.1f}",
            _changed(own, exact["final"]["predictions"]),
            NOT_MEASURED,
            NOT_MEASURED,
        ),
    ]


def _changed(own: Sequence[int], other: Sequence[int]) -> str:
    return f"{sum(a != b for a, b in zip(own, other, strict=True))} of {len(own)}"


def _count(value: int | None) -> str:
    return NOT_MEASURED if value is None else str(value)


def fan_table(findings: Findings) -> Table:
    """Return whether a line separates the classes of XOR at either step size and under the exact flow."""
    rows = []
    for portrait in _portraits(findings):
        views = [*portrait.result["views"], portrait.result["reference"] | {"label": "exact flow", "step": None}]
        for view, expected in zip(views, FAN_MARGINS, strict=True):
            margin = view["separation"]["relative_margin"] if view["separation"] else None
            rows.append(
                (
                    view["label"],
                    NOT_MEASURED if view["step"] is None else f"{view['step']:.3g}",
                    NOT_MEASURED if margin is None else f"{margin:+.2f}",
                    NOT_MEASURED if margin is None else "yes" if margin > 0 else "no",
                    expected,
                )
            )
    return Table(
        "XOR: does a line separate the final states?",
        ("solver", "step", "relative margin", "separable", "expected margin"),
        tuple(rows),
        (
            "The margin is the width of the empty strip between the classes over the largest distance of a final state "
            "from the origin; below 0 no line separates them.",
            "The paper shows a separating line with the coarse step and none with the fine one, and gives neither "
            "constants nor numbers. The expected margins are those of this field's constants.",
        ),
    )


def fan_accuracy_table(findings: Findings) -> Table:
    """Return what the heads, trained on the final states of either step size, make of those of the others."""
    configurations = [one for study in findings.studies for one in study.configurations]
    tested: list[str] = []
    cells: dict[tuple[str, str], str] = {}
    for one in configurations:
        for row in one.rows:
            label = _label(row["test_solver"])
            tested += [] if label in tested else [label]
            cells[one.label, label] = NOT_MEASURED if row["accuracy"] is None else f"{100 * row['accuracy']:.0f}"
    return Table(
        "XOR: accuracy of the trained heads, in %",
        ("trained with", *(f"tested with {label}" for label in tested)),
        tuple(
            (one.label, *(cells.get((one.label, label), NOT_MEASURED) for label in tested)) for one in configurations
        ),
        ("Four points; without a separating line at most three of them can be right.",),
    )


def _label(solver: dict[str, Any]) -> str:
    return f"{solver['method']}-{solver['steps']}"


def _portraits(findings: Findings) -> list[JobFindings]:
    return [job for job in findings.jobs if job.job["kind"] == "portrait"]
