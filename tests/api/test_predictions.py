"""Predictions with a solver of the caller's choice."""

import json
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from api.inference import micro_batcher, prediction_call
from api.inference.loaded_models import LoadedModels
from api.inference.prediction_call import Outcome
from api.inference.runtime import ModelRuntime
from api.inference.served_version import ServedVersion
from api.schemas.prediction import PredictAnswer
from ode_core.models.classifier import build_model
from ode_core.models.weights import load_classifier, weights_to_bytes
from ode_core.specs import Budget, SolverSpec, TrainingJobSpec
from store.models import ModelVersion
from store.settings import Settings
from store.unit_of_work import Store
from tests.api.conftest import DIGITS_JOB, SPHERES_JOB, Served, assert_problem, claim, serve, submit, train

DOPRI5 = {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}
DIGIT = [[[0, 0, 5, 13, 9, 1, 0, 0]] * 8]
SEVEN_ROWS = DIGIT[0][:7]
POINT = [[0.1, 0.12]]


def predict(client: httpx.Client, inputs: Any, solver: Any = None, model: str = "tiny") -> httpx.Response:
    return client.post(f"/v1/models/{model}/predict", json={"inputs": inputs, "solver": solver})


def expected_logits(document: dict[str, Any], inputs: Any, solver: dict[str, Any]) -> torch.Tensor:
    """What ode_core says without the service in between."""
    model = build_model(TrainingJobSpec.model_validate(document)).eval()
    with torch.inference_mode():
        return model(torch.tensor(inputs), SolverSpec.model_validate(solver)).double()


def test_a_prediction_is_what_the_model_computes(served_on_both: Served) -> None:
    train(served_on_both.store)
    solver = {"method": "rk4", "steps": 4}
    with served_on_both.client() as client:
        response = predict(client, [DIGIT] * 3, solver)
    assert response.status_code == 200, response.text
    PredictAnswer.model_validate_json(response.content)
    answer = response.json()
    assert (answer["model"], answer["version"], answer["solver"]) == ("tiny", 1, solver)
    assert (answer["nfe"], answer["accepted"], answer["rejected"], answer["failures"]) == (16, 4, 0, 0)
    logits = expected_logits(DIGITS_JOB, [DIGIT] * 3, solver)
    for row, prediction in enumerate(answer["predictions"]):
        assert prediction["label"] == int(logits[row].argmax())
        assert prediction["probabilities"] == pytest.approx(logits[row].softmax(-1).tolist(), abs=1e-6)
        assert prediction["logits"] == pytest.approx(logits[row].tolist(), abs=1e-5)
        assert math.isclose(sum(prediction["probabilities"]), 1)
        assert (prediction["status"], prediction["remedy"], prediction["nfe"]) == ("success", None, 16)


def test_without_a_solver_the_one_the_version_was_trained_with_is_used(served: Served) -> None:
    train(served.store)
    with served.client() as client:
        without = client.post("/v1/models/tiny/predict", json={"inputs": [DIGIT]}).json()
        null = predict(client, [DIGIT], None).json()
    assert without == null
    assert (null["solver"], null["nfe"]) == ({"method": "euler", "steps": 2}, 2)


def test_an_adaptive_solver_reports_what_it_took(served: Served) -> None:
    train(served.store, SPHERES_JOB)
    with served.client() as client:
        answer = predict(client, [POINT, [[0.4, 0.1]]], DOPRI5, "spheres").json()
    assert [len(one["probabilities"]) for one in answer["predictions"]] == [2, 2]
    evaluations = [one["nfe"] for one in answer["predictions"]]
    assert answer["nfe"] == sum(evaluations) / 2
    assert all(one["accepted"] >= 1 for one in answer["predictions"])
    assert answer["solver"] == DOPRI5


def test_an_answer_does_not_depend_on_who_else_is_in_the_request(served: Served) -> None:
    train(served.store, SPHERES_JOB)
    points = [[[0.01 * number, 0.3 - 0.02 * number]] for number in range(20)]
    with served.client() as client:
        together = predict(client, points, DOPRI5, "spheres").json()["predictions"]
        alone = [predict(client, [point], DOPRI5, "spheres").json()["predictions"][0] for point in points]
    for one, other in zip(together, alone, strict=True):
        assert (one["nfe"], one["label"]) == (other["nfe"], other["label"])
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


def test_more_rows_than_are_solved_at_once_keep_their_order(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.inference.runtime.ROWS_AT_ONCE", 3)
    train(served.store, SPHERES_JOB)
    points = [[[0.05 * number, 0.1]] for number in range(8)]
    with served.client() as client:
        answer = predict(client, points, {"method": "euler", "steps": 3}, "spheres").json()
    logits = expected_logits(SPHERES_JOB, points, {"method": "euler", "steps": 3})
    shares = [one["probabilities"] for one in answer["predictions"]]
    np.testing.assert_allclose(shares, logits.softmax(-1).numpy(), atol=1e-6)


def test_versions_are_predicted_with_separately_and_the_latest_by_default(served: Served) -> None:
    train(served.store)
    train(served.store, DIGITS_JOB | {"training": {"seed": 1}})
    with served.client() as client:
        first = client.post("/v1/models/tiny/versions/1/predict", json={"inputs": [DIGIT]}).json()
        second = client.post("/v1/models/tiny/versions/2/predict", json={"inputs": [DIGIT]}).json()
        latest = predict(client, [DIGIT]).json()
        assert_problem(
            client.post("/v1/models/tiny/versions/3/predict", json={"inputs": [DIGIT]}), 404, "model_version_not_found"
        )
        assert_problem(predict(client, [DIGIT], model="nobody"), 404, "model_not_found")
        train(served.store, DIGITS_JOB | {"training": {"seed": 2}})
        assert predict(client, [DIGIT]).json()["version"] == 3
    assert (first["version"], second["version"]) == (1, 2)
    assert first["predictions"] != second["predictions"]
    assert latest == second


@pytest.mark.parametrize(
    ("inputs", "path", "words"),
    [
        ([POINT], "inputs.0.0", "[n, 1, 8, 8]"),
        (DIGIT, "inputs.0", "put it into a list"),
        ([DIGIT[0]], "inputs.0", "received [1, 8, 8]"),
        ([[*DIGIT[0], [0]]], "inputs.0", "must be a list of 1, but has 9"),
        ([[float(n) for n in range(64)]], "inputs.0", "reshape each input to [1, 8, 8]"),
        ([DIGIT, [[*SEVEN_ROWS, [0] * 7]]], "inputs.1.0.7", "must be a list of 8, but has 7"),
        ([[[*SEVEN_ROWS, [0, 0, 0, 0, 0, 0, 0, "1"]]]], "inputs.0.0.7.7", "must be a number, not a text"),
        ([[[*SEVEN_ROWS, [0, 0, 0, 0, 0, 0, 0, None]]]], "inputs.0.0.7.7", "must be a number, not null"),
        ([[[*SEVEN_ROWS, [0, 0, 0, 0, 0, 0, 0, True]]]], "inputs.0.0.7.7", "must be a number, not true"),
        ([[[*SEVEN_ROWS, [0, 0, 0, 0, 0, 0, 0, {}]]]], "inputs.0.0.7.7", "must be a number, not an object"),
        ([[[*SEVEN_ROWS, [0, 0, 0, 0, 0, 0, 0, [1]]]]], "inputs.0.0.7.7", "must be a number, not a list"),
        ([DIGIT, 5], "inputs.1", "must be a list of 1, not a number"),
        (["digit"], "inputs.0", "must be a list of 1, not a text"),
    ],
)
def test_inputs_of_the_wrong_shape_are_refused_with_the_right_one(
    refusing_client: httpx.Client, inputs: Any, path: str, words: str
) -> None:
    problem = assert_problem(predict(refusing_client, inputs), 422, "invalid_shape")
    assert problem["errors"][0]["path"] == path
    assert words in problem["detail"]
    assert "[n, 1, 8, 8]" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": None}, "inputs"),
        ({"inputs": "text"}, "inputs"),
        ({"inputs": {"0": 1}}, "inputs"),
        ({"inputs": [DIGIT], "solvers": []}, "solvers"),
        ({"inputs": [DIGIT], "solver": {"method": "rk5", "steps": 1}}, "solver.method"),
        ({"inputs": [DIGIT], "solver": {"method": "euler", "steps": 0}}, "solver.steps"),
        ({"inputs": [DIGIT], "solver": "euler"}, "solver"),
        ({"inputs": [DIGIT], "solver": {"method": "euler", "step_size": 1e-12}}, "solver"),
    ],
)
def test_a_wrong_field_is_named(refusing_client: httpx.Client, body: Any, path: str) -> None:
    response = refusing_client.post("/v1/models/tiny/predict", json=body)
    assert assert_problem(response, 422, "invalid_request")["errors"][0]["path"] == path


@pytest.mark.parametrize("number", ["1e39", "-1e300", "123456789012345678901234567890123456789012"])
def test_a_number_beyond_the_models_precision_is_refused(refusing_client: httpx.Client, number: str) -> None:
    response = refusing_client.post(
        "/v1/models/spheres/predict",
        content=f'{{"inputs": [[[0.1, 0.1]], [[0.1, {number}]]]}}',
        headers={"Content-Type": "application/json"},
    )
    problem = assert_problem(response, 422, "invalid_request")
    assert problem["errors"][0] == {"path": "inputs.1.0.1", "message": "the number does not fit into float32"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(refusing_client: httpx.Client, number: str) -> None:
    response = refusing_client.post(
        "/v1/models/spheres/predict",
        content=f'{{"inputs": [[[0.1, {number}]]]}}',
        headers={"Content-Type": "application/json"},
    )
    assert_problem(response, 400, "invalid_json")


def test_too_many_rows_and_too_many_evaluations_are_refused(make_settings: Callable[..., Settings]) -> None:
    budget = Budget(inference_rows=2, inference_evaluations=100)
    with serve(make_settings(budget=budget)) as served, served.client() as client:
        train(served.store)
        problem = assert_problem(predict(client, [DIGIT] * 3), 422, "budget_exceeded")
        assert "send fewer" in problem["detail"]
        problem = assert_problem(predict(client, [DIGIT], {"method": "rk4", "steps": 26}), 422, "budget_exceeded")
        assert problem["errors"][0]["path"] == "solver"
        adaptive = {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5, "max_steps": 1000}
        assert_problem(predict(client, [DIGIT], adaptive), 422, "budget_exceeded")
        assert predict(client, [DIGIT], {"method": "rk4", "steps": 25}).status_code == 200


def blown_up(store: Store) -> ModelVersion:
    """A model whose state overflows for inputs far from the data."""
    spec = TrainingJobSpec.model_validate(SPHERES_JOB | {"name": "wild"})
    model = build_model(spec)
    with torch.no_grad():
        for parameter in model.field.parameters():
            parameter.fill_(30.0)
    job = submit(store, SPHERES_JOB | {"name": "wild"})
    attempt = claim(store, job)
    blob_id = store.save_blob(weights_to_bytes(model), job_id=job.id, attempt=attempt)
    with store.transaction() as tx:
        version = tx.models.register_version(
            "wild", job.id, training_spec=job.spec, solver={"method": "euler", "steps": 2}, blob_id=blob_id, metadata={}
        )
        tx.jobs.succeed(job.id, attempt, {"model": "wild", "version": 1})
    return version


def test_a_sample_whose_solve_fails_has_nulls_and_a_remedy_and_the_others_are_answered(served: Served) -> None:
    blown_up(served.store)
    with served.client() as client:
        response = predict(client, [[[1e30, 1e30]], [[-1e9, -1e9]]], {"method": "euler", "steps": 50}, "wild")
    assert response.status_code == 200
    assert "NaN" not in response.text
    failed, fine = response.json()["predictions"]
    assert failed["status"] == "non_finite"
    assert (failed["label"], failed["probabilities"], failed["logits"]) == (None, None, None)
    assert "steps" in failed["remedy"]
    assert (fine["status"], fine["remedy"]) == ("success", None)
    assert fine["label"] in (0, 1)
    assert response.json()["failures"] == 1
    json.loads(response.content, parse_constant=pytest.fail)


def test_a_sample_that_needs_more_evaluations_than_the_budget_says_so(make_settings: Callable[..., Settings]) -> None:
    with serve(make_settings(budget=Budget(inference_evaluations=30))) as served, served.client() as client:
        blown_up(served.store)
        (one,) = predict(client, [POINT], DOPRI5, "wild").json()["predictions"]
    assert one["status"] == "budget_exceeded"
    assert one["nfe"] <= 30


@pytest.mark.parametrize(("job", "row"), [(DIGITS_JOB, DIGIT), (SPHERES_JOB, [[0.1, 0.2]])])
def test_a_prediction_that_takes_too_long_is_stopped(
    served: Served, monkeypatch: pytest.MonkeyPatch, job: dict[str, Any], row: list[Any]
) -> None:
    train(served.store, job)
    with served.client() as client:
        assert predict(client, [row], model=job["name"]).status_code == 200  # loads torch and the model
        monkeypatch.setattr(prediction_call, "LONGEST_SECONDS", 0.2)
        slow = {"method": "euler", "steps": 20_000}
        problem = assert_problem(predict(client, [row] * 2000, slow, model=job["name"]), 422, "budget_exceeded")
        assert "fewer steps" in problem["detail"]
        monkeypatch.undo()
        assert predict(client, [row], model=job["name"]).status_code == 200


def test_a_prediction_nobody_waits_for_is_stopped(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batcher, "LOOK_SECONDS", 0.05)
    train(served.store)
    slow = {"method": "euler", "steps": 20_000}
    with served.client() as client:
        assert predict(client, [DIGIT]).status_code == 200  # loads torch and the model
        with pytest.raises(httpx.ReadTimeout), served.client() as impatient:
            impatient.post(
                "/v1/models/tiny/predict",
                json={"inputs": [DIGIT] * 4000, "solver": slow},
                timeout=httpx.Timeout(30, read=0.5),
            )
        started = time.monotonic()
        assert predict(client, [DIGIT]).status_code == 200
        assert time.monotonic() - started < 20  # the slow one takes minutes


def test_more_requests_than_may_wait_are_asked_to_come_back(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batcher, "MAX_WAITING", 1)
    go_on, began = threading.Event(), threading.Event()
    compute = ModelRuntime.compute

    def compute_slowly(self: ModelRuntime, *arguments: Any) -> Outcome:
        began.set()
        assert go_on.wait(30)
        return compute(self, *arguments)

    monkeypatch.setattr(ModelRuntime, "compute", compute_slowly)
    train(served.store)
    with ThreadPoolExecutor(1) as threads, served.client() as client, served.client() as other:
        first = threads.submit(predict, client, [DIGIT])
        try:
            assert began.wait(30)
            response = predict(other, [DIGIT])
            assert_problem(response, 503, "busy")
            assert response.headers["retry-after"] == "1"
        finally:
            go_on.set()
        assert first.result().status_code == 200


def test_parallel_callers_each_get_their_own_answer(served: Served) -> None:
    train(served.store, SPHERES_JOB)
    points = [[[0.05 * number, -0.03 * number]] for number in range(16)]
    logits = expected_logits(SPHERES_JOB, points, {"method": "rk4", "steps": 8})

    def ask(number: int) -> Any:
        with served.client() as client:
            return predict(client, [points[number]], {"method": "rk4", "steps": 8}, "spheres").json()

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(16)))
    shares = [answer["predictions"][0]["probabilities"] for answer in answers]
    np.testing.assert_allclose(shares, logits.softmax(-1).numpy(), atol=1e-6)


def test_models_used_longest_ago_leave_the_memory_first(store: Store) -> None:
    documents = [DIGITS_JOB | {"name": name} for name in ("a", "b", "c")]
    versions = [train(store, document) for document in documents]
    alone = LoadedModels(store, lambda: None)
    alone.get(ServedVersion.of(versions[0]))
    size = alone.bytes
    own = sum(weight.nbytes for weight in build_model(TrainingJobSpec.model_validate(DIGITS_JOB)).parameters())
    assert size > own  # some of the weights are there twice, laid out otherwise
    models = LoadedModels(store, lambda: None, cache_bytes=2 * size)
    for number in (0, 1, 0, 2):
        models.get(ServedVersion.of(versions[number]))
    assert models.versions == [versions[0].id, versions[2].id]
    assert models.bytes == 2 * size


def test_weights_that_are_damaged_are_reported_without_internals(served: Served) -> None:
    version = train(served.store)
    from sqlalchemy import update

    from store.tables import blob_chunk

    with served.store.engine.begin() as connection:
        connection.execute(update(blob_chunk).where(blob_chunk.c.blob_id == version.blob_id).values(data=b"x"))
    with served.client() as client:
        problem = assert_problem(predict(client, [DIGIT]), 500, "weights_damaged")
    assert "train it again" in problem["detail"]


def test_a_model_in_double_precision_is_served_in_it(served: Served) -> None:
    document = SPHERES_JOB | {"training": {"precision": "float64"}}
    version = train(served.store, document)
    with served.client() as client:
        answer = predict(client, [[[1 / 3, 1e39]]], {"method": "euler", "steps": 2}, "spheres")
    assert answer.status_code == 200
    spec = TrainingJobSpec.model_validate(document)
    model = load_classifier(spec.architecture, spec.dataset, served.store.read_blob(version.blob_id))
    logits = model(torch.tensor([[[1 / 3, 1e39]]], dtype=torch.float64), SolverSpec(method="euler", steps=2))
    assert answer.json()["predictions"][0]["logits"] == pytest.approx(logits[0].tolist())
