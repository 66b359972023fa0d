"""Versions with a modified field in the place of another version's field."""

from typing import Any

import httpx
import pytest
import torch

from api.schemas.models import ModelVersionAnswer, ModelVersionDetail
from ode_core.models.weights import load_classifier
from ode_core.specs import TrainingJobSpec
from tests.api.conftest import SPHERES_JOB, Served, assert_problem, train

EULER_8 = {"method": "euler", "steps": 8}
EULER_MODEL = SPHERES_JOB | {"solver": EULER_8}
ITERATES = {"solver": EULER_8, "kind": "iterates", "terms": 4}
REPAIR: dict[str, Any] = {"from_version": 1, "modified_field": ITERATES}
POINTS = [[0.1, 0.2], [0.3, -0.1], [-0.25, 0.3]]


def logits(client: httpx.Client, version: int, **solver: Any) -> torch.Tensor:
    body = {"inputs": [[point] for point in POINTS]} | ({"solver": solver} if solver else {})
    answer = client.post(f"/v1/models/spheres/versions/{version}/predict", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["failures"] == 0
    return torch.tensor([one["logits"] for one in answer.json()["predictions"]])


def test_a_repair_is_a_version_with_its_parents_weights_and_lineage(served_on_both: Served) -> None:
    parent = train(served_on_both.store, EULER_MODEL)
    with served_on_both.client() as client:
        made = client.post("/v1/models/spheres/versions", json=REPAIR)
        detail = client.get(made.headers["location"])
        of_parent = client.get("/v1/models/spheres/versions/1").json()
        listed = client.get("/v1/models/spheres").json()["versions"]
    assert made.status_code == 201, made.text
    body = ModelVersionAnswer.model_validate_json(made.content)
    ModelVersionDetail.model_validate_json(detail.content)
    assert (body.version, body.origin, body.job_id, body.links.job) == (2, "repair", None, None)
    assert body.parent is not None
    assert (body.parent.model, body.parent.version) == ("spheres", 1)
    assert body.links.parent == "/v1/models/spheres/versions/1"
    assert made.json()["modified_field"]["kind"] == "iterates"
    assert made.json()["solver"] == {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}
    assert made.json()["training_spec"] == parent.training_spec
    assert detail.json()["checkpoint"]["sha256"] == of_parent["checkpoint"]["sha256"]
    assert (of_parent["origin"], of_parent["parent"], of_parent["job_id"]) == ("training", None, parent.job_id)
    assert [one["version"] for one in listed] == [2, 1]


@pytest.mark.parametrize(
    "solver",
    [
        {},
        {"method": "rk4", "steps": 32},
        {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6},
        {"method": "dopri8", "rtol": 1e-6, "atol": 1e-6},
        {"method": "kvaerno3", "rtol": 1e-5, "atol": 1e-5},
    ],
)
def test_accurate_solvers_give_of_a_repair_what_the_training_solver_gives_of_its_parent(
    served: Served, solver: dict[str, Any]
) -> None:
    # An untrained tanh field is smooth and slow: four terms of the series leave an error of (h f')^4.
    smooth = {"kind": "classifier", "field": {"kind": "conv1d", "channels": 4, "activation": "tanh"}}
    train(served.store, EULER_MODEL | {"model": smooth})
    with served.client() as client:
        client.post("/v1/models/spheres/versions", json=REPAIR)
        trained, field_itself = logits(client, 1), logits(client, 1, method="dopri5", rtol=1e-8, atol=1e-8)
        repaired = logits(client, 2, **solver)
    lost = (trained - field_itself).abs().max()
    assert (repaired - trained).abs().max() < 0.02 * lost


def test_a_repair_of_an_implicit_method_is_stored_served_and_budgeted(served: Served) -> None:
    trapezoid = {"method": "trapezoid", "steps": 16}
    smooth = {"kind": "classifier", "field": {"kind": "conv1d", "channels": 4, "activation": "tanh"}}
    train(served.store, EULER_MODEL | {"model": smooth, "solver": trapezoid})
    field = {"solver": trapezoid, "kind": "iterates", "terms": 6}
    rk4 = {"method": "rk4", "steps": 32}
    with served.client() as client:
        made = client.post("/v1/models/spheres/versions", json={"from_version": 1, "modified_field": field})
        assert made.status_code == 201, made.text
        trained, field_itself = logits(client, 1), logits(client, 1, method="dopri8", rtol=1e-6, atol=1e-6)
        for solver in ({}, rk4, {"method": "kvaerno3", "rtol": 1e-5, "atol": 1e-5}):
            assert (logits(client, 2, **solver) - trained).abs().max() < 0.1 * (trained - field_itself).abs().max()
        body = {"inputs": [[POINTS[0]]], "solver": rk4}
        answer = client.post("/v1/models/spheres/versions/2/predict", json=body).json()
    # Usual numbers: six steps of an evaluation and a stage of five, and 2.5 Jacobians of the two numbers of the state
    # for the first of them, one for each other.
    assert made.json()["metadata"]["evaluations_in_field"] == 6 * (1 + 5) + 7.5 * 2
    assert answer["nfe"] == 32 * 4 * (6 * (1 + 5) + 7.5 * 2)


def test_the_evaluations_of_a_repair_are_those_of_the_trained_field(served: Served) -> None:
    version = train(served.store, EULER_MODEL)
    spec = TrainingJobSpec.model_validate(version.training_spec)
    model = load_classifier(spec.architecture, spec.dataset, served.store.read_blob(version.blob_id))
    calls = [0]

    def count() -> None:
        calls[0] += 1

    model.field.before_evaluation = count
    model.predict(torch.tensor(POINTS), spec.solver)
    assert calls[0] == 8
    body = {"inputs": [[POINTS[0]]], "solver": {"method": "rk4", "steps": 10}}
    with served.client() as client:
        client.post("/v1/models/spheres/versions", json=REPAIR)
        answer = client.post("/v1/models/spheres/versions/2/predict", json=body).json()
    # Ten steps of four stages, each of four Euler steps.
    assert answer["nfe"] == 10 * 4 * 4


def test_a_budget_counts_them_too(make_settings: Any) -> None:
    from tests.api.conftest import serve

    tight = {"inference_evaluations": 150, "evaluations_per_solve": 150}
    body = {"inputs": [[POINTS[0]]], "solver": {"method": "rk4", "steps": 10}}
    sweep = {"kind": "sweep", "model": "spheres", "solvers": [body["solver"]]}
    portrait = {"kind": "portrait", "model": "spheres", "solver": body["solver"]}
    with serve(make_settings(budget=tight)) as served:
        train(served.store, EULER_MODEL)
        with served.client() as client:
            assert client.post("/v1/models/spheres/predict", json=body).status_code == 200
            client.post("/v1/models/spheres/versions", json=REPAIR)
            refused = assert_problem(client.post("/v1/models/spheres/predict", json=body), 422, "budget_exceeded")
            for job in (sweep, portrait):
                assert_problem(client.post("/v1/evaluation-jobs", json=job), 422, "budget_exceeded")
    assert "160 evaluations of rk4-10, 4 for one of the modified field, exceed the budget of 150" in refused["detail"]


def test_a_portrait_of_a_repair_takes_accurate_steps_by_itself(served: Served) -> None:
    train(served.store, EULER_MODEL)
    with served.client() as client:
        client.post("/v1/models/spheres/versions", json=REPAIR)
        job = client.post("/v1/evaluation-jobs", json={"kind": "portrait", "model": "spheres"}).json()
    assert (job["spec"]["solver"], job["spec"]["finer"]) == (
        {"method": "rk4", "steps": 8},
        {"method": "rk4", "steps": 16},
    )


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        (REPAIR | {"from_version": 2}, "from_version", "is itself a repair: give the version it was made from, 1"),
        (
            REPAIR | {"modified_field": ITERATES | {"solver": {"method": "euler", "steps": 4}}},
            "modified_field.solver",
            "the modified field is of euler-4, the version was trained with euler-8",
        ),
        (
            REPAIR | {"modified_field": ITERATES | {"solver": {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}}},
            "modified_field",
            "belongs to one step size",
        ),
        ({"modified_field": ITERATES}, "from_version", "required"),
    ],
)
def test_what_cannot_be_repaired_is_refused_with_what_to_do(
    served: Served, body: dict[str, Any], path: str, message: str
) -> None:
    train(served.store, EULER_MODEL)
    with served.client() as client:
        client.post("/v1/models/spheres/versions", json=REPAIR)
        problem = assert_problem(client.post("/v1/models/spheres/versions", json=body), 422, "invalid_request")
    assert [error["path"] for error in problem["errors"]] == [path]
    assert message in problem["detail"]


def test_a_version_that_is_not_there_is_not_found(served: Served) -> None:
    train(served.store, EULER_MODEL)
    with served.client() as client:
        other = client.post("/v1/models/spheres/versions", json=REPAIR | {"from_version": 9})
        assert_problem(other, 404, "model_version_not_found")
        assert_problem(client.post("/v1/models/nobody/versions", json=REPAIR), 404, "model_not_found")


def test_a_training_cannot_start_from_a_repair_and_is_told_from_what(served: Served) -> None:
    train(served.store, EULER_MODEL)
    with served.client() as client:
        client.post("/v1/models/spheres/versions", json=REPAIR)
        job = EULER_MODEL | {"name": "tuned", "start_from": {"model": "spheres"}}
        problem = assert_problem(client.post("/v1/training-jobs", json=job), 422, "invalid_request")
    assert "start from spheres version 1, which has the same weights" in problem["detail"]


def test_a_repeated_request_with_the_same_key_makes_one_version(served: Served) -> None:
    train(served.store, EULER_MODEL)
    key = {"Idempotency-Key": "one"}
    with served.client() as client:
        first, second = (client.post("/v1/models/spheres/versions", json=REPAIR, headers=key) for _ in range(2))
        other = client.post("/v1/models/spheres/versions", json=REPAIR | {"from_version": 3}, headers=key)
        assert len(client.get("/v1/models/spheres").json()["versions"]) == 2
    assert first.json() == second.json()
    assert second.headers["idempotency-replayed"] == "true"
    assert_problem(other, 422, "idempotency_key_reused")
