"""Every preset is a set of studies that the server accepts, whatever variant is asked for."""

from pathlib import Path

import pytest

from api.paper.preset import Options, OptionsDoNotFit, Preset, UnknownPreset, find_preset
from api.paper.presets import FAN_COARSE, FAN_FINE, PRESETS, SPHERE2_NUMBERS
from api.paper.report import what_is_trained
from ode_core.specs import AuditJobSpec, Budget, StudySpec, TrainingJobSpec, check_study_budget

every_preset = pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
both_variants = pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])


@every_preset
@both_variants
def test_a_preset_is_of_valid_studies_within_the_servers_budget(preset: Preset, quick: bool) -> None:
    studies = preset.studies(Options(quick=quick))

    assert studies
    for study in studies:
        assert StudySpec.model_validate(study.document()) == study
        check_study_budget(study, Budget())
        for configuration in study.configurations():
            TrainingJobSpec.model_validate(configuration.training.model_dump(mode="json"))
    names = [study.name for study in studies]
    assert len(set(names)) == len(names)
    assert all(name.endswith(".quick") == quick for name in names)


@every_preset
def test_each_study_is_tested_further_so_that_its_models_can_be_found_and_compared(preset: Preset) -> None:
    for quick in (False, True):
        for study in preset.studies(Options(quick=quick)):
            assert study.sweep is not None
            assert any(solver.method == "rk4" for solver in study.sweep.expand())


@pytest.mark.parametrize(
    "preset",
    # The accuracies of gradients are those its trainings report.
    [preset for preset in PRESETS if preset.table != "gradients"],
    ids=lambda preset: preset.name,
)
def test_a_grid_is_tested_with_the_very_solvers_it_is_trained_with(preset: Preset) -> None:
    for quick in (False, True):
        for study in preset.studies(Options(quick=quick)):
            if study.train is not None and study.adaptations == [None]:
                assert study.sweep is not None
                assert set(study.train.expand()) <= set(study.sweep.expand())


@every_preset
def test_the_quick_variant_is_smaller(preset: Preset) -> None:
    full, quick = (
        sum(one.cost for study in preset.studies(Options(quick=quick)) for one in study.configurations())
        for quick in (False, True)
    )
    assert quick < full / 5


@every_preset
def test_follow_up_jobs_are_valid(preset: Preset) -> None:
    for follow_up in preset.follow_up_jobs(Options(samples=7)):
        if follow_up.job["kind"] == "audit":
            assert AuditJobSpec.model_validate({**follow_up.job, "model": "m", "version": 1}).samples == 7


def test_options_change_seeds_iterations_and_samples_and_nothing_else() -> None:
    preset = find_preset(PRESETS, "euler-grid")
    (plain,) = preset.studies(Options())

    (changed,) = preset.studies(Options(seeds=2, iterations=7, samples=9))

    assert changed.seeds == [0, 1]
    assert changed.base.training.iterations == 7
    assert changed.sweep is not None
    assert changed.sweep.samples == 9
    assert changed.train == plain.train
    assert (plain.seeds, plain.base.training.iterations) == ([0, 1, 2, 3, 4], 10_000)


def test_options_that_do_not_fit_are_refused_with_the_reason() -> None:
    with pytest.raises(OptionsDoNotFit, match="count from 1 to 100"):
        find_preset(PRESETS, "euler-grid").studies(Options(seeds=101))


def test_the_euler_grid_is_the_papers() -> None:
    preset = find_preset(PRESETS, "figure-4a")

    (study,) = preset.studies(Options())

    assert preset.name == "euler-grid"
    assert study.train is not None
    assert [solver.steps for solver in study.train.expand()] == [1, 2, 4, 8, 16, 32, 64, 128]
    training = study.base.training
    assert (training.optimizer, training.learning_rate, training.batch_size) == ("adam", 1e-4, 128)
    assert preset.numbers == SPHERE2_NUMBERS


def test_the_fans_steps_are_the_papers_step_sizes_over_its_time() -> None:
    assert pytest.approx(10**-2.5, rel=1e-3) == 4 / FAN_COARSE
    assert pytest.approx(10**-3.5, rel=1e-4) == 4 / FAN_FINE


def test_a_name_that_is_almost_right_is_answered_with_those_that_are() -> None:
    with pytest.raises(UnknownPreset, match="did you mean euler-grid"):
        find_preset(PRESETS, "euler-gird")
    with pytest.raises(UnknownPreset, match="odeness paper lists all") as raised:
        find_preset(PRESETS, "qqq")
    assert "did you mean" not in str(raised.value)


def test_names_and_aliases_are_unique() -> None:
    names = [name for preset in PRESETS for name in (preset.name, *preset.aliases)]
    assert len(set(names)) == len(names)


@every_preset
def test_the_documentation_has_every_presets_command(preset: Preset) -> None:
    text = (Path(__file__).parents[3] / "docs" / "paper.md").read_text(encoding="utf-8")
    assert f"    odeness paper {preset.name}" in text


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("rk4-grid", "paper.rk4-grid.quick trains rk4-1, rk4-4, rk4-16; 2 seeds, 600 iterations"),
        ("trajectories", "paper.trajectories.quick trains euler-2, euler-64; 1 seed, 600 iterations"),
        (
            "critical-step",
            "paper.critical-step.quick searches among euler-1, euler-2, euler-4, euler-8, euler-16, euler-32; "
            "2 seeds, 600 iterations",
        ),
    ],
)
def test_a_quick_run_says_what_it_trains_rather_than_what_the_whole_preset_does(name: str, trained: str) -> None:
    (study,) = find_preset(PRESETS, name).studies(Options(quick=True))

    assert what_is_trained(study) == trained
