"""Results, solvers and data sets."""

from typing import Any

from api.schemas.answer import ListOf
from api.schemas.catalogue import SolverMethod
from api.schemas.results import ResultRow
from ode_core.specs import METHODS, SolverSpec, TrainingJobSpec
from store.results import SORTABLE, NewResult
from store.unit_of_work import Store
from tests.api.conftest import DIGITS_JOB, Served, claim, train

EULER2, RK64 = {"method": "euler", "steps": 2}, {"method": "rk4", "steps": 64}
DOPRI5 = {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}


def add_results(store: Store, model: str = "tiny") -> str:
    """Store what a sweep of a model would; return the sweep's id."""
    train(store, DIGITS_JOB | {"name": model})
    with store.transaction() as tx:
        job = tx.jobs.submit("sweep", {}, model=model, model_version=1)
    attempt = claim(store, job)
    measured: list[tuple[dict[str, Any], int | None, float, float | None, float | None]] = [
        (EULER2, 2, 2, 0.95, 0.0),
        (RK64, 64, 256, 0.1, 0.9),
        (DOPRI5, None, 44.5, None, None),
    ]
    rows = [
        NewResult(
            model=model,
            version=1,
            dataset={"kind": "digits", "test_fraction": 0.2, "split_seed": 0},
            train_solver=EULER2,
            test_solver=solver,
            train_steps=2,
            test_steps=steps,
            nfe=nfe,
            accuracy=accuracy,
            flip_rate=flips,
            samples=360,
            failures=0,
            seconds=0.1,
        )
        for solver, steps, nfe, accuracy, flips in measured
    ]
    with store.transaction() as tx:
        tx.results.add(job.id, attempt, rows)
    return job.id


def test_a_result_row_names_both_solvers_and_what_was_measured(served_on_both: Served) -> None:
    job_id = add_results(served_on_both.store)
    with served_on_both.client() as client:
        response = client.get("/v1/results", params={"sort": "-accuracy", "test_method": "rk4"})
    ListOf[ResultRow].model_validate_json(response.content)
    (row,) = response.json()["data"]
    assert row.pop("id")
    assert row.pop("created_at")
    assert row == {
        "job_id": job_id,
        "model": "tiny",
        "version": 1,
        "dataset": {"kind": "digits", "test_fraction": 0.2, "split_seed": 0},
        "train_solver": EULER2,
        "train_method": "euler",
        "train_steps": 2,
        "test_solver": RK64,
        "test_method": "rk4",
        "test_steps": 64,
        "nfe": 256.0,
        "accuracy": 0.1,
        "flip_rate": 0.9,
        "samples": 360,
        "failures": 0,
        "seconds": 0.1,
        "study": None,
        "seed": None,
    }


FILTERS_AND_SORTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"sort": "nfe"}, ["euler", "dopri5", "rk4"]),
    ({"sort": "-accuracy"}, ["euler", "rk4", "dopri5"]),
    ({"sort": "flip_rate"}, ["euler", "rk4", "dopri5"]),
    ({"sort": "test_method"}, ["dopri5", "euler", "rk4"]),
    ({"sort": "nfe", "min_accuracy": 0.5}, ["euler"]),
    ({"sort": "nfe", "max_flip_rate": 0.95}, ["euler", "rk4"]),
    ({"sort": "nfe", "max_nfe": 100}, ["euler", "dopri5"]),
    ({"sort": "nfe", "dataset": "mnist"}, []),
    ({"sort": "nfe", "model": "other"}, []),
    ({"sort": "nfe", "train_method": "rk4"}, []),
    ({"sort": "nfe", "version": 2}, []),
    ({"sort": "nfe", "job": "no-id"}, []),
    ({"sort": "nfe", "model": "tiny", "version": 1, "dataset": "digits"}, ["euler", "dopri5", "rk4"]),
]


def test_results_are_filtered_and_sorted(served_on_both: Served) -> None:
    add_results(served_on_both.store)
    with served_on_both.client() as client:
        for parameters, methods in FILTERS_AND_SORTS:
            rows = client.get("/v1/results", params=parameters).json()["data"]
            assert [row["test_method"] for row in rows] == methods, parameters


def test_every_sort_pages_through_all_results(served: Served) -> None:
    job_ids = {add_results(served.store, model) for model in ("a", "b")}
    with served.client() as client:
        for sort in [sign + column for column in SORTABLE for sign in ("", "-")]:
            seen, cursor = [], None
            while True:
                parameters = {"sort": sort, "limit": 4} | ({"after": cursor} if cursor else {})
                page = client.get("/v1/results", params=parameters).json()
                seen += [row["id"] for row in page["data"]]
                cursor = page["next_cursor"]
                if cursor is None:
                    break
            assert len(seen) == len(set(seen)) == 3 * len(job_ids)


def test_a_solver_method_is_described_by_what_a_user_chooses_it_by(served: Served) -> None:
    with served.client() as client:
        by_method = {solver["method"]: solver for solver in client.get("/v1/solvers").json()["data"]}
    described = by_method["dopri5"]
    assert described.pop("description")
    assert described == {
        "method": "dopri5",
        "family": "explicit",
        "order": 5,
        "stages": 7,
        "embedded_order": 4,
        "adaptive": True,
        "fixed_grid": True,
        "first_same_as_last": True,
        "stability_limit": 3.31,
        "dense_output_order": 4,
        "backends": ["odeness", "torchdiffeq"],
        "example": {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5},
    }
    for method, facts in METHODS.items():
        assert by_method[method]["order"] == facts.order
        assert by_method[method]["stability_limit"] == facts.stability_limit
        assert by_method[method]["fixed_grid"] == facts.fixed_grid
        assert (by_method[method]["embedded_order"] is not None) == by_method[method]["adaptive"]


def test_a_method_that_is_stable_at_any_step_has_a_limit_of_null() -> None:
    example = {"method": "rk4", "steps": 16}
    described = SolverMethod(
        method="rk4",
        family="implicit",
        order=2,
        stages=1,
        embedded_order=None,
        adaptive=False,
        fixed_grid=True,
        first_same_as_last=False,
        stability_limit=None,
        dense_output_order=3,
        backends=["odeness"],
        description="stable however long the step",
        example=example,
    )
    assert described.model_dump(mode="json")["stability_limit"] is None


def test_the_examples_of_all_solvers_and_datasets_can_be_used(served: Served) -> None:
    with served.client() as client:
        solvers = client.get("/v1/solvers").json()["data"]
        datasets = client.get("/v1/datasets").json()["data"]
    assert [solver["method"] for solver in solvers] == list(METHODS)
    for solver in solvers:
        assert SolverSpec.model_validate(solver["example"]).adaptive == solver["adaptive"]
    assert {one["kind"]: one["available"] for one in datasets} == {
        "digits": True,
        "concentric_spheres": True,
        "three_minima": True,
        "xor": True,
        "mnist": False,
        "cifar10": False,
    }
    for one in datasets:
        mlp = {"kind": "classifier", "field": {"kind": "mlp"}}
        spec = TrainingJobSpec.model_validate(DIGITS_JOB | {"dataset": one["example"], "model": mlp})
        assert list(spec.dataset.input_shape) == one["sample_shape"]
        assert (one["unavailable_because"] is None) == one["available"]
