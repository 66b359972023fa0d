"""Tables and verdicts of the serving benchmark, and that all serve one model."""

from pathlib import Path

import numpy
import pytest
import torch

from benchmarks.serving.candidates import NO_OP, Candidate, candidates
from benchmarks.serving.latency import LoadFigures, figures
from benchmarks.serving.limits import ModelCall, rows_a_second
from benchmarks.serving.metrics_page import rows_a_call
from benchmarks.serving.peers.plain_model import WEIGHTS, load_model
from benchmarks.serving.serving_tables import MANY, SINGLE, Limits, load_table, median_of, verdicts
from benchmarks.serving.sphere2 import SOLVER, train_sphere2, workload
from benchmarks.serving.workload import TOLERANCE

EVERYONE = candidates(v2_shape=(1, 2))


def _figures(a_second: int, p99: float) -> LoadFigures:
    return figures([p99] * a_second, 1.0, {}, client_seconds=0.1)


def test_odeness_is_held_against_the_best_peer_and_the_smaller_limit() -> None:
    measured = {
        "odeness /v1": _figures(900, 0.02),
        "LitServe": _figures(200, 0.05),
        "MLServer": _figures(400, 0.01),
        NO_OP: _figures(3000, 0.001),
    }

    lines = verdicts(MANY, measured, EVERYONE, Limits(no_op=3000, model=2000, batch=16.0))

    assert lines == [
        "Limits: no-op HTTP 3,000 requests a second, the model's calls alone 2,000 (16.0 rows a call).",
        "Target: MLServer / odeness /v1, requests a second, at most 1/3. Measured 1/2.25: **missed by 33%**.",
        "Target: odeness /v1 / MLServer, p99, at most 1.000. Measured 2.000: **missed by a factor of 2.0**.",
        "Target: smaller limit / odeness /v1, requests a second, at most 2.000. Measured 2.222: **missed by 11%**.",
    ]


def test_one_at_a_time_only_the_rate_is_held_against_the_best_peer() -> None:
    measured = {"odeness /v1": _figures(500, 0.02), "LitServe": _figures(200, 0.05)}

    assert verdicts(SINGLE, measured, EVERYONE, None) == [
        "Target: LitServe / odeness /v1, requests a second, at most 1/2. Measured 1/2.5: **met**."
    ]


def test_a_table_has_a_row_for_each_that_was_measured() -> None:
    measured = {"LitServe": _figures(200, 0.05), "MLServer": _figures(400, 0.01)}

    table = load_table(MANY, measured, EVERYONE, None)

    assert [row[0] for row in table.rows] == ["LitServe", "MLServer"]
    assert table.rows[0] == ["LitServe", "200", "50.00", "50.00", "0.50", "0", "10%"]
    assert all(len(row) == len(table.header) for row in table.rows)


def test_rounds_come_to_their_medians_and_all_their_errors() -> None:
    rounds = [
        figures([0.1] * count, 1.0, errors, client_seconds=0.0)
        for count, errors in ((10, {}), (30, {"status 503": 1}), (20, {"status 503": 2}))
    ]

    joined = median_of(rounds)

    assert (joined.a_second, joined.requests, joined.errors) == (20.0, 60, {"status 503": 3})


def test_the_rate_of_a_batch_between_two_measured_ones_is_that_of_a_time_between_theirs() -> None:
    seconds = {1: 0.001, 9: 0.003, 64: 0.010}

    assert rows_a_second(seconds, 9) == pytest.approx(3000)
    assert rows_a_second(seconds, 5) == pytest.approx(5 / 0.002)
    assert rows_a_second(seconds, 1000) == pytest.approx(6400)
    assert rows_a_second(seconds, 0.5) == pytest.approx(1000)


def test_rows_a_call_come_from_the_metrics_before_and_after() -> None:
    page = """# HELP odeness_predictions_total Samples predicted
odeness_predictions_total{solver_method="rk4",status="success"} %d
odeness_predictions_total{solver_method="euler",status="success"} 5.0
odeness_predictions_created{solver_method="rk4",status="success"} 1.7e+09
odeness_prediction_model_seconds_count %d
"""
    assert rows_a_call(page % (100, 10), page % (420, 20)) == 32.0
    assert rows_a_call(page % (100, 10), page % (100, 10)) is None


def test_the_v2_rows_are_there_when_the_server_has_them() -> None:
    def ways(everyone: list[Candidate]) -> list[str]:
        return [one.endpoint.protocol for one in everyone if one.role == "odeness"]

    assert ways(candidates(None)) == ["v1"]
    assert ways(EVERYONE) == ["v1", "v2-json", "v2-binary"]


def test_all_serve_one_model_and_the_tolerance_has_room_for_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = train_sphere2(iterations=20)
    (tmp_path / "weights").write_bytes(served.weights)
    monkeypatch.setenv(WEIGHTS, str(tmp_path / "weights"))
    made = workload(served, requests=64, rows=2)
    inputs = torch.from_numpy(made.inputs.reshape(-1, 2))

    with torch.inference_mode():
        plain = load_model()(inputs).numpy().reshape(made.expected.shape)
        ours = served.classifier().uncompiled()(inputs, SOLVER).softmax(-1).numpy().reshape(made.expected.shape)

    assert numpy.abs(plain - made.expected).max() < TOLERANCE / 3
    assert numpy.abs(ours - made.expected).max() < TOLERANCE / 3
    assert made.told_apart() > 0.9


def test_calls_of_the_model_are_timed_by_batch() -> None:
    call = ModelCall(train_sphere2(iterations=1), batches=(1, 4))

    call.measure(0.01)

    assert call.seconds().keys() == {1, 4}
    assert all(value > 0 for value in call.seconds().values())
