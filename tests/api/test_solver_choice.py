"""Which solver to serve a version with: answered from its latest audit."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api.client import Client, ProblemError
from api.schemas.models import ModelVersionDetail
from api.schemas.solver_choice import SolverChoiceAnswer
from tests.api.conftest import SPHERES_JOB, Served, assert_problem, claim, train
from tests.api.solver_choices import choice, store_choice

VERSION = "/v1/models/spheres/versions/1"


@pytest.fixture
def audited(served: Served) -> Iterator[httpx.Client]:
    """A client of a server with a model that was found to be an ODE."""
    store_choice(served.store, train(served.store, SPHERES_JOB))
    with served.client() as client:
        yield client


def chosen(client: httpx.Client, **query: Any) -> dict[str, Any]:
    response = client.get(f"{VERSION}/solver-choice", params=query)
    assert response.status_code == 200, response.text
    SolverChoiceAnswer.model_validate_json(response.content)
    answer: dict[str, Any] = response.json()
    return answer


def test_the_choice_of_the_latest_audit_is_read_with_the_version(served_on_both: Served) -> None:
    version = train(served_on_both.store, SPHERES_JOB)
    with served_on_both.client() as client:
        assert client.get(VERSION).json()["solver_choice"] is None
        store_choice(served_on_both.store, version, "discrete")
        latest = store_choice(served_on_both.store, version)
        response = client.get(VERSION)
        ModelVersionDetail.model_validate_json(response.content)
        choice = response.json()["solver_choice"]
        assert (choice["audit_job"], choice["verdict"], choice["agreement_with"]) == (latest, "ode", "reference")
        assert [usual["solver"] for usual in choice["choices"]] == [
            {"method": "rk4", "steps": 2},
            {"method": "rk4", "steps": 3},
            {"method": "dopri5", "rtol": 0.01, "atol": 0.01},
        ]
        assert [one["nfe"] for one in choice["front"]] == [2, 8, 12, 14.5, 20]
        assert client.get(choice["href"]).json()["audit_job"] == latest


def test_a_versions_chart_is_of_the_audit_that_its_choice_is_of(served: Served, client: httpx.Client) -> None:
    version = train(served.store, SPHERES_JOB)
    with served.store.transaction() as tx:
        slow = tx.jobs.submit("audit", {}, model=version.model, model_version=version.version)
    store_choice(served.store, version, "discrete")
    attempt = claim(served.store, slow)
    with served.store.transaction() as tx:
        tx.solver_choices.replace_for_version(version.id, slow.id, attempt, choice())
        tx.jobs.succeed(slow.id, attempt, {"solver_choice": choice()})

    drawn = client.get(f"{VERSION}/charts/solver-choice").json()

    assert chosen(client)["audit_job"] == slow.id
    assert "the converged solution" in drawn["title"]


def test_the_cheapest_for_an_agreement_is_chosen_and_predicts(audited: httpx.Client) -> None:
    default, less = chosen(audited), chosen(audited, agreement=0.99)

    assert (default["asked"], default["evidence"]) == (0.999, "estimate")
    assert default["solver"] == {"method": "rk4", "steps": 3}
    assert default["chosen"]["agreement"] == 0.999
    assert default["samples_needed"] == 3688
    assert less["solver"] == {"method": "rk4", "steps": 2}
    assert "rk4-2" in less["reason"]
    body = {"inputs": [[[0.1, 0.2]]], "solver": less["solver"]}
    assert audited.post(f"{VERSION}/predict", json=body).json()["nfe"] == 8


def test_the_least_time_is_chosen_where_it_is_asked_for(audited: httpx.Client) -> None:
    by_evaluations, by_time = chosen(audited), chosen(audited, by="time")

    assert (by_evaluations["by"], by_time["by"]) == ("evaluations", "time")
    assert by_time["solver"] == {"method": "midpoint", "steps": 10}
    assert by_time["chosen"]["seconds_per_sample"] < by_evaluations["chosen"]["seconds_per_sample"]
    assert by_time["chosen"]["nfe"] > by_evaluations["chosen"]["nfe"]
    assert "the least time" in by_time["reason"]


def test_where_none_is_good_enough_there_is_no_solver_but_a_reason(audited: httpx.Client) -> None:
    answer = chosen(audited, agreement=0.999, evidence="lower_bound")

    assert answer["solver"] is None
    assert answer["chosen"] is None
    assert "3,688 samples" in answer["reason"]


def test_of_a_model_that_is_no_ode_the_training_solver_is_chosen(served: Served, client: httpx.Client) -> None:
    store_choice(served.store, train(served.store, SPHERES_JOB), "discrete")

    answer = chosen(client, agreement=0.5)

    assert answer["solver"] == answer["train_solver"] == {"method": "euler", "steps": 2}
    assert "not an ODE" in answer["reason"]


def test_before_an_audit_the_answer_has_the_request_for_one(served: Served, client: httpx.Client) -> None:
    train(served.store, SPHERES_JOB)

    problem = assert_problem(client.get(f"{VERSION}/solver-choice"), 409, "not_audited")

    (body,) = re.findall(r"{.*}", problem["detail"])
    assert client.post("/v1/evaluation-jobs", json=json.loads(body)).status_code == 202


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({"agreement": 0}, "agreement"),
        ({"agreement": 1.1}, "agreement"),
        ({"agreement": "nan"}, "agreement"),
        ({"evidence": "hope"}, "evidence"),
        ({"by": "chance"}, "by"),
        ({"agreements": 0.9}, "agreements"),
    ],
)
def test_what_cannot_be_asked_is_refused(audited: httpx.Client, query: dict[str, Any], path: str) -> None:
    problem = assert_problem(audited.get(f"{VERSION}/solver-choice", params=query), 422, "invalid_request")

    assert path in problem["errors"][0]["path"]


def test_a_version_that_is_not_there_has_no_choice(audited: httpx.Client) -> None:
    assert_problem(audited.get("/v1/models/spheres/versions/2/solver-choice"), 404, "model_version_not_found")


def test_the_client_asks_for_a_choice(served: Served, audited: httpx.Client) -> None:
    train(served.store, SPHERES_JOB)
    with Client(served.url) as connected:
        assert connected.solver_choice("spheres", 1, agreement=0.99)["solver"] == {"method": "rk4", "steps": 2}
        assert connected.solver_choice("spheres", 1, evidence="lower_bound")["solver"] is None
        assert connected.solver_choice("spheres", 1, by="time")["solver"] == {"method": "midpoint", "steps": 10}
        with pytest.raises(ProblemError, match="evaluation-jobs"):
            connected.solver_choice("spheres", 2)
