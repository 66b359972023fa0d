"""Certificates, states along the way, fallbacks and deadlines in the parameters, as Triton's clients send them."""

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from api.inference.prediction_call import LONGEST_SECONDS, AutoSolver
from api.inference_protocol.call_parameters import AskedCall, asked_call
from api.inference_protocol.request import InferRequest, RequestedOutput
from api.problems import Problem
from ode_core.specs import SolverSpec
from tests.api.conftest import SPHERES_JOB, Served, serve, train
from tests.api.solver_choices import store_choice

SAMPLES = np.random.default_rng(1).uniform(-1, 1, (12, 1, 2)).astype(np.float32)
SOLVER = {"method": "heun", "steps": 3}
TIMES = [0.0, 0.25, 1.0]
EXTRA = {"holds", "finer_label", "finer_status", "logit_error", "margin", "trajectory"}


@pytest.fixture
def spheres(served: Served) -> Served:
    train(served.store, SPHERES_JOB)
    return served


@pytest.fixture
def client(spheres: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(urlsplit(spheres.url).netloc) as connected:
        yield connected


def tensor(module: Any = triton) -> Any:
    return module.InferInput("inputs", list(SAMPLES.shape), "FP32").set_data_from_numpy(SAMPLES)


def of_v1(spheres: Served, **body: Any) -> dict[str, Any]:
    with spheres.client() as connected:
        response = connected.post("/v1/models/spheres/predict", json={"inputs": SAMPLES.tolist()} | body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def assert_same_as_v1(result: Any, answer: dict[str, Any]) -> None:
    rows = answer["predictions"]
    certificates = [row["certificate"] for row in rows]
    np.testing.assert_array_equal(result.as_numpy("holds"), [one["holds"] for one in certificates])
    flips = result.as_numpy("finer_label") != result.as_numpy("label")
    np.testing.assert_array_equal(flips, [one["flips"] for one in certificates])
    for name in ("logit_error", "margin"):
        np.testing.assert_allclose(result.as_numpy(name), [one[name] for one in certificates], rtol=1e-3, atol=1e-5)
    states = result.as_numpy("trajectory")
    assert states.shape == (len(SAMPLES), len(TIMES), 1, 2)
    np.testing.assert_allclose(states, [row["trajectory"] for row in rows], rtol=1e-5, atol=1e-6)
    facts = result.get_response()["parameters"]
    assert facts["held"] == answer["certificate"]["held"]
    assert facts["finer_nfe"] == answer["certificate"]["nfe"]
    assert facts["finer_solver"] == "heun-6"


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("times", [TIMES, "0, 0.25, 1", "[0,0.25,1]"])
def test_tritonclient_gets_certificates_and_trajectories_as_tensors(
    spheres: Served, client: triton.InferenceServerClient, binary: bool, times: Any
) -> None:
    names = ["label", *sorted(EXTRA)]
    result = client.infer(
        "spheres",
        [tensor()],
        outputs=None if binary else [triton.InferRequestedOutput(name, binary_data=False) for name in names],
        parameters={"solver": "heun", "steps": 3, "certify": "true" if binary else True, "times": times},
    )
    assert_same_as_v1(result, of_v1(spheres, solver=SOLVER, certify=True, times=TIMES))
    if binary:
        assert set(result.as_numpy("finer_status")) == {b"success"}


def test_tritons_asynchronous_client_gets_them_by_their_names(spheres: Served) -> None:
    async def infer() -> Any:
        async with triton_aio.InferenceServerClient(urlsplit(spheres.url).netloc) as connected:
            return await connected.infer(
                "spheres",
                [tensor(triton_aio)],
                outputs=[triton_aio.InferRequestedOutput(name) for name in ("label", *sorted(EXTRA))],
                parameters={"solver": "heun", "steps": 3, "times": TIMES},
                priority=1,
                timeout=60_000_000,
            )

    assert_same_as_v1(asyncio.run(infer()), of_v1(spheres, solver=SOLVER, certify=True, times=TIMES))


def test_what_costs_more_is_neither_answered_unasked_nor_in_the_metadata(client: triton.InferenceServerClient) -> None:
    plain = client.infer("spheres", [tensor()]).get_response()
    named = {one["name"] for one in client.get_model_metadata("spheres")["outputs"]}
    assert {one["name"] for one in plain["outputs"]} == named
    assert not named & EXTRA


def test_a_check_that_fails_says_why_in_both_protocols(make_settings: Any) -> None:
    # A tenth of the tolerance takes this method three times the evaluations, and the budget lies between.
    solver = {"rtol": 1e-3, "atol": 1e-3}
    with serve(make_settings(budget={"inference_evaluations": 100})) as served:
        train(served.store, SPHERES_JOB)
        rows = of_v1(served, solver=solver | {"method": "heun_euler"}, certify=True)["predictions"]
        with triton.InferenceServerClient(urlsplit(served.url).netloc) as client:
            asked = solver | {"solver": "heun_euler", "certify": True}
            result = client.infer("spheres", [tensor()], parameters=asked)
    failed = result.as_numpy("finer_status") == b"budget_exceeded"
    assert failed.any()
    assert set(result.as_numpy("status")) == {b"success"}
    assert set(result.as_numpy("finer_label")[failed]) == {-1}
    assert not result.as_numpy("holds")[failed].any()
    assert np.isnan(result.as_numpy("logit_error")[failed]).all()
    for row, without in zip(rows, failed, strict=True):
        certificate = row["certificate"]
        assert certificate["status"] == ("budget_exceeded" if without else "success")
        assert ("larger budget" in (certificate["remedy"] or "")) == without
        assert (certificate["flips"] is None) == without


def test_a_bound_on_the_steps_leaves_room_for_the_check(spheres: Served) -> None:
    solver = {"method": "heun_euler", "rtol": 1e-3, "atol": 1e-3}
    steps = [row["accepted"] + row["rejected"] for row in of_v1(spheres, solver=solver)["predictions"]]
    bounded = solver | {"max_steps": max(steps)}
    answer = of_v1(spheres, solver=bounded, certify=True)
    assert {row["certificate"]["status"] for row in answer["predictions"]} == {"success"}
    assert answer["solver"] == bounded
    assert answer["certificate"]["solver"] == bounded | {"rtol": 1e-4, "atol": 1e-4, "max_steps": 4 * max(steps)}


def test_auto_falls_back_and_tells_its_reason(spheres: Served, client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="audit") as refused:
        client.infer("spheres", [tensor()], parameters={"solver": "auto"})
    assert refused.value.status() == "409"
    asked = {"solver": "auto", "otherwise": "training_solver"}
    facts = client.infer("spheres", [tensor()], parameters=asked).get_response()["parameters"]
    assert (facts["solver"], facts["steps"]) == (SPHERES_JOB["solver"]["method"], SPHERES_JOB["solver"]["steps"])
    assert facts["solver_reason"].startswith("No audit of the version has compared solvers. Taken is euler-2, ")

    store_choice(spheres.store, train(spheres.store, SPHERES_JOB))
    asked = {"agreement": "0.99", "evidence": "lower_bound"}
    facts = client.infer("spheres", [tensor()], parameters=asked).get_response()["parameters"]
    of_the_other = of_v1(spheres, solver="auto", agreement=0.99, evidence="lower_bound")
    assert {"method": facts["solver"], "steps": facts["steps"]} == of_the_other["solver"]
    assert facts["solver_reason"] == of_the_other["solver_reason"]


def test_tritons_timeout_is_in_microseconds(client: triton.InferenceServerClient) -> None:
    assert client.infer("spheres", [tensor()], timeout=60_000_000).as_numpy("label").shape == (12,)
    with pytest.raises(InferenceServerException, match="waited 1e-06 s") as refused:
        client.infer("spheres", [tensor()], timeout=1)
    assert refused.value.status() == "504"


@pytest.mark.parametrize("sequence", [{"sequence_id": 3}, {"sequence_id": "mine", "sequence_start": True}])
def test_a_sequence_is_refused_in_words(client: triton.InferenceServerClient, sequence: dict[str, Any]) -> None:
    with pytest.raises(InferenceServerException, match="sequences are not supported") as refused:
        client.infer("spheres", [tensor()], **sequence)
    assert refused.value.status() == "422"


def test_a_wrong_time_is_named_with_the_models_interval(spheres: Served) -> None:
    one = {"name": "inputs", "datatype": "FP32", "shape": [1, 1, 2], "data": [0, 0]}
    with spheres.client() as connected:
        response = connected.post("/v2/models/spheres/infer", json={"inputs": [one], "parameters": {"times": [2]}})
    assert (response.status_code, "between 0 and 1" in response.json()["error"]) == (422, True)


def asked(parameters: dict[str, Any], outputs: list[str] | None = None) -> AskedCall:
    wanted = None if outputs is None else tuple(RequestedOutput(name, True) for name in outputs)
    return asked_call(InferRequest(None, {}, wanted, True, parameters))


@pytest.mark.parametrize(
    ("parameters", "outputs", "expected"),
    [
        ({}, None, AskedCall()),
        ({"content_type": "np", "headers": {"a": "b"}, "priority": 1, "timeout": None}, None, AskedCall()),
        ({"sequence_id": 0, "sequence_start": False, "sequence_end": False}, None, AskedCall()),
        ({"sequence_id": ""}, None, AskedCall()),
        ({"certify": "True"}, None, AskedCall(certify=True)),
        ({"certify": False}, ["label"], AskedCall()),
        ({}, ["holds"], AskedCall(certify=True)),
        ({"times": 0.5}, None, AskedCall(times=(0.5,))),
        ({"times": "0.5"}, ["trajectory"], AskedCall(times=(0.5,))),
        ({"timeout": 0}, None, AskedCall()),
        ({"timeout": 250_000}, None, AskedCall(seconds=0.25)),
        ({"timeout": "250000"}, None, AskedCall(seconds=0.25)),
        ({"timeout": 2**62}, None, AskedCall(seconds=LONGEST_SECONDS)),
        ({"deadline_seconds": "1.5"}, None, AskedCall(seconds=1.5)),
        ({"otherwise": "training_solver"}, None, AskedCall(AutoSolver(otherwise="training_solver"))),
        (
            {"solver": "dopri5", "rtol": 0.1, "atol": 0.1, "controller": "pi"},
            None,
            AskedCall(SolverSpec(method="dopri5", rtol=0.1, atol=0.1, controller="pi")),
        ),
    ],
)
def test_parameters_are_read(parameters: dict[str, Any], outputs: list[str] | None, expected: AskedCall) -> None:
    assert asked(parameters, outputs) == expected


@pytest.mark.parametrize(
    ("parameters", "outputs", "path"),
    [
        ({"slover": "rk4"}, None, "slover"),
        ({"certify": 1}, None, "certify"),
        ({"certify": "yes"}, None, "certify"),
        ({"certify": False}, ["margin"], "certify"),
        ({}, ["trajectory"], "times"),
        ({"times": [0.5]}, ["label"], "times"),
        ({"times": "0.5, then 1"}, None, "times"),
        ({"times": []}, None, "times"),
        ({"times": ""}, None, "times"),
        ({"times": True}, None, "times"),
        ({"times": [0.5, 0.2]}, None, "times"),
        ({"times": ["0.5"]}, None, "times"),
        ({"timeout": -1}, None, "timeout"),
        ({"timeout": 0.5}, None, "timeout"),
        ({"timeout": "soon"}, None, "timeout"),
        ({"timeout": 1, "deadline_seconds": 1}, None, "timeout"),
        ({"deadline_seconds": 0}, None, "deadline_seconds"),
        ({"deadline_seconds": 61}, None, "deadline_seconds"),
        ({"solver": "auto", "evidence": "hope"}, None, "evidence"),
        ({"solver": "rk4", "steps": 4, "otherwise": "refuse"}, None, "otherwise"),
        ({"sequence_end": True}, None, "sequence_end"),
    ],
)
def test_a_wrong_parameter_is_named(parameters: dict[str, Any], outputs: list[str] | None, path: str) -> None:
    with pytest.raises(Problem) as refused:
        asked(parameters, outputs)
    assert (refused.value.status_code, refused.value.errors[0]["path"]) == (422, f"parameters.{path}")
