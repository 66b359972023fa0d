"""Predictions in batches: nobody's answer depends on who else asks, and each caller gets its own."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from api.inference import micro_batcher, prediction_call
from api.inference.call_checks import CallChecks
from api.inference.micro_batcher import MicroBatcher
from api.inference.prediction_call import Outcome, Prediction, PredictionCall
from api.inference.prediction_request import JsonInputs, parse_body
from api.inference.runtime import NUMBERS_AT_ONCE, ROWS_AT_ONCE, ModelRuntime
from api.inference.served_version import ServedVersion
from api.inference.waiting_calls import CheckedCall, Ticket
from api.problems import Problem
from api.request_metrics import RequestMetrics
from ode_core.solvers.status import SolveStatus
from ode_core.specs import Budget, SolverSpec
from store.unit_of_work import Store
from tests.api.conftest import SPHERES_JOB, Served, assert_problem, train
from tests.conftest import wait_until

EULER = SolverSpec(method="euler", steps=2)
RK4 = SolverSpec(method="rk4", steps=2)
MOST_ROWS = 8


class Echo:
    """A computation that answers with its inputs, held back until it is let go."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.began = threading.Event()
        self.batches: list[list[int]] = []

    def rows_at_once(self, served: ServedVersion, times: int) -> int:
        return MOST_ROWS

    def compute(self, batch: Sequence[CheckedCall], go_on: Callable[[], bool]) -> Outcome:
        self.began.set()
        assert self.go_on.wait(30)
        rows = np.concatenate([call.inputs for call in batch])
        self.batches.append([len(call) for call in batch])
        if (rows < 0).any():
            raise RuntimeError("a row that cannot be computed")
        count = np.ones(len(rows), np.int64)
        shares = np.stack([rows, 1 - rows], axis=1)
        return Outcome(count, shares, shares, [SolveStatus.SUCCESS] * len(rows), count, count, count)

    def warm(self, served: ServedVersion) -> float:
        return 0.0

    def forget(self, version_id: str) -> bool:
        return False


@pytest.fixture
def served_version(store: Store) -> ServedVersion:
    return ServedVersion.of(train(store, SPHERES_JOB))


def call_of(values: Sequence[float], solver: SolverSpec = EULER, seconds: float = 30.0) -> PredictionCall:
    return PredictionCall("spheres", None, JsonInputs(list(values), False), solver, seconds=seconds)


def run_together(
    served: ServedVersion, calls: Sequence[PredictionCall], echo: Echo
) -> tuple[list[Prediction | BaseException], Echo]:
    """Ask for the first call alone, and while it is computed for all others."""

    def check(tickets: Sequence[Ticket]) -> list[CheckedCall | Exception]:
        return [
            CheckedCall(ticket, served, ticket.call.solver, None, np.array(ticket.call.inputs.inputs))  # type: ignore[arg-type,attr-defined]
            for ticket in tickets
        ]

    async def ask() -> list[Prediction | BaseException]:
        batcher = MicroBatcher(check, lambda: echo, RequestMetrics())
        batcher.start()
        try:
            first = asyncio.ensure_future(batcher.predict(calls[0], 1, None))
            await asyncio.to_thread(echo.began.wait, 30)
            others = [asyncio.ensure_future(batcher.predict(call, 1, None)) for call in calls[1:]]
            await asyncio.sleep(0)  # they are handed over
            await asyncio.sleep(0)
            echo.go_on.set()
            return await asyncio.gather(first, *others, return_exceptions=True)
        finally:
            echo.go_on.set()
            await asyncio.to_thread(batcher.close)

    return asyncio.run(ask()), echo


def shares_of(answer: Prediction | BaseException) -> list[float]:
    assert isinstance(answer, Prediction), answer
    return list(answer.outcome.probabilities[:, 0])


def test_what_comes_while_a_batch_is_computed_is_the_next_batch_in_order(served_version: ServedVersion) -> None:
    values = [[0.1], [0.2, 0.21], [0.3], [0.4, 0.41, 0.42]]
    answers, echo = run_together(served_version, [call_of(rows) for rows in values], Echo())
    assert [shares_of(answer) for answer in answers] == values
    assert echo.batches == [[1], [2, 1, 3]]


def test_a_batch_has_no_more_rows_than_it_may_and_no_call_is_split(served_version: ServedVersion) -> None:
    sizes = [1, 5, 3, 4, 20, 4, 4]
    values = [[number + row / 100 for row in range(size)] for number, size in enumerate(sizes)]
    answers, echo = run_together(served_version, [call_of(rows) for rows in values], Echo())
    assert [shares_of(answer) for answer in answers] == values
    assert all(sum(batch) <= MOST_ROWS or len(batch) == 1 for batch in echo.batches)
    assert echo.batches == [[1], [5, 3], [4], [20], [4, 4]]


def test_calls_with_other_solvers_are_other_batches_and_none_waits_behind_a_crowd(
    served_version: ServedVersion,
) -> None:
    calls = [call_of([0.1])] + [call_of([0.1] * 4)] * 4 + [call_of([0.5], RK4)]
    answers, echo = run_together(served_version, calls, Echo())
    assert echo.batches == [[1], [4, 4], [1], [4, 4]]
    last = answers[-1]
    assert isinstance(last, Prediction)
    assert (last.solver, last.execution.rows) == (RK4, 1)


def test_a_call_that_fails_fails_alone(served_version: ServedVersion) -> None:
    calls = [call_of([0.1]), call_of([0.2]), call_of([-1.0]), call_of([0.4])]
    answers, _ = run_together(served_version, calls, Echo())
    assert [shares_of(answers[position]) for position in (0, 1, 3)] == [[0.1], [0.2], [0.4]]
    assert isinstance(answers[2], RuntimeError)


def test_what_is_too_late_is_not_computed(served_version: ServedVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [call_of([0.1]), call_of([0.2], seconds=1e-9), call_of([0.3])]
    answers, echo = run_together(served_version, calls, Echo())
    assert isinstance(answers[1], Problem)
    assert (answers[1].status_code, answers[1].code) == (504, "deadline_exceeded")
    assert echo.batches == [[1], [1]]
    assert shares_of(answers[2]) == [0.3]


def test_stopping_refuses_what_waits(served_version: ServedVersion) -> None:
    async def ask() -> BaseException:
        batcher = MicroBatcher(lambda tickets: [], Echo, RequestMetrics())
        batcher.start()
        await asyncio.to_thread(batcher.close)
        with pytest.raises(Problem) as refused:
            await batcher.predict(call_of([0.1]), 1, None)
        return refused.value

    problem = asyncio.run(ask())
    assert isinstance(problem, Problem)
    assert (problem.status_code, problem.code) == (503, "stopping")


def test_more_bytes_than_may_wait_are_refused(served_version: ServedVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batcher, "MAX_WAITING_BYTES", 1)
    answers, _ = run_together(served_version, [call_of([0.1]), call_of([0.2])], Echo())
    assert shares_of(answers[0]) == [0.1]
    assert isinstance(answers[1], Problem)
    assert answers[1].code == "busy"


SOLVERS: list[dict[str, Any] | None] = [
    {"method": "rk4", "steps": 8},
    {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5},
    {"method": "bosh3", "rtol": 1e-4, "atol": 1e-4},
    {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3, "backend": "torchdiffeq"},
    {"method": "euler", "steps": 3},
    {"method": "implicit_midpoint", "steps": 2},
    None,
]


FIELDS: list[dict[str, Any]] = [
    {"kind": "conv1d", "channels": 32, "activation": "relu"},
    {"kind": "mlp", "hidden": [50, 33], "activation": "relu"},
    {"kind": "mlp", "hidden": [64], "activation": "silu", "time_dependent": True},
]


def point(number: int, field: dict[str, Any]) -> list[Any]:
    coordinates = [0.04 * number - 1.3, 0.9 - 0.03 * number]
    return [coordinates] if field["kind"] == "conv1d" else coordinates


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field['kind']} {field['activation']}")
def test_under_load_with_mixed_solvers_everybody_gets_the_very_answer_it_gets_alone(
    served: Served, monkeypatch: pytest.MonkeyPatch, field: dict[str, Any]
) -> None:
    train(served.store, SPHERES_JOB | {"model": {"kind": "classifier", "field": field}})
    sizes: list[int] = []
    compute = ModelRuntime.compute

    def noting(self: ModelRuntime, batch: Sequence[CheckedCall], go_on: Callable[[], bool]) -> Outcome:
        sizes.append(len(batch))
        return compute(self, batch, go_on)

    monkeypatch.setattr(ModelRuntime, "compute", noting)
    asked = [
        {"inputs": [point(n + k, field) for k in range(1 + n % 3)], "solver": SOLVERS[n % len(SOLVERS)]}
        for n in range(70)
    ]

    def ask(body: Any) -> dict[str, Any]:
        with served.client() as client:
            response = client.post("/v1/models/spheres/predict", json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    with ThreadPoolExecutor(16) as threads:
        together = list(threads.map(ask, asked))
    assert max(sizes) > 1, "nothing was computed together"
    for body, answer in zip(asked, together, strict=True):
        alone = ask(body)
        assert answer["solver"] == alone["solver"]
        assert len(answer["predictions"]) == len(body["inputs"])
        assert answer["predictions"] == alone["predictions"]


def test_an_alias_that_moves_is_followed_with_the_next_request(served: Served) -> None:
    first = train(served.store, SPHERES_JOB)
    second = train(served.store, SPHERES_JOB | {"training": {"seed": 1}})
    with served.client() as client:
        for version in (first, second, first):
            moved = client.put("/v1/models/spheres/aliases/live", json={"version": version.version})
            assert moved.status_code in (200, 201), moved.text
            answer = client.post("/v1/models/spheres/aliases/live/predict", json={"inputs": [[[0.1, 0.2]]]})
            assert answer.json()["version"] == version.version
        wrong = client.post("/v1/models/spheres/aliases/nobody/predict", json={"inputs": [[[0.1, 0.2]]]})
        assert_problem(wrong, 404, "alias_not_found")


def fitting(served: ServedVersion) -> Callable[[Sequence[Ticket]], list[CheckedCall | Exception]]:
    """A check that finds that all calls fit."""
    return lambda tickets: [CheckedCall(ticket, served, EULER, None, np.zeros(1)) for ticket in tickets]


def with_batcher(
    batcher: MicroBatcher, use: Callable[[MicroBatcher], Coroutine[Any, Any, Prediction | BaseException]]
) -> Prediction | BaseException:
    async def ask() -> Prediction | BaseException:
        batcher.start()
        try:
            return await asyncio.wait_for(use(batcher), 20)
        finally:
            await asyncio.to_thread(batcher.close)

    return asyncio.run(ask())


def ready_echo() -> Echo:
    echo = Echo()
    echo.go_on.set()
    return echo


def test_an_errand_that_nobody_waits_for_any_more_does_not_end_the_thread(served_version: ServedVersion) -> None:
    async def use(batcher: MicroBatcher) -> Prediction | BaseException:
        held = threading.Event()
        first = asyncio.ensure_future(batcher.run_errand(lambda computation: held.wait(20)))
        second = asyncio.ensure_future(batcher.run_errand(lambda computation: None))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.sleep(0.05)
        held.set()
        await first
        return await batcher.predict(call_of([0.1]), 1, None)

    answer = with_batcher(MicroBatcher(fitting(served_version), ready_echo, RequestMetrics()), use)
    assert isinstance(answer, Prediction)


def test_a_computation_that_cannot_be_made_fails_the_call_and_the_next_one_tries_again(
    served_version: ServedVersion,
) -> None:
    made: list[int] = []

    def make() -> Echo:
        made.append(1)
        if len(made) == 1:
            raise ImportError("no torch")
        return ready_echo()

    async def use(batcher: MicroBatcher) -> Prediction | BaseException:
        with pytest.raises(ImportError):
            await batcher.predict(call_of([0.1]), 1, None)
        return await batcher.predict(call_of([0.1]), 1, None)

    answer = with_batcher(MicroBatcher(fitting(served_version), make, RequestMetrics()), use)
    assert isinstance(answer, Prediction)


@pytest.mark.parametrize("by", ["the watch", "the thread"])
def test_who_is_too_late_because_torch_was_loaded_is_told_so_and_others_are_not(
    served_version: ServedVersion, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(micro_batcher, "LOOK_SECONDS", 0.01 if by == "the watch" else 1.0)
    loaded = threading.Event()
    echo = Echo()

    def make() -> Echo:
        assert loaded.wait(20)
        return echo

    async def use(batcher: MicroBatcher) -> Prediction | BaseException:
        early = asyncio.ensure_future(batcher.predict(call_of([0.1], seconds=0.05), 1, None))
        if by == "the watch":
            await asyncio.wait([early])
        else:
            await asyncio.sleep(0.1)  # its time is up before it can be begun
        loaded.set()
        with pytest.raises(Problem) as while_loading:
            await early
        assert (while_loading.value.status_code, while_loading.value.code) == (504, "deadline_exceeded")
        assert "still loading what computes predictions" in while_loading.value.detail
        assert "ODENESS_WARM_MODELS" in while_loading.value.detail
        await batcher.run_errand(lambda computation: None)
        held = asyncio.ensure_future(batcher.predict(call_of([0.2]), 1, None))
        await asyncio.to_thread(echo.began.wait, 20)
        with pytest.raises(Problem, match="the server was busy"):
            await batcher.predict(call_of([0.3], seconds=0.05), 1, None)
        echo.go_on.set()
        return await held

    answer = with_batcher(MicroBatcher(fitting(served_version), make, RequestMetrics()), use)
    assert isinstance(answer, Prediction)


def test_a_connection_that_cannot_be_looked_at_does_not_end_the_watch(
    served_version: ServedVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_batcher, "LOOK_SECONDS", 0.01)
    echo = Echo()

    async def broken() -> bool:
        raise OSError("broken")

    async def use(batcher: MicroBatcher) -> Prediction | BaseException:
        first = asyncio.ensure_future(batcher.predict(call_of([0.1]), 1, broken))
        await asyncio.to_thread(echo.began.wait, 20)
        await asyncio.sleep(0.1)
        with pytest.raises(Problem) as late:
            await batcher.predict(call_of([0.1], seconds=0.05), 1, None)
        assert late.value.code == "deadline_exceeded"
        echo.go_on.set()
        return await first

    answer = with_batcher(MicroBatcher(fitting(served_version), lambda: echo, RequestMetrics()), use)
    assert isinstance(answer, Prediction)


def test_what_is_handed_over_while_the_server_stops_is_refused(served_version: ServedVersion) -> None:
    async def ask() -> None:
        batcher = MicroBatcher(fitting(served_version), ready_echo, RequestMetrics())
        batcher.start()
        call = asyncio.ensure_future(batcher.predict(call_of([0.1]), 1, None))
        asyncio.get_running_loop().call_soon(batcher.close)  # before what has arrived is handed over
        with pytest.raises(Problem) as refused:
            await asyncio.wait_for(call, 20)
        assert refused.value.code == "stopping"
        with pytest.raises(Problem):
            await asyncio.wait_for(batcher.run_errand(lambda computation: None), 20)

    asyncio.run(ask())


class BrokenInputs:
    """Inputs on which a check fails in a way that nobody foresaw."""

    def checked(self, input_shape: tuple[int, ...], *, max_rows: int, precision: str) -> Any:
        raise MemoryError


def test_a_call_whose_check_fails_unexpectedly_is_refused_alone(store: Store) -> None:
    train(store, SPHERES_JOB)
    calls = [
        PredictionCall("spheres", None, BrokenInputs()),
        PredictionCall("spheres", None, JsonInputs([[[0.1, 0.2]]], False)),
    ]

    async def check() -> list[CheckedCall | Exception]:
        future = asyncio.get_running_loop().create_future
        return CallChecks(store, Budget())([Ticket(call, 1, future(), None) for call in calls])

    broken, fine = asyncio.run(check())
    assert isinstance(broken, MemoryError)
    assert isinstance(fine, CheckedCall), fine


def test_a_lost_database_connection_is_not_noticed_by_calls(store: Store) -> None:
    train(store, SPHERES_JOB)
    checks = CallChecks(store, Budget())

    async def check() -> CheckedCall | Exception:
        call = PredictionCall("spheres", None, JsonInputs([[[0.1, 0.2]]], False))
        (checked,) = checks([Ticket(call, 1, asyncio.get_running_loop().create_future(), None)])
        return checked

    for _ in range(3):
        assert isinstance(asyncio.run(check()), CheckedCall)
        assert checks._lookup._cursor is not None
        checks._lookup._cursor.connection.close()
    checks.close()


def test_a_batch_that_keeps_trajectories_has_fewer_rows(store: Store, served_version: ServedVersion) -> None:
    runtime = ModelRuntime(store, 1, 1000)
    assert runtime.rows_at_once(served_version, 0) == ROWS_AT_ONCE
    rows = runtime.rows_at_once(served_version, 100_000)
    assert 1 <= rows < ROWS_AT_ONCE
    assert rows * 100_000 * served_version.state_size <= NUMBERS_AT_ONCE


def test_a_long_text_among_many_numbers_is_refused_before_they_are_made_as_long() -> None:
    body = (
        b'{"inputs": [[["'
        + b"x" * 10**6
        + b'"'
        + b",0" * 10**6
        + b']], [[1, 2]]], "solver": {"method": "euler", "steps": 2}}'
    )
    call = parse_body(body, "application/json", "spheres", None)
    with pytest.raises(Problem) as refused:
        call.inputs.checked((1, 2), max_rows=10, precision="float32")
    assert refused.value.code == "invalid_shape"


def test_numbers_beside_a_named_solver_are_read_the_fast_way() -> None:
    body = b'{"inputs": [[[1, 2]]], "solver": {"method": "euler", "steps": 2}, "times": [0, 1]}'
    call = parse_body(body, "application/json", "spheres", None)
    assert isinstance(call.inputs, JsonInputs)
    assert not call.inputs.odd


def test_loading_a_version_takes_no_longer_than_a_prediction_may(
    store: Store, served_version: ServedVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = ModelRuntime(store, 1, 1000)
    runtime.warm(served_version)
    monkeypatch.setattr(prediction_call, "LONGEST_SECONDS", -1.0)
    with pytest.raises(Problem) as refused:
        runtime.warm(served_version)
    assert refused.value.code == "budget_exceeded"


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/models/spheres/predict", "/v1/models/{name}/predict"),
        ("/v1/models/spheres/aliases/latest/predict", "/v1/models/{name}/aliases/{alias}/predict"),
    ],
)
def test_a_client_that_leaves_is_no_error_of_the_server(
    served: Served, monkeypatch: pytest.MonkeyPatch, path: str, route: str
) -> None:
    train(served.store, SPHERES_JOB)
    monkeypatch.setattr(micro_batcher, "LOOK_SECONDS", 0.02)
    began, go_on = threading.Event(), threading.Event()

    def held(*_: Any, **__: Any) -> Outcome:
        began.set()
        assert go_on.wait(30)
        raise RuntimeError("nobody waits for it")

    monkeypatch.setattr(ModelRuntime, "compute", held)
    body = b'{"inputs": [[[0.1, 0.12]]]}'
    at = urlsplit(served.url)
    try:
        with socket.create_connection((at.hostname, at.port), timeout=20) as connection:
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            assert began.wait(20)
        with served.client() as client:
            wait_until(lambda: f'route="{route}",status="499"}} 1.0' in client.get("/metrics").text, "it is counted")
            metrics = client.get("/metrics").text
    finally:
        go_on.set()
    assert 'odeness_predictions_unanswered_total{reason="abandoned"} 1.0' in metrics
    assert 'status="503"' not in metrics
