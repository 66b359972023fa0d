"""Statistics as Triton's extension defines them: a batch that several requests share is one execution."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from api.inference.prediction_call import Outcome
from api.inference.runtime import ModelRuntime
from api.inference.waiting_calls import CheckedCall
from tests.api.conftest import SPHERES_JOB, Served, train
from tests.conftest import wait_until

V1, V2 = "/v1/models/spheres/predict", "/v2/models/spheres/infer"


def test_requests_that_are_computed_together_are_one_execution_and_those_of_v1_are_not_counted(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(served.store, SPHERES_JOB)
    began, go_on = threading.Event(), threading.Event()
    compute = ModelRuntime.compute

    def held(self: ModelRuntime, batch: Sequence[CheckedCall], wanted: Callable[[], bool]) -> Outcome:
        began.set()
        assert go_on.wait(20)
        return compute(self, batch, wanted)

    monkeypatch.setattr(ModelRuntime, "compute", held)

    def ask(rows: int) -> int:
        tensor = {"name": "inputs", "datatype": "FP32", "shape": [rows, 1, 2], "data": [0.1] * (2 * rows)}
        body: dict[str, Any] = {"inputs": [tensor]}
        with served.client() as client:
            return client.post(V2, json=body).status_code

    def ask_v1() -> int:
        with served.client() as client:
            return client.post(V1, json={"inputs": [[[0.1, 0.1]]]}).status_code

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(ask, 5)
        assert began.wait(20)
        together = [threads.submit(ask, 2), threads.submit(ask, 3), threads.submit(ask_v1)]
        wait_until(lambda: len(served.app.state.services.inference._batcher._open) == 4, "all have been handed over")
        go_on.set()
        assert [answer.result() for answer in [first, *together]] == [200] * 4
    with served.client() as client:
        assert client.post(V1, json={"inputs": [[[0.1, 0.1]]]}).status_code == 200
        (statistics,) = client.get("/v2/models/spheres/stats").json()["model_stats"]
    assert (statistics["inference_count"], statistics["execution_count"]) == (10, 2)
    assert {part: facts["count"] for part, facts in statistics["inference_stats"].items()} == {
        "success": 3,
        "fail": 0,
        "queue": 3,
        "compute_input": 3,
        "compute_infer": 3,
        "compute_output": 3,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    sizes = [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in statistics["batch_stats"]]
    assert sizes == [(5, 1), (6, 1)]  # two, three, and the one of /v1
