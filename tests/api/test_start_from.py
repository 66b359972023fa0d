"""Training jobs that start from a stored version's weights."""

from typing import Any

import pytest

from api.schemas.models import ModelVersionDetail
from ode_core.audit.repair import repair_options
from ode_core.specs import SolverSpec, StartFrom, TrainingJobSpec
from tests.api.conftest import DIGITS_JOB, SPHERES_JOB, Served, assert_problem, train


def fine_tuning(**changes: Any) -> dict[str, Any]:
    return DIGITS_JOB | {"name": "tuned", "start_from": {"model": "tiny"}} | changes


def test_the_version_that_is_the_latest_when_the_job_is_accepted_is_written_down(served_on_both: Served) -> None:
    for _ in range(2):
        train(served_on_both.store)
    with served_on_both.client() as client:
        latest = client.post("/v1/training-jobs", json=fine_tuning()).json()
        first = client.post("/v1/training-jobs", json=fine_tuning(start_from={"model": "tiny", "version": 1})).json()
        train(served_on_both.store)
        assert client.get(latest["links"]["self"]).json()["spec"]["start_from"] == {"model": "tiny", "version": 2}
    assert first["spec"]["start_from"] == {"model": "tiny", "version": 1}


def test_a_model_may_go_on_from_its_own_last_version_and_shows_where_it_came_from(served: Served) -> None:
    train(served.store)
    train(served.store, DIGITS_JOB | {"start_from": {"model": "tiny", "version": 1}})
    with served.client() as client:
        newest, oldest = client.get("/v1/models/tiny").json()["versions"]
        detail = client.get("/v1/models/tiny/versions/2")
    ModelVersionDetail.model_validate_json(detail.content)
    assert newest["started_from"] == detail.json()["started_from"] == {"model": "tiny", "version": 1}
    assert oldest["started_from"] is None


@pytest.mark.parametrize("kind", ["fine_tune", "retrain"])
def test_the_training_that_an_audit_gives_as_a_repair_is_accepted(served: Served, kind: str) -> None:
    document = SPHERES_JOB | {"dataset": {"kind": "concentric_spheres", "train_samples": 2000}}
    version = train(served.store, document)
    repair = repair_options(
        TrainingJobSpec.model_validate(version.training_spec),
        StartFrom(model=version.model, version=version.version),
        SolverSpec.model_validate(version.solver),
        epsilon=0.01,
        samples=0,
        tried=[],
        no_rescue="none was asked for",
        budget=served.settings.budget,
        verdict="discrete",
    )
    (option,) = (option for option in repair.to_json()["options"] if option["kind"] == kind)
    with served.client() as client:
        accepted = client.post("/v1/training-jobs", json=option["training_job"])
    assert accepted.status_code == 202, accepted.text


@pytest.mark.parametrize("mechanism", [None, True, False])
def test_an_audit_may_be_asked_for_the_mechanism(served: Served, mechanism: bool | None) -> None:
    train(served.store)
    with served.client() as client:
        job = client.post("/v1/evaluation-jobs", json={"kind": "audit", "model": "tiny", "mechanism": mechanism}).json()
    assert job["spec"]["mechanism"] is mechanism


@pytest.mark.parametrize("word", ["yes", "true", 1])
def test_a_word_or_a_number_is_no_boolean(served: Served, word: Any) -> None:
    train(served.store)
    with served.client() as client:
        answer = client.post("/v1/evaluation-jobs", json={"kind": "audit", "model": "tiny", "mechanism": word})
    assert answer.status_code == 422
    assert "mechanism" in answer.text


@pytest.mark.parametrize(
    ("start", "code"),
    [
        ({"model": "nobody"}, "model_not_found"),
        ({"model": "tiny", "version": 7}, "model_version_not_found"),
    ],
)
def test_a_version_that_does_not_exist_is_not_found(served: Served, start: dict[str, Any], code: str) -> None:
    train(served.store)
    with served.client() as client:
        assert_problem(client.post("/v1/training-jobs", json=fine_tuning(start_from=start)), 404, code)
        assert client.get("/v1/jobs", params={"name": "tuned"}).json()["data"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"kind": "classifier", "field": {"kind": "conv2d", "channels": 3}}}, "architecture is not that"),
        ({"start_from": {"model": "spheres"}}, "architecture is not that"),
        ({"dataset": {"kind": "concentric_spheres"}, "model": SPHERES_JOB["model"]}, "architecture is not that"),
        (
            SPHERES_JOB
            | {"dataset": {"kind": "concentric_spheres", "dimension": 3}, "start_from": {"model": "spheres"}},
            "the data set has inputs of shape [3], that of the version it starts from [2]",
        ),
        ({"training": {"precision": "float64"}}, "training.precision is float64"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_any_work(
    served: Served, changes: dict[str, Any], message: str
) -> None:
    train(served.store)
    train(served.store, SPHERES_JOB)
    with served.client() as client:
        response = client.post("/v1/training-jobs", json=fine_tuning(**changes))
    problem = assert_problem(response, 422, "invalid_request")
    assert [error["path"] for error in problem["errors"]] == ["start_from"]
    assert message in problem["detail"]


def test_a_malformed_start_names_its_field(served: Served) -> None:
    with served.client() as client:
        for start, path in (
            ({"model": "tiny", "version": 0}, "start_from.version"),
            ({"version": 1}, "start_from.model"),
            ({"model": "tiny", "weights": "x"}, "start_from.weights"),
        ):
            problem = assert_problem(
                client.post("/v1/training-jobs", json=fine_tuning(start_from=start)), 422, "invalid_request"
            )
            assert [error["path"] for error in problem["errors"]] == [path]
