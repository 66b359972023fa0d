"""A training under adaptation, from its metric series."""

import re

import pytest

from api.charts.adaptation import step_adaptation, tolerance_adaptation
from api.charts.material import NothingToDraw
from api.charts.render import to_svg
from api.charts.training_curves import Series, smoothed

SERIES: Series = {
    "train_accuracy": [(k, 0.5 + k / 800) for k in range(1, 401)],
    "steps": [(k, 8.0 if k < 200 else 16.0) for k in range(1, 401)],
    "nfe": [(k, 8.0) for k in range(1, 401)],
    "tolerance": [(k, 1e-6 if k < 200 else 5e-7) for k in range(1, 401)],
    "adaptation_accepted": [(100, 1.0), (200, 0.0), (300, 1.0)],
}


def test_checks_stand_on_the_line_of_the_steps_with_their_decision() -> None:
    tables = step_adaptation(SERIES, "m").canvas.tables

    assert [(row["iteration"], row["value"], row["decision"]) for row in tables["checks 1"]] == [
        (100, 8, "accepted"),
        (200, 16, "rejected"),
        (300, 8 * 2, "accepted"),
    ]
    assert [(row["iteration"], row["value"]) for row in tables["steps 1"]] == [(1, 8), (200, 16), (400, 16)]


def test_differences_are_shown_where_there_are_some() -> None:
    figure = step_adaptation(dict(SERIES) | {"adaptation_difference": [(100, 0.02), (200, 0.3)]}, "m")

    assert [row["value"] for row in figure.canvas.tables["differences 1"]] == [0.02, 0.3]
    assert ">difference<" in to_svg(figure.document())


def test_the_limit_asked_for_is_drawn_with_its_value_where_it_is_known() -> None:
    differing = dict(SERIES) | {"adaptation_difference": [(100, 0.02)]}
    flipping = dict(SERIES) | {"adaptation_flip_rate": [(100, 0.01)]}

    assert ">threshold 7.5 %<" in to_svg(step_adaptation(differing, "m", {"threshold": 0.075}).document())
    assert ">epsilon 2 %<" in to_svg(step_adaptation(flipping, "m", {"epsilon": 0.02}).document())
    assert "threshold 1" not in step_adaptation(differing, "m").canvas.tables


def test_iterations_stand_below_one_another_in_all_panels() -> None:
    svg = to_svg(step_adaptation(dict(SERIES) | {"adaptation_difference": [(100, 0.02)]}, "m").document())

    ticks = re.findall(r"translate\(([\d.]+),[\d.]+\)[^>]*>100</text>", svg)
    assert len(ticks) == 3
    assert len(set(ticks)) == 1


def test_the_check_of_untrained_weights_is_not_shown_as_certified() -> None:
    rates = {"adaptation_flip_rate": [(0, 0.0), (100, 0.0)], "certified": [(0, 1.0), (100, 1.0)]}

    figure = step_adaptation(dict(SERIES) | rates, "m")

    certificates = [row["certificate"] for row in figure.canvas.tables["flip rates 1"]]
    assert certificates == ["untrained, never exported", "certified"]
    assert ">untrained, never exported<" in to_svg(figure.document())


def test_a_certified_adaptation_shows_its_flip_rates_up_to_their_bound() -> None:
    certified = {
        "adaptation_flip_rate": [(100, 0.0), (200, 0.05)],
        "adaptation_flip_rate_upper": [(100, 0.004), (200, 0.08)],
        "certified": [(100, 1.0), (200, 0.0)],
    }

    figure = step_adaptation(dict(SERIES) | certified, "m")

    rows = figure.canvas.tables["flip rates 1"]
    assert [(row["value"], row["upper"], row["certificate"]) for row in rows] == [
        (0.0, 0.004, "certified"),
        (0.05, 0.08, "not certified"),
    ]
    svg = to_svg(figure.document())
    assert ">certified<" in svg
    assert ">accepted<" in svg


def test_tolerance_and_evaluations_are_drawn_below_the_accuracy() -> None:
    figure = tolerance_adaptation(SERIES, "m")

    svg = to_svg(figure.document())
    for title in ("accuracy on the batch", "tolerance", "evaluations of the field"):
        assert f">{title}<" in svg
    assert [row["decision"] for row in figure.canvas.tables["checks 1"]] == ["accepted", "rejected", "accepted"]


def test_a_training_without_adaptation_is_nothing_to_draw() -> None:
    plain = {name: SERIES[name] for name in ("train_accuracy", "steps")}

    with pytest.raises(NothingToDraw, match="adaptation"):
        step_adaptation(plain, "m")
    with pytest.raises(NothingToDraw, match="tolerance"):
        tolerance_adaptation(plain, "m")


def test_a_certified_adaptation_of_the_tolerance_shows_its_flip_rates_and_epsilon() -> None:
    certified = {
        "adaptation_flip_rate": [(100, 0.0), (200, 0.05)],
        "adaptation_flip_rate_upper": [(100, 0.004), (200, 0.08)],
        "certified": [(100, 1.0), (200, 0.0)],
    }

    figure = tolerance_adaptation(dict(SERIES) | certified, "m", {"epsilon": 0.02})

    rows = figure.canvas.tables["flip rates 1"]
    assert [(row["value"], row["upper"], row["certificate"]) for row in rows] == [
        (0.0, 0.004, "certified"),
        (0.05, 0.08, "not certified"),
    ]
    svg = to_svg(figure.document())
    assert ">flip rate<" in svg
    assert ">epsilon 2 %<" in svg
    assert ">accepted<" in svg


def test_means_over_windows_keep_the_mean_and_short_series_as_they_are() -> None:
    rows = [{"iteration": k, "value": float(k)} for k in range(1, 1001)]

    means = smoothed(rows)

    assert len(means) == 50
    assert sum(row["value"] for row in means) / 50 == 500.5
    assert smoothed(rows[:60]) == rows[:60]
