"""The accuracy of a study: a curve for each training configuration."""

from typing import Any

import pytest

from api.charts.catalogue import find_chart
from api.charts.material import Material, NothingToDraw
from api.charts.render import to_svg
from api.charts.study_accuracy import accuracy_of_study


def study_row(
    label: str, train_steps: int, method: str, steps: int | None, by_seed: dict[str, float], **parts: Any
) -> dict[str, Any]:
    values = list(by_seed.values())
    mean = sum(values) / len(values) if values else None
    sd = None
    if len(values) > 1 and mean is not None:
        sd = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return {
        "label": label,
        "train_solver": {"method": "euler", "steps": train_steps},
        "train_method": "euler",
        "train_steps": train_steps,
        "adaptation": None,
        "test_solver": {"method": method} | ({"rtol": 1e-5, "atol": 1e-5} if steps is None else {"steps": steps}),
        "test_method": method,
        "test_steps": steps,
        "nfe": 4 * (steps or 10) if method == "rk4" else (steps or 77),
        "accuracy": {"mean": mean, "sd": sd, "n": len(values), "by_seed": by_seed},
        "flip_rate": {"mean": 0.0, "sd": None, "n": 0, "by_seed": {}},
        "failed_seeds": [],
    } | parts


ROWS = [
    study_row(f"euler-{train}", train, method, steps, {"0": 0.9, "1": 0.7 + 0.05 * (train == steps)})
    for train in (2, 64)
    for method in ("euler", "rk4")
    for steps in (2, 64)
]


def test_panels_are_test_methods_and_curves_training_configurations() -> None:
    svg = to_svg(accuracy_of_study(ROWS).document())

    for text in ("tested with euler", "tested with rk4", "euler-2", "euler-64", "steps of the test solver"):
        assert f">{text}<" in svg
    assert "2 seeds" in svg


def test_the_mean_lies_within_a_band_of_a_standard_deviation_and_every_seed_is_a_point() -> None:
    tables = accuracy_of_study(ROWS).canvas.tables

    row = next(row for row in tables["euler 1"] if row["label"] == "euler-2" and row["x"] == 64)
    assert row["accuracy"] == pytest.approx(0.8)
    assert (row["low"], row["high"]) == pytest.approx((0.8 - 0.1414, 0.8 + 0.1414), abs=1e-4)
    seeds = [seed["accuracy"] for seed in tables["seeds 1"] if seed["label"] == "euler-2" and seed["x"] == 64]
    assert seeds == [0.9, 0.7]


def test_the_solver_of_the_training_is_ringed() -> None:
    own = accuracy_of_study(ROWS).canvas.tables["own 1"]

    assert [(row["label"], row["x"]) for row in own] == [("euler-2", 2), ("euler-64", 64)]


def test_of_tolerances_only_those_of_the_training_are_ringed() -> None:
    def solver(tolerance: float) -> dict[str, Any]:
        return {"method": "dopri5", "rtol": tolerance, "atol": tolerance}

    rows = [
        study_row("dopri5", 0, "dopri5", None, {"0": 0.9}, nfe=nfe)
        | {"train_method": "dopri5", "train_steps": None}
        | {"train_solver": solver(1e-3), "test_solver": solver(tolerance)}
        for nfe, tolerance in ((20.0, 1e-2), (40.0, 1e-3), (80.0, 1e-4))
    ]

    assert [row["x"] for row in accuracy_of_study(rows, "nfe").canvas.tables["own 1"]] == [40.0]


def test_where_the_step_was_adapted_no_solver_is_the_one_of_the_training() -> None:
    adapted = [row | {"adaptation": {"kind": "step"}, "train_steps": None} for row in ROWS]

    assert "own 1" not in accuracy_of_study(adapted).canvas.tables


def test_where_the_step_was_adapted_ticks_show_with_which_steps_each_seed_ended() -> None:
    by_seed = {"0": 63, "1": 512}
    adapted = [
        row | {"adaptation": {"kind": "step"}, "train_steps": None, "final_steps": {"by_seed": by_seed}} for row in ROWS
    ]

    figure = accuracy_of_study(adapted)

    ends = [(row["label"], row["seed"], row["x"]) for row in figure.canvas.tables["ends 1"]]
    assert ends == [(label, seed, steps) for label in ("euler-2", "euler-64") for seed, steps in by_seed.items()]
    assert "ends 2" not in figure.canvas.tables  # not among the tests with another method
    assert "ticks: the steps each training ended with" in figure.subtitle
    assert "ends 1" not in accuracy_of_study(adapted, "nfe").canvas.tables


def drawn_panels(configurations: int, methods: tuple[str, ...] = ("euler", "rk4")) -> dict[str, dict[str, Any]]:
    """The panels of a study of two seeds by the text above them."""
    rows = [
        study_row(f"euler-{steps}", steps, method, steps, {"0": 0.9, "1": 0.7})
        for steps in range(1, configurations + 1)
        for method in methods
    ]
    panels = accuracy_of_study(rows).document()["concat"]
    return {panel["title"]["text"]: panel for panel in panels}


def marks(panel: dict[str, Any]) -> set[str]:
    return {layer["mark"]["type"] for layer in panel["layer"]}


def curves(panel: dict[str, Any]) -> str:
    return next(layer["encoding"]["color"]["field"] for layer in panel["layer"] if layer["mark"]["type"] == "line")


def test_few_configurations_share_the_panel_of_a_test_method() -> None:
    panels = drawn_panels(4)

    assert list(panels) == ["tested with euler", "tested with rk4"]
    assert all(curves(panel) == "label" and "area" in marks(panel) for panel in panels.values())


def test_many_configurations_have_a_panel_each_in_which_the_test_methods_are_curves() -> None:
    panels = drawn_panels(16)

    assert list(panels) == [f"trained with euler-{steps}" for steps in range(1, 17)]
    assert all(curves(panel) == "method" and "area" in marks(panel) for panel in panels.values())


def test_where_a_panel_has_many_curves_the_seeds_alone_show_how_they_scatter() -> None:
    panels = drawn_panels(5, ("euler", "midpoint", "rk4", "heun3", "ralston"))

    assert all(marks(panel) == {"point", "line"} for panel in panels.values())


def test_a_picture_has_an_end() -> None:
    assert len(drawn_panels(70, ("euler",))) == 60


def test_the_axis_can_be_evaluations() -> None:
    figure = accuracy_of_study(ROWS, "nfe")

    assert sorted({row["x"] for row in figure.canvas.tables["rk4 1"]}) == [8, 256]
    assert "evaluations of the field" in to_svg(figure.document())


def test_solvers_with_tolerances_appear_where_the_axis_is_evaluations() -> None:
    rows = [*ROWS, study_row("euler-2", 2, "dopri5", None, {"0": 0.5})]

    for figure in (accuracy_of_study(rows, "nfe"), accuracy_of_study(rows)):
        assert [row["x"] for row in figure.canvas.tables["dopri5 1"]] == [77]
        assert "left out" not in figure.subtitle


def test_solvers_with_tolerances_that_are_left_out_are_counted_below_the_title() -> None:
    adaptive = [
        study_row(label, steps, "dopri5", None, {"0": 0.5}, test_solver={"method": "dopri5", "rtol": rtol})
        for label, steps in (("euler-2", 2), ("euler-64", 64))
        for rtol in (1e-3, 1e-5)
    ]

    figure = accuracy_of_study([*ROWS, *adaptive], "steps")

    assert "dopri5 1" not in figure.canvas.tables
    assert "left out: 2 test solvers with tolerances" in figure.subtitle
    assert f">{figure.subtitle}<" in to_svg(figure.document())
    assert "left out" not in accuracy_of_study(ROWS, "steps").subtitle


def test_failed_runs_are_counted_in_the_title() -> None:
    rows = [row | {"failed_seeds": [3]} if row["label"] == "euler-2" else row for row in ROWS]

    assert "1 runs failed" not in accuracy_of_study(ROWS).title
    assert "(1 run failed)" in accuracy_of_study(rows).title


def test_rows_without_any_accuracy_are_nothing_to_draw() -> None:
    with pytest.raises(NothingToDraw, match="no test has given an accuracy"):
        accuracy_of_study([study_row("euler-2", 2, "rk4", 2, {})])


def test_solvers_with_tolerances_alone_have_no_steps_to_be_drawn_against() -> None:
    with pytest.raises(NothingToDraw, match="x=nfe"):
        accuracy_of_study([study_row("euler-2", 2, "dopri5", None, {"0": 0.5})], "steps")


def test_a_study_without_a_tested_model_says_so() -> None:
    chart = find_chart("study", "accuracy")

    assert chart is not None
    with pytest.raises(NothingToDraw, match="no model of the study has been tested yet"):
        chart.draw(Material())


def test_a_study_finds_its_chart_in_the_catalogue() -> None:
    chart = find_chart("study", "accuracy")

    assert chart is not None
    assert chart.draw(Material(study=ROWS, x="nfe")).canvas.tables.keys() >= {"euler 1", "rk4 1"}
