import pytest
from pydantic import ValidationError

from ode_core.specs import (
    METHODS,
    Budget,
    BudgetExceeded,
    CertifiedAdaptation,
    StepAdaptation,
    TrainingJobSpec,
    check_training_budget,
)
from tests.ode_core.example_job import job

TOLERANCES = {"method": "dopri5", "rtol": 1e-4, "atol": 1e-4}
CERTIFIED = {"kind": "certified"}


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ({"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}, "needs a fixed-step solver"),
        ({"method": "rk4", "steps": 4}, "not for rk4"),
    ],
)
def test_step_adaptation_needs_a_solver_it_knows_a_better_one_for(solver, message):
    with pytest.raises(ValidationError, match=message):
        job(solver=solver)
    assert job(solver=solver, adaptation=None).adaptation is None


@pytest.mark.parametrize(
    "solver",
    [
        {"method": "euler", "step_size": 0.3, "grid": "truncate"},
        {"method": "euler", "steps": 2, "backend": "torchdiffeq"},
    ],
)
def test_step_adaptation_refuses_a_grid_and_a_backend_that_it_would_not_keep(solver):
    with pytest.raises(ValidationError, match="leave out grid truncate and backend torchdiffeq"):
        job(solver=solver)
    job(solver=solver, adaptation=None)


def test_a_stored_step_adaptation_is_read_as_it_was_written():
    stored = {"kind": "step", "rule": "look_ahead", "interval": 7, "threshold": 0.05, "growth": 1.2, "max_steps": 64}
    spec = job(adaptation=stored | {"settle_fraction": 0.2}).adaptation
    assert isinstance(spec, StepAdaptation)
    assert spec.model_dump() == stored | {"settle_fraction": 0.2, "ceiling": "clamp"}


@pytest.mark.parametrize(
    ("adaptation", "solver", "message"),
    [
        ({"kind": "tolerance"}, {"method": "euler", "steps": 2}, "needs a solver with tolerances: give rtol and atol"),
        ({"kind": "tolerance"}, TOLERANCES | {"method": "tsit5"}, "for fehlberg2 and dopri5, not for tsit5"),
        ({"kind": "tolerance"}, TOLERANCES | {"atol": 1e-5}, "give rtol and atol the same value"),
        ({"kind": "tolerance"}, TOLERANCES | {"backend": "torchdiffeq"}, "leave out backend torchdiffeq"),
        ({"kind": "tolerance", "max_tolerance": 1e-5}, TOLERANCES, "above max_tolerance 1e-05: begin with smaller"),
        (CERTIFIED, {"method": "euler", "steps": 501}, "begins with the solver's 501 steps.* max_steps 500"),
        (CERTIFIED | {"min_steps": 4}, {"method": "euler", "steps": 2}, "2 steps, but min_steps is 4"),
        (CERTIFIED | {"min_steps": 4, "max_steps": 3}, {"method": "euler", "steps": 4}, "min_steps 4 is above"),
        (CERTIFIED, {"method": "trapezoid", "steps": 4}, "explicit methods, not for trapezoid"),
        (CERTIFIED, {"method": "explicit_adams", "steps": 4}, "leave out grid truncate and backend torchdiffeq"),
        (CERTIFIED, {"method": "euler", "step_size": 0.3, "grid": "truncate"}, "leave out grid truncate"),
        (CERTIFIED | {"max_tolerance": 1e-5}, TOLERANCES, "above max_tolerance"),
        (CERTIFIED | {"climb_threshold": 0.02}, {"method": "euler", "steps": 2}, "must be well below epsilon"),
        (
            CERTIFIED | {"audit_samples": 490},
            {"method": "euler", "steps": 2},
            # 0.025^(1/490) = 1 - 0.00750009
            "490 audit_samples cannot show .*: take at least 491 audit_samples",
        ),
        ({"kind": "unknown"}, {"method": "euler", "steps": 2}, "'step', 'tolerance', 'certified'"),
    ],
)
def test_an_adaptation_that_cannot_be_says_what_to_do(adaptation, solver, message):
    with pytest.raises(ValidationError, match=message):
        job(adaptation=adaptation, solver=solver)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun3", "rk4", "dopri5", "asynchronous_leapfrog"])
def test_the_certified_rule_takes_every_method_that_makes_explicit_steps(method):
    assert job(adaptation=CERTIFIED, solver={"method": method, "steps": 8}).adaptation is not None


@pytest.mark.parametrize("method", [name for name, facts in METHODS.items() if facts.adaptive and name != "kvaerno3"])
def test_the_certified_rule_takes_explicit_methods_with_tolerances(method):
    job(adaptation=CERTIFIED, solver=TOLERANCES | {"method": method})


@pytest.mark.parametrize("limit", ["train_samples", "train_limit"])
def test_an_audit_batch_of_more_than_half_of_the_data_is_refused(limit):
    kind = {"train_samples": "concentric_spheres", "train_limit": "mnist"}[limit]
    model = {"kind": "classifier", "field": {"kind": "mlp", "hidden": [4]}}
    job(adaptation=CERTIFIED, dataset={"kind": kind, limit: 1000}, model=model)
    with pytest.raises(ValidationError, match=r"500 are held out .*, which has 999 samples: take at most 499"):
        job(adaptation=CERTIFIED, dataset={"kind": kind, limit: 999}, model=model)


def test_the_budget_counts_the_most_steps_an_adaptation_may_come_to():
    certified = job(adaptation=CERTIFIED | {"max_steps": 700}, solver={"method": "rk4", "steps": 2})
    check_training_budget(certified, Budget(evaluations_per_solve=2800))
    with pytest.raises(BudgetExceeded, match="2,800 evaluations in a solve"):
        check_training_budget(certified, Budget(evaluations_per_solve=2799))
    check_training_budget(job(adaptation={"kind": "tolerance"}, solver=TOLERANCES), Budget())


@pytest.mark.parametrize("dataset", [{"kind": "xor"}, {"kind": "digits", "test_fraction": 0.5}])
def test_more_samples_to_be_held_out_than_half_of_the_data_are_refused_beforehand(dataset: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="audit_samples 500 are held out of the training split"):
        TrainingJobSpec.model_validate(
            {
                "name": "m",
                "dataset": dataset,
                "model": {"kind": "classifier", "field": {"kind": "mlp", "hidden": [8]}},
                "solver": {"method": "euler", "steps": 4},
                "adaptation": CERTIFIED | {"audit_samples": 500},
            }
        )


def test_what_the_checks_of_a_certified_adaptation_cost_is_part_of_the_budget() -> None:
    spec = TrainingJobSpec.model_validate(
        {
            "name": "m",
            "dataset": {"kind": "concentric_spheres", "train_samples": 1_000_000},
            "model": {"kind": "preset", "name": "sphere2"},
            "solver": {"method": "euler", "steps": 4},
            "training": {"iterations": 100_000},
            "adaptation": CERTIFIED | {"audit_samples": 500_000, "interval": 1},
        }
    )
    usual = spec.model_copy(update={"adaptation": CertifiedAdaptation()})

    check_training_budget(usual, Budget())
    with pytest.raises(BudgetExceeded, match="a longer interval between checks or fewer audit_samples"):
        check_training_budget(spec, Budget())
