"""Which model versions are averaged, and which are curves of their own."""

from typing import Any

import pytest

from api.charts.seed_groups import study_rows

EULER2, EULER4 = {"method": "euler", "steps": 2}, {"method": "euler", "steps": 4}
DOPRI5 = {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}
SPHERES, DIGITS = {"kind": "concentric_spheres", "dimension": 2}, {"kind": "digits"}


def result(model: str, version: int, accuracy: float | None, **parts: Any) -> dict[str, Any]:
    row = {
        "model": model,
        "version": version,
        "dataset": SPHERES,
        "train_solver": EULER2,
        "test_solver": EULER4,
        "nfe": 4.0,
        "accuracy": accuracy,
    } | parts
    for part in ("train", "test"):
        row[f"{part}_method"], row[f"{part}_steps"] = (
            row[f"{part}_solver"]["method"],
            row[f"{part}_solver"].get("steps"),
        )
    return row


def means(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    return {row["label"]: row["accuracy"]["mean"] for row in rows}


def test_versions_of_a_model_that_were_trained_alike_are_its_seeds() -> None:
    (row,) = study_rows([result("spheres", 1, 0.5), result("spheres", 2, 0.7), result("spheres", 3, None)])

    assert row["label"] == "euler-2"
    # The deviation of 0.5 and 0.7: both are 0.1 from the mean, and n - 1 is 1.
    assert row["accuracy"] == {
        "mean": pytest.approx(0.6),
        "sd": pytest.approx(0.02**0.5),
        "n": 2,
        "by_seed": {"version 1": 0.5, "version 2": 0.7},
    }


def test_models_of_other_names_are_no_seeds_though_their_solvers_are_the_same() -> None:
    rows = study_rows([result("digits", 1, 0.9, dataset=DIGITS), result("spheres", 3, 0.5)])

    assert means(rows) == {"digits, euler-2": 0.9, "spheres, euler-2": 0.5}
    assert [row["accuracy"]["n"] for row in rows] == [1, 1]


def test_versions_of_a_model_on_other_data_or_with_another_solver_are_no_seeds() -> None:
    rows = study_rows(
        [
            result("mine", 1, 0.9),
            result("mine", 2, 0.5, dataset=SPHERES | {"dimension": 3}),
            result("mine", 3, 0.7, train_solver=EULER4),
        ]
    )

    assert means(rows) == {"euler-2": 0.9, "euler-2 (2)": 0.5, "euler-4": 0.7}


def test_a_test_solver_with_tolerances_is_one_though_seeds_take_different_evaluations() -> None:
    tested = [
        result("spheres", 1, 0.5, test_solver=DOPRI5, nfe=20.0),
        result("spheres", 2, 0.7, test_solver=DOPRI5, nfe=30.0),
        result("spheres", 1, 0.9, test_solver=DOPRI5 | {"rtol": 1e-3}, nfe=20.0),
    ]

    strict, loose = sorted(study_rows(tested), key=lambda row: row["accuracy"]["n"], reverse=True)

    assert (strict["nfe"], strict["accuracy"]["n"]) == (25.0, 2)
    assert (loose["nfe"], loose["accuracy"]["n"]) == (20.0, 1)
