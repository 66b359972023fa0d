"""The tables, from findings whose means, deviations and brackets are worked out by hand."""

from dataclasses import replace
from typing import Any

import pytest

from api.paper.findings import Configuration, Findings, JobFindings, TrainedSeed
from api.paper.preset import Options, PaperNumbers, find_preset
from api.paper.presets import PRESETS, SPHERE2_NUMBERS
from api.paper.seed_statistics import OverSeeds, percent, spread
from api.paper.table import Table
from api.paper.tables import tables_of
from api.paper.training_grid import (
    BY_ACCURACY,
    BY_FLIPS,
    bracket_in_words,
    critical_bracket,
    critical_table,
    trained_steps,
    training_grid_table,
)
from ode_core.specs import Bracket
from tests.api.paper.fixture_findings import CONVERGED, row, study_of, trained_with


def cells(table: Table, first: str) -> tuple[str, ...]:
    (found,) = (cells for cells in table.rows if cells[0] == first)
    return found


class TestSpread:
    def test_is_mean_and_sample_deviation(self) -> None:
        # (1 + 2 + 6) / 3 = 3; (4 + 1 + 9) / 2 = 7
        numbers = OverSeeds.of([1.0, 2.0, 6.0])
        assert numbers.mean == 3.0
        assert numbers.deviation == pytest.approx(7**0.5)
        assert spread([1.0, 2.0, 6.0], digits=2) == "3.00 ± 2.65"

    def test_of_one_number_has_no_deviation(self) -> None:
        assert percent([0.987]) == "98.7"

    def test_tells_what_is_missing_and_leaves_it_out_of_the_mean(self) -> None:
        assert spread([1.0, None, 3.0]) == "2.0 ± 1.4 (1 missing)"
        assert spread([None, float("nan")]) == "- (2 missing)"
        assert spread([]) == "-"


class TestTrainingGrid:
    # Trained with 16 steps the accuracy drops by 0.4 and 0.2; with 32 by 0.1 (just allowed) and 0.05 with 6 and 3 % of
    # the predictions changed; with 64 by 0.01 and 0 with 2 and 1 % changed.
    study = study_of(
        trained_with(64, {0: (0.99, 0.98, 0.02), 1: (0.97, 0.97, 0.01)}),
        trained_with(16, {0: (0.99, 0.59, 0.45), 1: (0.97, 0.77, 0.30)}),
        trained_with(32, {0: (0.99, 0.89, 0.06), 1: (0.97, 0.92, 0.03)}),
    )

    def test_is_ordered_by_steps_with_means_and_deviations(self) -> None:
        table = training_grid_table(self.study)

        assert [cells[0] for cells in table.rows] == ["euler-16", "euler-32", "euler-64"]
        # deviations: 0.02 / sqrt(2) = 0.0141; 0.18 / sqrt(2) = 0.1273; 0.2 / sqrt(2) = 0.1414; 0.15 / sqrt(2) = 0.1061
        assert cells(table, "euler-16")[1:5] == ("98.0 ± 1.4", "68.0 ± 12.7", "30.0 ± 14.1", "37.5 ± 10.6")
        assert table.columns[2] == "accuracy, rk4-512"

    def test_says_which_seeds_change_too_many_predictions(self) -> None:
        table = training_grid_table(self.study)

        assert cells(table, "euler-16")[5:] == ("no", "no (seeds 0, 1)")
        assert cells(table, "euler-32")[5:] == ("yes", "no (seeds 0, 1)")
        assert cells(table, "euler-64")[5:] == ("yes", "yes")

    def test_brackets_the_critical_step_by_both_criteria(self) -> None:
        trained = trained_steps(self.study.configurations)

        assert critical_bracket(trained, BY_ACCURACY) == Bracket(16, 32)
        assert critical_bracket(trained, BY_FLIPS) == Bracket(32, 64)

        table = critical_table(trained, SPHERE2_NUMBERS)
        assert [row[1:] for row in table.rows] == [
            ("between 16 and 32", "between 65 and 129"),
            ("between 32 and 64", "-"),
            ("98.0 ± 1.4", "98.7 ± 1.0"),
        ]

    def test_one_seed_that_fails_makes_its_step_fail(self) -> None:
        study = study_of(
            trained_with(1, {0: (0.99, 0.99, 0.0), 1: (0.99, 0.70, 0.3)}),
            trained_with(2, {0: (0.99, 0.99, 0.0), 1: (0.99, 0.99, 0.0)}),
        )
        trained = trained_steps(study.configurations)
        assert critical_bracket(trained, BY_ACCURACY) == Bracket(1, 2)

    def test_a_seed_that_diverged_is_shown_and_makes_its_step_fail(self) -> None:
        study = study_of(trained_with(1, {0: (0.9, 0.9, 0.0), 1: None}), trained_with(2, {0: (0.9, 0.9, 0.0)}))

        tables = tables_of(find_preset(PRESETS, "euler-grid"), Findings((study,)))

        assert cells(tables[0], "euler-1")[1] == "90.0 (1 missing)"
        assert cells(tables[0], "euler-1")[6] == "no (seed 1)"
        assert critical_bracket(trained_steps(study.configurations), BY_ACCURACY) == Bracket(1, 2)
        assert tables[-1].rows == (("euler-1", "1", "in iteration 3 the loss is not finite"),)

    def test_a_finer_step_that_fails_counts_more_than_a_coarser_one_that_passes(self) -> None:
        good, bad = {0: (0.9, 0.9, 0.0)}, {0: (0.9, 0.5, 0.4)}
        study = study_of(trained_with(1, good), trained_with(2, bad), trained_with(4, good), trained_with(8, good))
        assert critical_bracket(trained_steps(study.configurations), BY_ACCURACY) == Bracket(2, 4)

    def test_a_bracket_is_told_in_function_evaluations_of_the_method(self) -> None:
        assert bracket_in_words(Bracket(8, 16), "euler") == "between 8 and 16"
        assert bracket_in_words(Bracket(8, 16), "midpoint") == "between 16 and 32"
        assert bracket_in_words(Bracket(8, 16), "rk4") == "between 32 and 64"
        assert bracket_in_words(Bracket(None, 1), "rk4") == "at most 4"
        assert bracket_in_words(Bracket(32, None), "euler") == "more than 32"
        assert bracket_in_words(Bracket(None, None), "euler") == "-"

    def test_without_the_papers_numbers_the_table_has_dashes(self) -> None:
        table = critical_table(trained_steps(self.study.configurations), PaperNumbers())
        assert [row[2] for row in table.rows] == ["-", "-"]


def adapted(
    label: str, rule: dict[str, Any], seeds: dict[int, tuple[int, float, float, dict[str, Any]]]
) -> Configuration:
    """Seed -> steps at the end, accuracy, flip rate under the converged solver, the adaptation's own facts."""
    trained, rows = [], []
    for seed, (steps, accuracy, flips, facts) in seeds.items():
        solver = {"method": "euler", "steps": steps}
        own = {
            "test_accuracy": accuracy,
            "mean_training_evaluations": float(steps),
            "adaptation_evaluations": 5000.0,
            "iterations": 1000,
            "adaptation": facts,
        }
        trained.append(TrainedSeed(label, seed, "m", seed + 1, solver, own))
        rows.append(row(seed, solver, CONVERGED, accuracy - 0.01, flips))
    training = {
        "dataset": {"kind": "concentric_spheres"},
        "solver": {"method": "euler", "steps": 16},
        "adaptation": rule,
        "gradient": "backprop",
    }
    return Configuration(label, training, tuple(trained), (), tuple(rows))


def test_adaptation_is_shown_with_its_cost_its_end_and_the_papers_numbers() -> None:
    study = study_of(
        adapted("talk", {"kind": "step"}, {0: (90, 0.98, 0.02, {}), 1: (110, 0.99, 0.05, {})}),
        adapted(
            "certified",
            {"kind": "certified"},
            {
                0: (120, 0.97, 0.01, {"certified": True, "certified_iteration": 950}),
                1: (200, 0.98, 0.0, {"certified": False, "certified_iteration": None}),
            },
        ),
    )

    (table,) = tables_of(find_preset(PRESETS, "step-adaptation"), Findings((study,)))

    # 20 / sqrt(2) = 14.1; 80 / sqrt(2) = 56.6; checks: 5000 / 1000
    assert cells(table, "talk")[1:5] == ("100.0 ± 14.1", "5.0 ± 0.0", "90, 110", "98.5 ± 0.7")
    assert cells(table, "talk")[5:] == ("97.5 ± 0.7", "3.5 ± 2.1", "1 of 2", "-")
    assert cells(table, "certified")[1] == "160.0 ± 56.6"
    assert cells(table, "certified")[7:] == ("2 of 2", "1 of 2")
    assert cells(table, "the paper") == ("the paper", "100.5", "-", "-", "98.9 ± 0.6", "-", "-", "-", "-")


def test_an_old_certificate_is_told_with_its_iteration_and_a_model_at_chance_counts_for_nothing() -> None:
    facts = {"certified": True, "certified_iteration": 100}
    study = study_of(adapted("certified", {"kind": "certified"}, {0: (56, 0.51, 0.01, facts)}))

    (table,) = tables_of(find_preset(PRESETS, "step-adaptation"), Findings((study,)))

    assert cells(table, "certified")[7:] == ("0 of 1", "1 of 1 (iteration 100 of 1,000)")


def test_adapted_tolerances_are_shown_for_each_seed() -> None:
    configuration = adapted("tolerance", {"kind": "tolerance"}, {0: (90, 0.98, 0.02, {})})
    seed = replace(configuration.seeds[0], solver={"method": "dopri5", "rtol": 1.23e-5, "atol": 1.23e-5})

    study = study_of(replace(configuration, seeds=(seed,)))

    (table,) = tables_of(find_preset(PRESETS, "tolerance-adaptation"), Findings((study,)))
    assert cells(table, "tolerance")[3] == "1.2e-05"


def test_a_search_is_shown_with_its_bracket_and_the_runs_it_saved() -> None:
    (spec,) = find_preset(PRESETS, "critical-step").studies(Options())
    lost = {"passes": False, "train_accuracy": None, "test_accuracy": None, "flip_rate": None, "reason": "diverged"}

    def seed(train: float, test: float) -> dict[str, Any]:
        return {
            "passes": train - test <= 0.1,
            "train_accuracy": train,
            "test_accuracy": test,
            "flip_rate": 0.25,
            "reason": None,
        }

    found = {
        "finished": True,
        "not_measured": [{"steps": 128, "seeds": [0, 1], "reason": "the worker was lost"}],
        "bracket": {"last_failing": 32, "first_passing": 64},
        "checked": [
            {"steps": 16, "passes": False, "by_seed": {"0": seed(0.55, 0.55) | {"passes": False}, "1": seed(0.9, 0.9)}},
            {"steps": 32, "passes": False, "by_seed": {"0": seed(0.99, 0.69), "1": lost}},
            {"steps": 64, "passes": True, "by_seed": {"0": seed(0.99, 0.95), "1": seed(0.97, 0.93)}},
        ],
        "monotone": False,
        "violations": [{"seed": 1, "passes_at": 4, "fails_at": 32}],
        "runs": 20,
        "full_grid_runs": 45,
        "runs_saved": 25,
    }
    study = study_of(spec=spec.document(), search=found)

    checked, critical = tables_of(find_preset(PRESETS, "critical-step"), Findings((study,)))

    assert cells(checked, "euler-32")[1:] == (
        "99.0 (1 missing)",
        "69.0 (1 missing)",
        "25.0 (1 missing)",
        "no (seed 0 changed; seed 1 diverged)",
    )
    assert cells(checked, "euler-16")[-1] == "no (seed 0 below 60 %)"  # two classes: guessing and the threshold
    assert "at least 60 %" in checked.notes[0]
    assert "euler-128 was not measured with seeds 0, 1: the worker was lost" in checked.notes
    assert cells(checked, "euler-64")[1:] == ("98.0 ± 1.4", "94.0 ± 1.4", "25.0 ± 0.0", "yes")
    assert "Seed 1 passes with 4 steps and fails with 32" in " ".join(checked.notes)
    assert [row[1:] for row in critical.rows] == [
        ("between 32 and 64", "between 65 and 129"),
        ("20", "-"),
        ("25 of 45", "-"),
    ]


def test_a_search_that_has_not_finished_has_saved_nothing_yet() -> None:
    (spec,) = find_preset(PRESETS, "critical-step").studies(Options())
    found = {
        "finished": False,
        "bracket": {"last_failing": None, "first_passing": None},
        "checked": [],
        "not_measured": [{"steps": 16, "seeds": [0], "reason": "the worker was lost"}],
        "monotone": True,
        "violations": [],
        "runs": 1,
        "full_grid_runs": 9,
        "runs_saved": None,
    }
    study = study_of(spec=spec.document(), search=found)

    _, critical = tables_of(find_preset(PRESETS, "critical-step"), Findings((study,)))

    assert cells(critical, "trainings saved of the whole grid")[1] == "-"
    assert cells(critical, "critical function evaluations")[1] == "-"


def portrait(label: str, result: dict[str, Any]) -> JobFindings:
    return JobFindings({"kind": "portrait", "id": "a-job"}, label, 0, result)


def test_the_fan_is_separable_where_the_margin_is_above_zero() -> None:
    def view(label: str, step: float, margin: float) -> dict[str, Any]:
        return {"label": label, "step": step, "separation": {"relative_margin": margin}}

    result = {
        "views": [view("euler-1265", 4 / 1265, 0.417), view("euler-12649", 4 / 12649, -0.319)],
        "reference": {"separation": {"relative_margin": -0.381}},
    }
    own = {"method": "euler", "steps": 1265}
    configuration = replace(trained_with(1265, {0: (1.0, 0.5, 0.5)}), rows=(row(0, own, own, 1.0, 0.0),))

    fan, heads = tables_of(
        find_preset(PRESETS, "xor-fan"), Findings((study_of(configuration),), (portrait("euler-1265", result),))
    )

    assert [row[1:] for row in fan.rows] == [
        ("0.00316", "+0.42", "yes", "+0.42"),
        ("0.000316", "-0.32", "no", "-0.32"),
        ("-", "-0.38", "no", "-0.38"),
    ]
    assert (heads.columns, heads.rows) == (("trained with", "tested with euler-1265"), (("euler-1265", "100"),))


def test_the_heads_of_several_seeds_are_averaged_and_the_failed_are_told() -> None:
    own = {"method": "euler", "steps": 1265}
    rows = tuple(row(seed, own, own, accuracy, 0.0) for seed, accuracy in ((0, 1.0), (1, 0.5)))
    configuration = trained_with(1265, {0: (1.0, 0.5, 0.5), 1: (0.5, 0.5, 0.0), 2: None})
    study = study_of(replace(configuration, rows=rows))

    heads = tables_of(find_preset(PRESETS, "xor-fan"), Findings((study,)))[1]

    # of 100 and 50: mean 75, deviation 50 / sqrt(2)
    assert heads.rows == (("euler-1265", "75 ± 35 (1 missing)"),)


def test_trajectories_are_shown_with_crossings_and_the_predictions_that_change() -> None:
    def view(label: str, predictions: list[int], crossings: int, accuracy: float) -> dict[str, Any]:
        return {
            "label": label,
            "accuracy": accuracy,
            "final": {"predictions": predictions},
            "crossings": {"count": crossings, "of_exact_points": 3},
        }

    result = {
        "views": [view("euler-2", [0, 1, 1, 0], 7, 1.0), view("euler-4", [0, 0, 1, 1], 5, 0.5)],
        "reference": view("", [1, 0, 0, 1], 0, 0.0),
    }
    study = study_of(trained_with(2, {0: (1.0, 0.0, 1.0)}))

    tables = tables_of(find_preset(PRESETS, "trajectories"), Findings((study,), (portrait("euler-2", result),)))

    assert tables[0].rows == (
        ("euler-2", "euler-2", "100.0", "0 of 4", "7", "3"),
        ("euler-2", "euler-4", "50.0", "2 of 4", "5", "3"),
        ("euler-2", "exact flow", "0.0", "4 of 4", "-", "-"),
    )


def test_audits_are_shown_with_interval_and_verdict() -> None:
    result = {
        "verdict": "ode",
        "train_accuracy": 0.95,
        "reference_accuracy": 0.949,
        "flip_rate": 0.001,
        "flip_interval": [0.00003, 0.0056],
    }
    audit = JobFindings({"kind": "audit", "id": "a-job"}, "rk4-32", 2, result)

    table = tables_of(find_preset(PRESETS, "three-minima"), Findings((study_of(),), (audit,)))[0]

    assert table.rows == (("rk4-32", "2", "95.0", "94.9", "0.10 (0.00 to 0.56)", "an ODE"),)


def mechanism_audit(seed: int, *, turned: float | None, tried: dict[str, float], verdict: str) -> JobFindings:
    solver = {"method": "euler", "steps": 8}
    kind = {"iterates-4": ("iterates", 4), "series-3": ("series", 3)}
    return JobFindings(
        {"kind": "audit", "id": f"audit-{seed}"},
        "euler-8",
        seed,
        {
            "verdict": verdict,
            "train_accuracy": 0.99,
            "reference_accuracy": 0.5 + 0.1 * seed,
            "flip_rate": 0.4 + 0.1 * seed,
            "mechanism": {
                "crossing": {"flagged_share": 0.1 * seed},
                "split": {"by_flips": {"crossing": 0.2 * seed, "accumulation": 1 - 0.2 * seed}},
                "when": {"end_time": 2.0, "turned": None if turned is None else {"median": turned}},
            },
            "repair": {
                "tried": [
                    {"spec": {"solver": solver, "kind": kind[name][0], "terms": kind[name][1]}, "accuracy": accuracy}
                    for name, accuracy in tried.items()
                ]
            },
        },
    )


def test_mechanisms_are_shown_over_the_seeds_and_for_each_of_them() -> None:
    audits = (
        mechanism_audit(0, turned=1.0, tried={"iterates-4": 0.6, "series-3": 0.7}, verdict="discrete"),
        mechanism_audit(1, turned=2.0, tried={"iterates-4": 0.8}, verdict="inconclusive"),
    )

    summary, by_seed = tables_of(find_preset(PRESETS, "mechanism"), Findings((study_of(),), audits))[:2]

    # Deviations of two numbers are their difference over the root of 2.
    assert summary.rows == (
        (
            "euler-8",
            "2",
            "99.0 ± 0.0 -> 55.0 ± 7.1",
            "45.0 ± 7.1",
            "5.0 ± 7.1",
            "0.10 ± 0.14",
            "0.90 ± 0.14",
            "0.75 ± 0.35",
            "iterates-4 70.0 ± 14.1, series-3 70.0 (of 1)",
            "not an ODE (1), undecided (1)",
        ),
    )
    assert [row[:2] for row in by_seed.rows] == [("euler-8", "0"), ("euler-8", "1")]
    assert by_seed.rows[0][2] == "99.0 -> 50.0"


def test_an_audit_without_a_mechanism_is_told_as_missing() -> None:
    whole = mechanism_audit(1, turned=None, tried={}, verdict="ode")
    without = replace(whole, seed=2, result={**whole.result, "mechanism": None})

    (row, *_) = tables_of(find_preset(PRESETS, "mechanism"), Findings((study_of(),), (whole, without)))[0].rows

    assert row[4] == "10.0 (1 missing)"
    assert row[7:] == ("- (2 missing)", "-", "an ODE")


def test_gradients_are_shown_side_by_side_with_their_time() -> None:
    def trained(gradient: str, seconds: float) -> Configuration:
        one = trained_with(64, {0: (0.98, 0.95, 0.04)})
        facts = {
            "test_accuracy": 0.98,
            "mean_training_evaluations": 64.0,
            "training_seconds": seconds,
            "iterations": 100,
        }
        return replace(one, training=one.training | {"gradient": gradient}, seeds=(replace(one.seeds[0], facts=facts),))

    studies = (study_of(trained("backprop", 1.5)), study_of(trained("adjoint", 4.0)))

    (table,) = tables_of(find_preset(PRESETS, "gradients"), Findings(studies))

    assert table.rows == (
        ("euler-64", "backprop", "98.0", "95.0", "4.0", "64.0", "15.0"),
        ("euler-64", "adjoint", "98.0", "95.0", "4.0", "64.0", "40.0"),
    )
    assert table.columns[5] == "evaluations in the forward solve"
    assert "What the way back evaluates is not in them" in table.notes[0]


class TestTable:
    table = Table("A | B", ("x", "y"), (("1|2", "3"),), ("a note",))

    def test_is_markdown_with_bars_escaped(self) -> None:
        assert self.table.markdown() == "## A | B\n\n| x | y |\n| --- | --- |\n| 1\\|2 | 3 |\n\n* a note\n"

    def test_refuses_a_row_that_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match="1 cells for 2 columns"):
            Table("t", ("x", "y"), (("1",),))
