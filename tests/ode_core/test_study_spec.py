from typing import Any

import pytest
from pydantic import ValidationError

from ode_core.specs import Budget, BudgetExceeded, CriticalStepSearch, StudyRunSpec, StudySpec, check_study_budget

BASE: dict[str, Any] = {
    "dataset": {"kind": "concentric_spheres"},
    "model": {"kind": "preset", "name": "sphere2"},
    "training": {"iterations": 10},
}
STUDY: dict[str, Any] = {
    "name": "sphere2",
    "base": BASE,
    "train": {"methods": ["euler"], "steps": [1, 2, 4]},
    "seeds": 3,
    "sweep": {
        "methods": ["euler", "rk4"],
        "steps": [1, 8],
        "solvers": [{"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}],
    },
}
SIX = {"methods": ["euler"], "steps": [1, 2, 3, 4, 5, 6]}
SEARCH: dict[str, Any] = {"name": "critical", "base": BASE, "seeds": [5, 7], "search": {"lowest": 1, "highest": 64}}


def study(**changes: Any) -> StudySpec:
    return StudySpec.model_validate(STUDY | changes)


def test_a_grid_is_a_job_for_each_solver_with_all_its_seeds() -> None:
    jobs = study().jobs()

    assert [(job.label, job.training.name, job.seeds) for job in jobs] == [
        ("euler-1", "sphere2.euler-1", [0, 1, 2]),
        ("euler-2", "sphere2.euler-2", [0, 1, 2]),
        ("euler-4", "sphere2.euler-4", [0, 1, 2]),
    ]
    assert [solver.label for solver in jobs[0].solvers] == [
        "euler-1",
        "euler-8",
        "rk4-1",
        "rk4-8",
        "dopri5 rtol=1e-05 atol=1e-05",
    ]
    assert all(job.training.training.iterations == 10 for job in jobs)


def test_runs_that_cannot_be_stacked_are_a_job_for_each_seed() -> None:
    jobs = study(train={"methods": ["fehlberg2"], "tolerances": [1e-3, 1e-4]}, seeds=[4, 9]).jobs()

    assert [(job.label, job.seeds, job.training.training.seed) for job in jobs] == [
        ("fehlberg2 rtol=0.001 atol=0.001", [4], 4),
        ("fehlberg2 rtol=0.001 atol=0.001", [9], 9),
        ("fehlberg2 rtol=0.0001 atol=0.0001", [4], 4),
        ("fehlberg2 rtol=0.0001 atol=0.0001", [9], 9),
    ]
    assert jobs[0].training.name == "sphere2.fehlberg2-rtol-0.001-atol-0.001"


def test_more_seeds_than_a_stack_holds_are_shared_among_jobs() -> None:
    assert [len(job.seeds) for job in study(train={"methods": ["euler"], "steps": [2]}, seeds=40).jobs()] == [16, 16, 8]


def test_adaptations_are_an_axis_with_labels_of_their_own() -> None:
    adapted = study(adaptations=[None, {"kind": "step", "interval": 5}, {"kind": "step", "interval": 7}], seeds=[0])

    labels = [job.label for job in adapted.jobs()][:3]

    assert labels == ["euler-1", "euler-1 step-talk", "euler-1 step-talk-2"]
    assert len({job.training.name for job in adapted.jobs()}) == 9


@pytest.mark.parametrize("document", [STUDY, SEARCH, STUDY | {"adaptations": [None, {"kind": "step"}]}])
def test_a_study_and_its_jobs_read_from_the_json_they_write(document: dict[str, Any]) -> None:
    spec = StudySpec.model_validate(document)
    jobs = spec.search_jobs(8) if spec.search is not None else spec.jobs()

    assert StudySpec.model_validate(spec.document()) == spec
    assert [StudyRunSpec.model_validate(job.document()) for job in jobs] == jobs


def test_a_search_tests_each_model_under_its_own_solver_and_the_fine_one_first() -> None:
    spec = StudySpec.model_validate(SEARCH | {"sweep": {"methods": ["rk4"], "steps": [4]}})

    (job,) = spec.search_jobs(16)

    assert [solver.label for solver in job.solvers] == ["euler-16", "dopri5 rtol=1e-05 atol=1e-05", "rk4-4"]
    assert job.reference is not None
    assert job.reference.method == "dopri5"
    assert (job.label, job.seeds) == ("euler-16", [5, 7])


@pytest.mark.parametrize(
    ("criterion", "train_accuracy", "test_accuracy", "flip_rate", "passes"),
    [
        ("accuracy", 0.99, 0.89, 0.5, True),  # a drop of exactly the threshold
        ("accuracy", 0.99, 0.888, 0.0, False),
        ("accuracy", 0.80, 0.95, 0.5, True),
        ("flip_rate", 0.99, 0.20, 0.1, True),
        ("flip_rate", 0.99, 0.99, 0.102, False),
    ],
)
def test_a_seed_passes_by_the_criterion(
    criterion: str, train_accuracy: float, test_accuracy: float, flip_rate: float, passes: bool
) -> None:
    search = StudySpec.model_validate(SEARCH | {"search": {"criterion": criterion, "threshold": 0.1}}).search
    assert search is not None

    assert search.passes(train_accuracy, test_accuracy, flip_rate, classes=2) is passes


@pytest.mark.parametrize(
    ("least", "classes", "accuracy", "passes"),
    [
        (None, 2, 0.59, False),  # guessing is right half the time; from 0.6 on a drop of more than 0.1 can be seen
        (None, 2, 0.61, True),
        (None, 10, 0.19, False),
        (None, 10, 0.21, True),
        (0.9, 10, 0.89, False),
        (0.0, 10, 0.0, True),
    ],
)
def test_a_model_that_has_learnt_nothing_does_not_pass(
    least: float | None, classes: int, accuracy: float, passes: bool
) -> None:
    search = CriticalStepSearch(threshold=0.1, least_accuracy=least)

    assert search.passes(accuracy, accuracy, 0.0, classes=classes) is passes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train": None}, "give either train"),
        ({"search": {}}, "give either train"),
        ({"train": {"methods": ["euler"]}}, "either steps or tolerances"),
        ({"train": {"methods": ["euler"], "steps": [1], "tolerances": [0.1]}}, "either steps or tolerances"),
        ({"train": {"steps": [1]}}, "belong to methods"),
        ({"train": {}}, "at least 1"),
        ({"train": {"methods": ["euler"], "tolerances": [1e-3]}}, "euler has no error estimate"),
        ({"train": {"methods": ["euler"], "steps": [2, 2]}}, "euler-2 is there twice"),
        (
            {"train": {"solvers": [{"method": "euler", "steps": 4}, {"method": "euler", "step_size": 0.25}]}},
            "are the same training",
        ),
        ({"seeds": [1, 1]}, "give each seed once"),
        ({"seeds": 0}, "a count from 1 to 100"),
        ({"seeds": 101}, "a count from 1 to 100"),
        ({"seeds": []}, "at least 1 item"),
        ({"adaptations": [None, None]}, "adaptation is there twice"),
        (
            {"train": {"methods": ["rk4"], "steps": [2]}, "adaptations": [{"kind": "step"}]},
            "rk4-2 step-talk: step adaptation knows",
        ),
        ({"train": None, "search": {"lowest": 3}}, "lowest must be a power of two"),
        ({"train": None, "search": {"lowest": 8, "highest": 8}}, "lowest must be less"),
        ({"train": None, "search": {}, "adaptations": [{"kind": "step"}]}, "without adaptation"),
        ({"base": BASE | {"training": {"seed": 3}}}, "seeds of its own"),
        ({"base": BASE | {"gradient": "reversible"}}, "euler-1: "),
        ({"train": {"methods": ["euler"], "steps": list(range(1, 21))}, "seeds": 60}, "1200 trainings are too many"),
        (
            {"sweep": {"methods": ["euler"], "steps": list(range(1, 101))}, "seeds": 100, "train": SIX},
            "60000 tests are too many",
        ),
        ({"name": "-"}, "match pattern"),
        ({"name": "x" * 51}, "match pattern"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        study(**changes)


def test_the_budget_of_every_training_and_test_is_checked() -> None:
    check_study_budget(study(), Budget())

    with pytest.raises(BudgetExceeded, match=r"euler-4: .* whole training"):
        check_study_budget(study(), Budget(training_operations=6e7))
    with pytest.raises(BudgetExceeded, match=r"euler-1: .* evaluations of rk4-8"):
        check_study_budget(study(), Budget(evaluations_per_solve=20))
