"""A solver chosen by its audited agreement, certificates, trajectories and deadlines of predictions."""

import copy
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from api.inference import micro_batcher
from api.schemas.prediction import PredictAnswer
from ode_core.models.classifier import Classifier, build_model
from ode_core.models.steady_classifier import SteadyClassifier
from ode_core.specs import METHODS, SolverSpec, TrainingJobSpec
from tests.api.conftest import SPHERES_JOB, Served, assert_problem, train
from tests.api.solver_choices import store_choice

POINTS = [[[0.1, 0.12]], [[-0.4, 0.3]], [[0.7, -0.2]]]
PATH = "/v1/models/spheres/predict"


@pytest.fixture
def model() -> Classifier:
    return build_model(TrainingJobSpec.model_validate(SPHERES_JOB)).double()


def predicted(client: httpx.Client, **body: Any) -> dict[str, Any]:
    response = client.post(PATH, json={"inputs": POINTS} | body)
    assert response.status_code == 200, response.text
    PredictAnswer.model_validate_json(response.content)
    answer: dict[str, Any] = response.json()
    return answer


def logits_of(model: Classifier, solver: dict[str, Any]) -> np.ndarray[Any, Any]:
    # In the server's arithmetic: another decides otherwise about steps, and then errors differ by a few per cent.
    served = SteadyClassifier(copy.deepcopy(model).float())
    with torch.no_grad():
        return served.run(torch.tensor(POINTS), SolverSpec.model_validate(solver)).logits.double().numpy()


@pytest.mark.parametrize(
    ("asked", "solver"),
    [
        ({}, {"method": "rk4", "steps": 3}),
        ({"agreement": 0.97}, {"method": "euler", "steps": 2}),
        ({"agreement": 0.99}, {"method": "rk4", "steps": 2}),
        ({"agreement": 0.99, "evidence": "lower_bound"}, {"method": "rk4", "steps": 3}),
        ({"by": "time"}, {"method": "midpoint", "steps": 10}),
        ({"agreement": 1}, {"method": "dopri5", "rtol": 0.01, "atol": 0.01}),
    ],
)
def test_auto_takes_the_cheapest_solver_whose_audited_agreement_is_enough(
    served: Served, asked: dict[str, Any], solver: dict[str, Any]
) -> None:
    store_choice(served.store, train(served.store, SPHERES_JOB))
    with served.client() as client:
        answer = predicted(client, solver="auto", **asked)
        named = predicted(client, solver=solver)
    assert answer["solver"] == solver
    assert "of the 7 solvers tried" in answer.pop("solver_reason").lower()
    assert answer == named


def test_auto_without_an_audit_says_how_to_get_one_or_falls_back_when_asked_to(served: Served) -> None:
    train(served.store, SPHERES_JOB)
    with served.client() as client:
        refused = client.post(PATH, json={"inputs": POINTS, "solver": "auto"})
        problem = assert_problem(refused, 409, "not_audited")
        assert "/v1/evaluation-jobs" in problem["detail"]
        answer = predicted(client, solver="auto", otherwise="training_solver")
    assert answer["solver"] == SPHERES_JOB["solver"]
    assert answer["solver_reason"] == (
        "No audit of the version has compared solvers. "
        "Taken is euler-2, the solver of the training, as `otherwise` asks."
    )


def test_auto_of_a_model_that_is_no_ode_is_its_training_solver(served: Served) -> None:
    store_choice(served.store, train(served.store, SPHERES_JOB), "discrete")
    with served.client() as client:
        answer = predicted(client, solver="auto", agreement=1)
    assert answer["solver"] == SPHERES_JOB["solver"]
    assert "not an ODE" in answer["solver_reason"]


def test_an_agreement_that_no_solver_reaches_is_refused_with_the_closest(served: Served) -> None:
    store_choice(served.store, train(served.store, SPHERES_JOB))
    body = {"inputs": POINTS, "solver": "auto", "agreement": 0.9999, "evidence": "lower_bound"}
    with served.client() as client:
        problem = assert_problem(client.post(PATH, json=body), 409, "no_solver_agrees")
        assert "comes closest" in problem["detail"]
        answer = predicted(client, **body | {"otherwise": "training_solver"})
    assert answer["solver"] == SPHERES_JOB["solver"]
    assert answer["solver_reason"] == (
        problem["detail"].removeprefix("version 1 of spheres: ")
        + " Taken is euler-2, the solver of the training, as `otherwise` asks."
    )


@pytest.mark.parametrize(
    ("solver", "finer", "factor"),
    [
        ({"method": "euler", "steps": 3}, {"method": "euler", "steps": 6}, 2.0),
        ({"method": "rk4", "steps": 2}, {"method": "rk4", "steps": 4}, 16 / 15),
        ({"method": "heun", "step_size": 0.25}, {"method": "heun", "steps": 8}, 4 / 3),
        (
            {"method": "dopri5", "rtol": 1e-3, "atol": 1e-4},
            {"method": "dopri5", "rtol": 1e-4, "atol": 1e-5},
            10 / 9,
        ),
    ],
)
def test_a_certificate_compares_with_a_finer_solver(
    refusing_client: httpx.Client, model: Classifier, solver: dict[str, Any], finer: dict[str, Any], factor: float
) -> None:
    answer = predicted(refusing_client, solver=solver, certify=True)
    plain = predicted(refusing_client, solver=solver)
    coarse, fine = logits_of(model, solver), logits_of(model, finer)
    errors = np.abs(coarse - fine).max(axis=1) * factor
    margins = np.abs(coarse[:, 0] - coarse[:, 1])
    assert answer["certificate"]["solver"] == finer
    assert answer["certificate"]["nfe"] > answer["nfe"] or "rtol" in solver
    held = 0
    for number, row in enumerate(answer["predictions"]):
        certificate = row.pop("certificate")
        assert (certificate["status"], certificate["remedy"]) == ("success", None)
        assert certificate["logit_error"] == pytest.approx(errors[number], abs=5e-6)
        assert certificate["margin"] == pytest.approx(margins[number], abs=5e-6)
        assert certificate["flips"] == (coarse[number].argmax() != fine[number].argmax())
        assert certificate["holds"] == (not certificate["flips"] and margins[number] > 2 * errors[number])
        held += certificate["holds"]
    assert answer.pop("certificate")["held"] == held
    assert answer == plain


def test_a_certificate_costs_and_its_cost_has_to_fit_the_budget(refusing_client: httpx.Client) -> None:
    assert predicted(refusing_client, solver={"method": "euler", "steps": 15_000})["failures"] == 0
    refused = refusing_client.post(
        PATH, json={"inputs": POINTS, "solver": {"method": "euler", "steps": 15_000}, "certify": True}
    )
    problem = assert_problem(refused, 422, "budget_exceeded")
    assert problem["errors"][0]["path"] == "certify"


@pytest.mark.parametrize(
    "solver",
    [{"method": "rk4", "steps": 40}, {"method": "dopri5", "rtol": 1e-7, "atol": 1e-7}],
)
def test_states_at_chosen_times_are_those_of_the_equation(
    refusing_client: httpx.Client, model: Classifier, solver: dict[str, Any]
) -> None:
    times = [0.0, 0.3, 0.55, 1.0]
    answer = predicted(refusing_client, solver=solver, times=times)
    plain = predicted(refusing_client, solver=solver)

    def field(t: float, z: Any) -> Any:
        with torch.no_grad():
            return model.field(torch.tensor(t), torch.tensor(z).reshape(1, 1, 2)).numpy().ravel()

    for point, row, without in zip(POINTS, answer["predictions"], plain["predictions"], strict=True):
        start = model.initial_state(torch.tensor([point], dtype=torch.float64)).detach().numpy().ravel()
        expected = solve_ivp(field, (0, 1), start, t_eval=times, rtol=1e-9, atol=1e-9).y.T
        np.testing.assert_allclose(np.reshape(row["trajectory"], (4, 2)), expected, atol=2e-5)
        assert row["label"] == without["label"]
        assert row["logits"] == pytest.approx(without["logits"], abs=1e-6), "the answer changes when states are shown"


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_shows_its_states(refusing_client: httpx.Client, method: str) -> None:
    answer = predicted(refusing_client, solver={"method": method, "steps": 8}, times=[0.25, 0.6])
    assert np.shape([row["trajectory"] for row in answer["predictions"]])[:2] == (3, 2)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"agreement": 0.9}, "agreement"),
        ({"solver": {"method": "euler", "steps": 2}, "otherwise": "training_solver"}, "otherwise"),
        ({"solver": "auto", "agreement": 0}, "agreement"),
        ({"solver": "auto", "agreement": True}, "agreement"),
        ({"solver": "auto", "agreement": "0.9"}, "agreement"),
        ({"solver": "auto", "evidence": "hope"}, "evidence"),
        ({"solver": "auto", "by": "chance"}, "by"),
        ({"by": "time"}, "by"),
        ({"solver": "auto", "otherwise": "anything"}, "otherwise"),
        ({"certify": 1}, "certify"),
        ({"times": []}, "times"),
        ({"times": [0.5, 0.2]}, "times"),
        ({"times": [0.5, 1.2]}, "times"),
        ({"times": [-0.1]}, "times"),
        ({"times": ["0.1"]}, "times"),
        ({"times": 0.5}, "times"),
        ({"deadline_seconds": 0}, "deadline_seconds"),
        ({"deadline_seconds": 1e9}, "deadline_seconds"),
    ],
)
def test_a_wrong_option_is_named(refusing_client: httpx.Client, body: dict[str, Any], path: str) -> None:
    response = refusing_client.post(PATH, json={"inputs": POINTS} | body)
    assert assert_problem(response, 422, "invalid_request")["errors"][0]["path"] == path


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", PATH, {"inputs": POINTS, "solver": "rk4-16"}),
        ("POST", "/v1/training-jobs", SPHERES_JOB | {"solver": "rk4-16"}),
        ("POST", "/v1/evaluation-jobs", {"kind": "sweep", "model": "spheres", "solvers": ["rk4-16"]}),
    ],
)
def test_a_solver_written_as_a_text_is_answered_with_the_object(
    refusing_client: httpx.Client, method: str, path: str, body: dict[str, Any]
) -> None:
    problem = assert_problem(refusing_client.request(method, path, json=body), 422, "invalid_request")
    assert problem["errors"][0]["path"] in ("solver", "solvers.0")
    assert '{"method": "rk4", "steps": 16}' in problem["detail"]
    assert ('"auto"' in problem["detail"]) == (path == PATH)


def test_a_deadline_ends_a_long_computation(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batcher, "LOOK_SECONDS", 0.05)
    train(served.store, SPHERES_JOB)
    body = {"inputs": POINTS * 1000, "solver": {"method": "dopri8", "steps": 1500}, "deadline_seconds": 0.2}
    with served.client() as client:
        predicted(client)  # loads torch and the model
        problem = assert_problem(client.post(PATH, json=body), 422, "budget_exceeded")
        assert "0.2 s" in problem["detail"]
        assert predicted(client)["failures"] == 0
