"""Aggregation over seeds, held against sums by hand."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ode_core.specs import StudySpec
from store.jobs import Job
from store.results import NewResult
from store.study_results import aggregate
from store.unit_of_work import Store

EULER_2, RK4_8 = {"method": "euler", "steps": 2}, {"method": "rk4", "steps": 8}
STUDY: dict[str, Any] = {
    "name": "grid",
    "base": {
        "dataset": {"kind": "concentric_spheres"},
        "model": {"kind": "preset", "name": "sphere2"},
        "training": {"iterations": 100},
    },
    "train": {"methods": ["euler"], "steps": [2, 4]},
    "seeds": [0, 5, 9],
    "sweep": {"solvers": [EULER_2, RK4_8]},
}


def submit(store: Store) -> list[Job]:
    with store.transaction() as tx:
        _, jobs = tx.studies.submit(StudySpec.model_validate(STUDY))
    return sorted(jobs, key=lambda job: job.study_cell or 0)


def finish(store: Store, job: Job, accuracies: dict[int, tuple[float, float]], failed: list[int]) -> None:
    """End a job whose models have these accuracies under euler-2 and rk4-8."""
    with store.transaction() as tx:
        claimed = tx.jobs.claim(job.id, "a worker", 30)
        assert claimed is not None
        rows = [
            NewResult(
                model=str(job.model),
                version=version,
                dataset=STUDY["base"]["dataset"],
                train_solver=job.spec["training"]["solver"],
                test_solver=solver,
                train_steps=job.spec["training"]["solver"]["steps"],
                test_steps=solver["steps"],
                nfe=solver["steps"] * (4.0 if solver == RK4_8 else 1.0),
                accuracy=accuracy,
                flip_rate=1 - accuracy,
                samples=100,
                failures=0,
                seconds=0.5,
                study_id=job.study_id,
                seed=seed,
            )
            for version, (seed, pair) in enumerate(accuracies.items(), start=1)
            for solver, accuracy in zip((EULER_2, RK4_8), pair, strict=True)
        ]
        tx.results.add(job.id, claimed.attempt, rows)
        reasons = [{"seed": seed, "reason": "diverged"} for seed in failed]
        tx.jobs.succeed(job.id, claimed.attempt, {"runs": [], "failed_seeds": reasons})


def test_each_configuration_and_test_solver_has_a_row_over_the_seeds(store: Store) -> None:
    first, second = submit(store)
    finish(store, first, {0: (1.0, 0.5), 5: (0.9, 0.6), 9: (0.8, 0.4)}, [])
    finish(store, second, {9: (1.0, 0.75)}, [0, 5])

    with store.reading() as tx:
        assert first.study_id is not None
        rows = tx.studies.results(first.study_id)

    assert [(row.label, row.test_solver) for row in rows] == [
        ("euler-2", EULER_2),
        ("euler-2", RK4_8),
        ("euler-4", EULER_2),
        ("euler-4", RK4_8),
    ]
    coarse, fine, _, alone = rows
    # 0.9 +- sqrt((0.01 + 0 + 0.01) / 2)
    assert coarse.accuracy.mean == pytest.approx(0.9)
    assert coarse.accuracy.sd == pytest.approx(0.1)
    assert fine.accuracy.by_seed == {0: 0.5, 5: 0.6, 9: 0.4}
    assert fine.flip_rate.mean == pytest.approx(0.5)
    assert (fine.accuracy.n, fine.nfe, fine.test_steps, fine.failed_seeds) == (3, 32.0, 8, [])
    assert fine.train_steps.by_seed == {0: 2, 5: 2, 9: 2}
    assert (alone.accuracy.mean, alone.accuracy.sd, alone.accuracy.n) == (0.75, None, 1)
    assert alone.failed_seeds == [0, 5]
    assert (alone.model, alone.train_solver, alone.adaptation) == (
        "grid.euler-4",
        {"method": "euler", "steps": 4},
        None,
    )


def test_a_configuration_whose_seeds_have_all_failed_is_shown_and_one_that_still_runs_is_not_yet(store: Store) -> None:
    first, second = submit(store)
    with store.transaction() as tx:
        claimed = tx.jobs.claim(second.id, "a worker", 30)
        assert claimed is not None
        tx.jobs.fail(second.id, claimed.attempt, {"code": "training_diverged", "message": "diverged"})

    with store.reading() as tx:
        assert first.study_id is not None
        rows = tx.studies.results(first.study_id)

    assert [(row.label, row.test_solver, row.failed_seeds) for row in rows] == [
        ("euler-4", EULER_2, [0, 5, 9]),
        ("euler-4", RK4_8, [0, 5, 9]),
    ]
    assert (rows[0].accuracy.mean, rows[0].accuracy.n, rows[0].nfe, rows[0].test_steps) == (None, 0, None, 2)


def test_results_are_filtered_by_study(store: Store) -> None:
    first, second = submit(store)
    other, _ = submit(store)
    finish(store, first, {0: (1.0, 0.5)}, [])
    finish(store, other, {0: (1.0, 0.5)}, [])

    with store.reading() as tx:
        found = tx.results.list(study=first.study_id).items

    assert {(row.job_id, row.study_id, row.seed) for row in found} == {(first.id, second.study_id, 0)}


@given(st.dictionaries(st.integers(0, 2**31 - 1), st.floats(0, 1), min_size=2, max_size=30))
def test_mean_and_deviation_are_those_of_the_values_kept(values: dict[int, float]) -> None:
    job: Any = type(
        "Done",
        (),
        {
            "id": "job",
            "status": "succeeded",
            "result": {"failed_seeds": []},
            "spec": {
                "label": "euler-2",
                "seeds": list(values),
                "solvers": [EULER_2],
                "training": {"name": "grid.euler-2", "solver": EULER_2, "adaptation": None},
            },
        },
    )()
    rows = [
        {
            "job_id": "job",
            "seed": seed,
            "test_solver": EULER_2,
            "test_steps": 2,
            "train_steps": 2,
            "nfe": 2.0,
            "accuracy": value,
            "flip_rate": value,
        }
        for seed, value in values.items()
    ]

    (found,) = aggregate([job], rows)

    mean = math.fsum(values.values()) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values.values()) / (len(values) - 1)
    assert found.accuracy.by_seed == values
    assert found.accuracy.mean == pytest.approx(mean, rel=1e-12, abs=1e-300)
    assert found.accuracy.sd == pytest.approx(math.sqrt(variance), rel=1e-9, abs=1e-9)
