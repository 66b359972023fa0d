from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ode_core.specs import (
    Budget,
    BudgetExceeded,
    StepJitter,
    StudySpec,
    TrainingJobSpec,
    check_training_budget,
    is_stackable,
)

JOB: dict[str, Any] = {
    "name": "regular",
    "dataset": {"kind": "concentric_spheres"},
    "model": {"kind": "preset", "name": "sphere2"},
    "solver": {"method": "euler", "steps": 4},
}
JITTER: dict[str, Any] = {"step_jitter": {"low": 0.5, "high": 2}}
PENALTY: dict[str, Any] = {"local_error": {"weight": 1}}


def spec(**changes: Any) -> TrainingJobSpec:
    return TypeAdapter(TrainingJobSpec).validate_python(JOB | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regularisation": {}}, "step_jitter.*local_error"),
        ({"regularisation": {"step_jitter": {"low": 1, "high": 1}}}, "no jitter"),
        ({"regularisation": {"step_jitter": {"low": 0.95, "high": 1.1}}}, "leaves 4 steps as they are"),
        ({"regularisation": {"local_error": {"weight": 0}}}, "greater than 0"),
        ({"regularisation": PENALTY, "gradient": "checkpoint"}, "use backprop, or step_jitter alone"),
        ({"regularisation": PENALTY, "solver": {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}}, "equal steps"),
        ({"regularisation": JITTER, "solver": {"method": "trapezoid", "steps": 4}}, "equal steps"),
        ({"regularisation": JITTER, "solver": {"method": "asynchronous_leapfrog", "steps": 4}}, "equal steps"),
        ({"regularisation": JITTER, "solver": {"method": "explicit_adams", "steps": 9}}, "equal steps"),
        ({"regularisation": JITTER, "solver": {"method": "rk4_38", "steps": 4, "backend": "torchdiffeq"}}, "equal"),
        ({"regularisation": JITTER, "solver": {"method": "euler", "step_size": 0.3, "grid": "truncate"}}, "equal"),
        ({"regularisation": JITTER, "solver": {"method": "euler", "steps": 60_000}}, "120000 steps; the limit"),
    ],
)
def test_what_cannot_be_regularised_is_refused_with_what_to_do(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        spec(**changes)


@given(
    st.floats(0.1, 0.99),
    st.floats(1, 10),
    st.integers(1, 1000),
    st.floats(0, 1),
)
def test_drawn_steps_are_in_the_range_up_to_rounding(low: float, high: float, steps: int, share: float) -> None:
    drawn = StepJitter(low=low, high=high).steps(steps, share)
    assert drawn >= 1
    assert low * steps - 0.5 - 1e-9 <= drawn <= max(1.0, high * steps + 0.5 + 1e-9)


@pytest.mark.parametrize(
    ("solver", "regularisation", "evaluations"),
    [
        ({"method": "euler", "steps": 4}, JITTER, 8),
        ({"method": "euler", "steps": 4}, PENALTY, 5),
        ({"method": "euler", "steps": 4}, JITTER | PENALTY, 9),
        ({"method": "heun_euler", "steps": 4}, PENALTY, 8),
        ({"method": "bosh3", "steps": 4}, PENALTY, 13),
        ({"method": "rk4", "steps": 4}, PENALTY, 16 + 28),
        ({"method": "rk4", "steps": 4}, JITTER | PENALTY, 32 + 56),
    ],
)
def test_the_budget_counts_the_longest_draw_and_the_penaltys_evaluations(
    solver: dict[str, Any], regularisation: dict[str, Any], evaluations: int
) -> None:
    job = spec(solver=solver, regularisation=regularisation)
    check_training_budget(job, Budget(evaluations_per_solve=evaluations))
    with pytest.raises(BudgetExceeded, match=f"{evaluations} evaluations in a solve"):
        check_training_budget(job, Budget(evaluations_per_solve=evaluations - 1))


def test_the_budget_counts_jitter_around_the_most_steps_of_an_adaptation() -> None:
    job = spec(regularisation=JITTER, adaptation={"kind": "certified", "max_steps": 100})
    with pytest.raises(BudgetExceeded, match="200 evaluations in a solve"):
        check_training_budget(job, Budget(evaluations_per_solve=199))
    check_training_budget(job, Budget(evaluations_per_solve=200))


def test_seeds_of_a_regularised_study_are_jobs_of_their_own() -> None:
    base = {name: JOB[name] for name in ("dataset", "model")}
    study = {"name": "s", "base": base, "train": {"methods": ["euler"], "steps": [4]}, "seeds": [0, 1, 2]}
    regular = StudySpec.model_validate(study | {"base": base | {"regularisation": JITTER}})
    assert [job.seeds for job in StudySpec.model_validate(study).jobs()] == [[0, 1, 2]]
    assert [job.seeds for job in regular.jobs()] == [[0], [1], [2]]
    assert all(job.training.regularisation is not None for job in regular.jobs())
    assert not is_stackable(spec(regularisation=PENALTY))
