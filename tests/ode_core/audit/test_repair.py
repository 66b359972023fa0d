from dataclasses import replace

import pytest
from scipy.stats import binomtest

from ode_core.audit.advice import advice
from ode_core.audit.diagnosis import modified_fields
from ode_core.audit.repair import Repair, repair_options
from ode_core.audit.rescue import Rescue
from ode_core.audit.verdict import Verdict
from ode_core.specs import (
    Budget,
    CertifiedAdaptation,
    ClassifierSpec,
    ConcentricSpheresSpec,
    GradientMode,
    LocalErrorPenalty,
    MlpField,
    ModifiedFieldSpec,
    Regularisation,
    SolverSpec,
    StartFrom,
    StepJitter,
    TrainingJobSpec,
    TrainingSpec,
    check_start,
)

EULER = SolverSpec(method="euler", steps=16)
TRAINED = TrainingJobSpec(
    name="rings",
    dataset=ConcentricSpheresSpec(train_samples=4000, test_samples=1000),
    model=ClassifierSpec(field=MlpField(hidden=(8,))),
    solver=SolverSpec(method="euler", steps=4),
    training=TrainingSpec(iterations=600),
)
TRIAL = Rescue(
    ModifiedFieldSpec(solver=EULER, kind="iterates"),
    samples=200,
    stopped=False,
    accuracy=0.97,
    score=0.99,
    reason=None,
    agreement=0.995,
    changed=60,
    offered=True,
    unsettled=0,
    evaluations=200.0,
    evaluations_in_field=4,
)
FAILED = replace(TRIAL, score=0.3, offered=False, agreement=0.7)


def repaired(
    *tried: Rescue,
    trained: TrainingJobSpec = TRAINED,
    solver: SolverSpec = EULER,
    verdict: Verdict = "discrete",
    needed: int | None = None,
    is_repair: bool = False,
    **other: object,
) -> Repair:
    settings = {"epsilon": 0.01, "budget": Budget()} | other
    return repair_options(
        trained,
        StartFrom(model="rings", version=3),
        solver,
        settings["epsilon"],  # type: ignore[arg-type]
        200,
        tried,
        None if tried else "the solver chooses its steps itself",
        settings["budget"],  # type: ignore[arg-type]
        verdict=verdict,
        advice=advice(verdict, solver=solver.label, epsilon=0.01, needed=needed, held_out=1000),
        is_repair=is_repair,
    )


def test_the_options_are_in_order_and_the_training_solver_is_always_one() -> None:
    for repair in (repaired(TRIAL), repaired(FAILED), repaired()):
        assert [option.kind for option in repair.options] == ["pin_solver", "modified_field", "fine_tune", "retrain"]
        assert repair.options[0].offered
        assert repair.options[0].solver == EULER


@pytest.mark.parametrize("tried", [[TRIAL], [FAILED], []])
def test_where_nothing_is_decided_the_repair_asks_for_samples_and_calls_the_model_no_network(
    tried: list[Rescue],
) -> None:
    repair = repaired(*tried, verdict="inconclusive", needed=3688)
    assert repair.recommendation.startswith("Audit it with a larger epsilon, or on about 3,688 samples")
    assert "alone" not in repair.recommendation
    pin = repair.options[0].sentence
    assert pin == "Predict with euler-16 alone: always valid, whichever way the verdict falls."


def test_a_version_that_is_itself_a_repair_is_told_from_the_one_it_was_made_from() -> None:
    repair = repaired(is_repair=True)
    pin, field, tune, _ = repair.options
    assert pin.sentence.startswith("Predict with version 3 of rings, of which this version is a repair, and euler-16")
    assert pin.request is not None
    assert pin.request.path == "/v1/models/rings/versions/3/predict"
    assert repair.recommendation.startswith("Predict with version 3 of rings, of which this version is a repair")
    assert "names no solver" not in repair.recommendation
    assert "this version is itself a repair: its field has been exchanged already" in field.sentence
    assert not field.offered
    assert "from the weights of version 3" in tune.sentence


def test_a_verdict_of_no_reference_claims_nothing_in_the_repair() -> None:
    repair = repaired(verdict="unresolved")
    assert repair.recommendation.startswith("Predict with euler-16 alone. Look at the field")
    assert "not an ODE" not in repair.options[0].sentence
    assert "not an ODE" in repaired().options[0].sentence


def test_a_modified_field_that_gives_the_trained_predictions_is_recommended() -> None:
    better = replace(TRIAL, spec=ModifiedFieldSpec(solver=EULER, kind="series"), agreement=1.0)
    repair = repaired(TRIAL, better)
    assert repair.options[1].offered
    assert repair.options[1].modified_field == better.spec
    assert "modified field" in repair.recommendation


def test_what_a_modified_field_gives_back_is_told_with_its_evidence_and_no_verdict() -> None:
    repair = repaired(replace(TRIAL, agreement=198 / 200))
    exact = binomtest(198, 200).proportion_ci(method="exact")
    evidence = f"198 of 200 samples (99.0%, 95% interval {exact.low:.1%} to {exact.high:.1%})"
    for sentence in (repair.recommendation, repair.options[1].sentence):
        assert evidence in sentence
        assert "is then an ODE" not in sentence
        assert "is a flow" not in sentence
        assert "an audit of it decides" in sentence


def test_one_that_does_not_is_told_and_not_offered() -> None:
    repair = repaired(FAILED)
    assert not repair.options[1].offered
    assert repair.options[1].modified_field is None
    assert "30.0%" in repair.options[1].sentence
    assert repair.recommendation.startswith("Predict with euler-16 alone")
    assert "fine-tune" in repair.recommendation


def test_a_trial_that_was_stopped_is_told_as_one_of_few_samples() -> None:
    sentence = repaired(replace(FAILED, samples=20, stopped=True, score=None, agreement=0.1)).options[1].sentence
    assert "10.0% of the 20 samples drawn at random, after which the trial was stopped" in sentence


def test_a_field_that_is_worse_than_the_one_it_replaces_wins_nothing_back() -> None:
    assert "wins back 0.0% of" in repaired(replace(FAILED, score=-0.75)).options[1].sentence


def test_the_trainings_begin_with_the_solver_of_the_version_and_can_be_submitted() -> None:
    _, _, fine_tune, retrain = repaired(FAILED).to_json()["options"]
    tuned, anew = (TrainingJobSpec.model_validate(option["training_job"]) for option in (fine_tune, retrain))
    assert tuned.start_from == StartFrom(model="rings", version=3)
    assert anew.start_from is None
    check_start(tuned, TRAINED)
    for job in (tuned, anew):
        assert job.solver == EULER
        assert isinstance(job.adaptation, CertifiedAdaptation)
        assert job.adaptation.epsilon == 0.01
        assert job.name != "rings"


@pytest.mark.parametrize("epsilon", [0.0005, 0.01, 0.05, 0.5])
@pytest.mark.parametrize("solver", [EULER, SolverSpec(method="dopri5", rtol=0.5, atol=1.0)])
def test_the_certified_rule_takes_any_epsilon_that_the_training_data_can_show(
    epsilon: float, solver: SolverSpec
) -> None:
    large = TRAINED.model_copy(update={"dataset": ConcentricSpheresSpec(train_samples=50_000, test_samples=10)})
    options = repaired(FAILED, trained=large, solver=solver, epsilon=epsilon).options
    assert all(option.offered for option in options[2:])


@pytest.mark.parametrize(
    ("update", "solver", "budget", "words"),
    [
        ({"dataset": ConcentricSpheresSpec(train_samples=80, test_samples=10)}, EULER, Budget(), "audit_samples"),
        ({}, SolverSpec(method="euler", steps=4, backend="torchdiffeq"), Budget(), "torchdiffeq"),
        ({}, EULER, Budget(training_operations=1), "budget"),
    ],
)
def test_a_training_that_would_be_refused_is_not_offered(
    update: dict[str, object], solver: SolverSpec, budget: Budget, words: str
) -> None:
    repair = repaired(FAILED, trained=TRAINED.model_copy(update=update), solver=solver, budget=budget)
    for option in repair.options[2:]:
        assert not option.offered
        assert option.training_job is None
        assert words in option.sentence
    assert "train" not in repair.recommendation.removeprefix("Predict with the training solver")


def test_a_long_name_still_has_one_that_is_allowed() -> None:
    repair = repaired(FAILED, trained=TRAINED.model_copy(update={"name": "a" * 100}))
    assert all(option.offered for option in repair.options[2:])


@pytest.mark.parametrize(
    ("solver", "size", "kinds"),
    [
        (EULER, 2, ["iterates", "iterates", "series"]),
        (EULER, 64, ["iterates", "iterates"]),
        (SolverSpec(method="rk4", steps=4), 2, ["iterates", "iterates"]),
        (SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3), 2, []),
        (SolverSpec(method="euler", step_size=0.3, grid="truncate"), 2, []),
    ],
)
def test_modified_fields_are_tried_for_equal_explicit_steps(solver: SolverSpec, size: int, kinds: list[str]) -> None:
    fields, reason = modified_fields(solver, size)
    assert [field.kind for field in fields] == kinds
    assert (reason is None) == bool(kinds)


def test_a_field_that_gives_the_predictions_back_is_offered_where_no_accuracy_was_lost() -> None:
    option = repaired(replace(TRIAL, score=None, reason="only 3 samples are lost")).options[1]
    assert option.offered
    assert "99.5%" in option.sentence
    assert "wins back" not in option.sentence


def test_where_hardly_a_prediction_changes_there_is_nothing_to_give_back() -> None:
    option = repaired(replace(TRIAL, changed=2, offered=False)).options[1]
    assert not option.offered
    assert "only 2 of the predictions" in option.sentence


def test_every_option_that_is_offered_says_with_which_request_to_take_it() -> None:
    pin, field, tune, anew = (option["request"] for option in repaired(TRIAL).to_json()["options"])
    assert pin == {
        "method": "POST",
        "path": "/v1/models/rings/versions/3/predict",
        "body": {"solver": EULER.document()},
    }
    assert field == {
        "method": "POST",
        "path": "/v1/models/rings/versions",
        "body": {
            "from_version": 3,
            "modified_field": {"solver": {"method": "euler", "steps": 16}, "kind": "iterates"},
        },
    }
    assert [(one["method"], one["path"]) for one in (tune, anew)] == [("POST", "/v1/training-jobs")] * 2
    assert "POST /v1/models/rings/versions" in repaired(TRIAL).recommendation
    assert "POST /v1/training-jobs" in repaired(FAILED).recommendation
    assert repaired(FAILED).to_json()["options"][1]["request"] is None


def test_fine_tuning_euler_begins_with_a_penalty_and_without_checks_and_training_anew_does_not() -> None:
    fine_tune, retrain = repaired(FAILED).options[2:]
    assert fine_tune.training_job is not None
    assert retrain.training_job is not None
    assert fine_tune.training_job.regularisation == Regularisation(local_error=LocalErrorPenalty(weight=1))
    assert isinstance(fine_tune.training_job.adaptation, CertifiedAdaptation)
    assert fine_tune.training_job.adaptation.begin_fraction == 0.5
    assert "penalty" in fine_tune.sentence
    assert retrain.training_job.regularisation is None
    assert isinstance(retrain.training_job.adaptation, CertifiedAdaptation)
    assert retrain.training_job.adaptation.begin_fraction == 0
    assert "penalty" not in retrain.sentence


@pytest.mark.parametrize(
    ("solver", "gradient"),
    [
        (SolverSpec(method="rk4", steps=4), "backprop"),
        (SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3), "backprop"),
        (EULER, "checkpoint"),
    ],
)
def test_fine_tuning_with_what_the_penalty_was_not_tried_with_has_the_certified_rule_alone(
    solver: SolverSpec, gradient: GradientMode
) -> None:
    fine_tune = repaired(FAILED, trained=TRAINED.model_copy(update={"gradient": gradient}), solver=solver).options[2]
    assert fine_tune.training_job is not None
    assert fine_tune.training_job.regularisation is None
    assert isinstance(fine_tune.training_job.adaptation, CertifiedAdaptation)
    assert fine_tune.training_job.adaptation.begin_fraction == 0


def test_training_anew_keeps_the_regularisation_of_the_training() -> None:
    jitter = Regularisation(step_jitter=StepJitter(low=0.5, high=2))
    retrain = repaired(FAILED, trained=TRAINED.model_copy(update={"regularisation": jitter})).options[3]
    assert retrain.training_job is not None
    assert retrain.training_job.regularisation == jitter


def test_a_trial_of_chosen_samples_says_so_and_what_it_means_for_all() -> None:
    field = repaired(replace(TRIAL, agreement_of_all=0.998)).options[1]
    assert "199 of 200 samples looked at, among" in field.sentence
    assert "interval" not in field.sentence  # which would be one of the samples chosen, not of the data
    assert "looked at, among which more change than among all" in field.sentence
    assert "for an estimated 99.8% of all" in field.sentence
    failed = repaired(replace(TRIAL, offered=False, agreement_of_all=0.96)).options[1]
    assert "for an estimated 96.0% of all" in failed.sentence
    assert "would be offered from 99% of the predictions looked at, and of all, or" in failed.sentence
