"""What a soak holds against a server."""

import functools
import json
from typing import Any

import numpy
import pytest

from benchmarks.serving.latency import figures
from benchmarks.serving.soak_requests import SoakRequest, Versions, soak_requests
from benchmarks.serving.soak_verdict import MOST_GROWTH, Window, growth, slope, slowdown, soak_table, violations
from benchmarks.serving.sphere2 import train_sphere2, train_three_minima

MIB = 2**20


def _windows(p99s: list[float], memory: list[int], errors: dict[str, int] | None = None) -> list[Window]:
    runs = [figures([p99] * 100, 5.0, errors or {}, client_seconds=0.1) for p99 in p99s]
    return [
        Window(start=5.0 * number, figures=run, memory=held, changes=number)
        for number, (run, held) in enumerate(zip(runs, memory, strict=True))
    ]


def test_a_slope_is_that_of_least_squares() -> None:
    x = numpy.arange(9.0)
    y = numpy.random.default_rng(0).normal(size=9)

    assert slope(list(zip(x, y, strict=True))) == pytest.approx(numpy.polyfit(x, y, 1)[0])
    assert slope([(1.0, 5.0)]) == 0.0


def test_a_server_that_stays_as_it_was_is_fine() -> None:
    # Memory grows while caches fill, and one window was slow.
    windows = _windows([0.9, 0.01, 0.01, 0.05, 0.01, 0.01, 0.01], [100 * MIB, 300 * MIB, *[400 * MIB] * 5])

    assert violations(windows) == []


def test_memory_that_goes_on_growing_is_found() -> None:
    step = MOST_GROWTH // 5
    windows = _windows([0.01] * 9, [100 * MIB + number * step for number in range(9)])

    assert growth(windows) == pytest.approx(5 * step, rel=1e-6)
    assert violations(windows) == []
    assert violations(_windows([0.01] * 9, [number * 2 * step for number in range(9)])) == [
        "memory grew by 48 MiB, more than 24"
    ]


def test_a_server_that_becomes_slow_is_found() -> None:
    windows = _windows([9.0, 0.01, 0.01, 0.015, 0.015, 0.02, 0.02], [MIB] * 7)

    assert slowdown(windows) == pytest.approx(2.0)
    assert violations(windows) == ["the last third's p99 is 2.00 times the first third's, more than 1.5"]


def test_each_kind_of_error_is_found() -> None:
    assert violations(_windows([0.01] * 3, [MIB] * 3, {"status 503": 2, "wrong answer": 1})) == [
        "6 times: status 503",
        "3 times: wrong answer",
    ]
    silent = Window(start=0.0, figures=figures([], 5.0, {}, client_seconds=0.0), memory=MIB, changes=0)
    assert violations([silent]) == ["there were seconds without any answer"]


def test_the_table_goes_from_the_start_to_the_end() -> None:
    table = soak_table(_windows([0.01] * 25, [MIB] * 25), "what")

    assert [row[0] for row in table.rows] == ["0", "15", "30", "45", "60", "75", "90", "105", "120"]
    assert all(len(row) == len(table.header) for row in table.rows)


MODELS = [Versions("sphere2", [train_sphere2(seed, iterations=2) for seed in (0, 1)])]


def _answer(version: int, shares: object) -> bytes:
    rows = numpy.asarray(shares).tolist()
    body = json.dumps({"version": version, "predictions": [{"probabilities": row} for row in rows]}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@functools.cache
def _all_asked() -> list[SoakRequest]:
    return soak_requests(MODELS, ["", "/versions/2", "/aliases/production"], variants=1)


def _asked(way: str, protocol: str = "v1") -> SoakRequest:
    return next(one for one in _all_asked() if one.way == way and one.endpoint.protocol == protocol)


@pytest.mark.parametrize(
    ("way", "possible"), [("", {4, 5}), ("/versions/2", {2}), ("/aliases/production", {1, 2, 3, 4, 5})]
)
def test_only_a_version_that_was_asked_for_may_answer(way: str, possible: set[int]) -> None:
    one = _asked(way)

    said = {
        version: one.what_is_wrong(
            _answer(version, one.expected[(version - 1) % 2]), first={"sphere2": 4}, last={"sphere2": 5}
        )
        for version in range(1, 8)
    }

    assert {version for version, reason in said.items() if reason is None} == possible
    assert set(said.values()) == {None, "answer of a version that was not asked for"}


def test_numbers_of_another_version_are_wrong() -> None:
    one = _asked("")
    newest = {"sphere2": 2}

    assert one.what_is_wrong(_answer(2, one.expected[1]), newest, newest) is None
    assert one.what_is_wrong(_answer(2, one.expected[0]), newest, newest) == "wrong answer"
    assert one.what_is_wrong(b"HTTP/1.1 503 Busy\r\n\r\nlater", newest, newest) == "status 503: later"
    assert one.what_is_wrong(b"HTTP/1.1 200 OK\r\n\r\n{}", newest, newest) == "unreadable answer"


def test_tensors_of_the_open_inference_protocol_are_held_against_the_same_numbers() -> None:
    newest = {"sphere2": 2}
    in_json, binary = _asked("", "v2-json"), _asked("", "v2-binary")

    def answer(one: SoakRequest, version: int, shares: numpy.ndarray[Any, Any]) -> bytes:
        raw = shares.astype("<f4").tobytes()
        tensor = {"name": "probabilities", "datatype": "FP32", "shape": list(shares.shape)}
        if one is binary:
            tensor["parameters"] = {"binary_data_size": len(raw)}
        else:
            tensor["data"], raw = shares.astype("<f4").astype(float).ravel().tolist(), b""
        head = json.dumps({"model_version": str(version), "outputs": [tensor]}).encode()
        length = b"Inference-Header-Content-Length: %d\r\n" % len(head) if one is binary else b""
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n" % (len(head) + len(raw), length) + head + raw

    for one in (in_json, binary):
        assert one.what_is_wrong(answer(one, 2, one.expected[1]), newest, newest) is None
        assert one.what_is_wrong(answer(one, 2, one.expected[0]), newest, newest) == "wrong answer"
        assert one.what_is_wrong(answer(one, 1, one.expected[0]), newest, newest) == (
            "answer of a version that was not asked for"
        )


def _json_of(one: SoakRequest) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(one.request.partition(b"\r\n\r\n")[2])
    return document


def test_all_kinds_of_requests_are_among_them() -> None:
    asked = soak_requests([Versions("minima", [train_three_minima(0, iterations=1)])], ["", "/aliases/p"], variants=1)
    v1 = [_json_of(one) for one in asked if one.endpoint.protocol == "v1"]
    v2 = [_json_of(one) for one in asked if one.endpoint.protocol == "v2-json"]

    assert {len(body["inputs"]) for body in v1} == {body["inputs"][0]["shape"][0] for body in v2} == {1, 2, 7, 32}
    assert {body.get("solver", {}).get("method") for body in v1} == {None, "euler", "rk4", "dopri5"}
    assert {body.get("parameters", {}).get("solver") for body in v2} == {None, "euler", "rk4", "dopri5"}
    assert {one.endpoint.path for one in asked} == {
        "/v1/models/minima/predict",
        "/v1/models/minima/aliases/p/predict",
        "/v2/models/minima/infer",
        "/v2/models/minima/versions/p/infer",
    }
    assert {one.endpoint.protocol for one in asked} == {"v1", "v2-json", "v2-binary"}
    assert len({one.request for one in asked}) == len(asked)
