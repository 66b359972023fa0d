"""Spans of requests, predictions and jobs, as a collector receives them."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest

from api.app import create_app
from store import tracing
from store.settings import Settings
from store.tracing import TelemetryUnavailable, tracing_of
from store.unit_of_work import Store
from tests.api.conftest import SPHERES_JOB, Served, serve, train
from tests.otlp_collector import Collector
from worker.job_spans import spans_of_jobs
from worker.run_job import JobRunner, Outcome
from worker.running_job import FinishJob, RunningJob

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
POINT = [[0.1, 0.2]]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector().listening() as listening:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", listening.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield listening


@pytest.fixture
def traced(collector: Collector, make_settings: Callable[..., Settings]) -> Iterator[Served]:
    with serve(make_settings(telemetry=True)) as served:
        train(served.store, SPHERES_JOB)
        yield served


def test_a_prediction_is_a_span_of_its_request_which_continues_the_callers_trace(
    traced: Served, collector: Collector
) -> None:
    with traced.client(headers=TRACEPARENT) as client:
        answer = client.post(
            "/v1/models/spheres/predict",
            json={"inputs": [POINT, POINT, POINT], "solver": {"method": "rk4", "steps": 5}},
        )
    assert answer.status_code == 200
    request, predict = collector.wait_for("POST /v1/models/{name}/predict", "predict")
    assert (request["trace"], request["parent"]) == (TRACE, CALLER)
    assert (predict["trace"], predict["parent"]) == (TRACE, request["id"])
    assert request["http.route"] == "/v1/models/{name}/predict"
    assert request["http.response.status_code"] == 200
    assert request["odeness.request_id"] == answer.headers["x-request-id"]
    assert (predict["odeness.model"], predict["odeness.version"], predict["odeness.solver"]) == ("spheres", 1, "rk4-5")
    # rk4 evaluates the field four times in each of five steps.
    assert (predict["odeness.rows"], predict["odeness.batch_rows"], predict["odeness.nfe"]) == (3, 3, 20)
    assert (predict["odeness.failures"], predict["odeness.solver_chosen"]) == (0, False)
    assert predict["odeness.wait_seconds"] >= 0
    assert request["service"] == predict["service"] == "odeness-api"


def test_a_refused_prediction_says_why_and_is_no_error_of_the_server(traced: Served, collector: Collector) -> None:
    with traced.client() as client:
        path = "/v2/models/spheres/infer"
        tensor: dict[str, Any] = {"name": "inputs", "shape": [1, 2, 1], "datatype": "FP32", "data": [0.1, 0.2]}
        assert client.post(path, json={"inputs": [tensor]}).status_code == 422
    request, predict = collector.wait_for("POST /v2/models/{name}/infer", "predict")
    assert predict["error.type"] == "invalid_shape"
    assert not request["failed"]
    assert not predict["failed"]


def test_probes_make_no_spans_and_errors_do(traced: Served, collector: Collector) -> None:
    with traced.client() as client:
        for path in ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v1/models/nobody"):
            client.get(path)
    (refused,) = collector.wait_for("GET /v1/models/{name}")
    assert refused["http.response.status_code"] == 404
    assert collector.names() == ["GET /v1/models/{name}"]


def run_as_a_worker(served: Served, job_id: str, execute: Callable[[RunningJob], FinishJob]) -> Outcome:
    made = tracing_of(served.settings, "odeness-worker")
    assert made is not None
    made.start()
    store = Store.connect(served.settings.database, trace_context=made.context)
    try:
        runner = JobRunner(
            settings=served.settings,
            store=store,
            executors={"audit": execute},
            ring=lambda job_id: None,
            draining=lambda: False,
            span=spans_of_jobs(made, store),
        )
        return runner.run(job_id)
    finally:
        store.close()
        made.close()


def test_a_job_runs_in_the_trace_of_the_request_that_submitted_it(traced: Served, collector: Collector) -> None:
    with traced.client(headers=TRACEPARENT) as client:
        job = client.post("/v1/evaluation-jobs", json={"kind": "audit", "model": "spheres"}).json()

        def execute(running: RunningJob) -> FinishJob:
            return lambda tx: {"found": 1}

        assert run_as_a_worker(traced, job["id"], execute) is Outcome.SUCCEEDED
        events = client.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    request, run = collector.wait_for("POST /v1/evaluation-jobs", "run audit job")
    assert (run["trace"], run["parent"]) == (TRACE, request["id"])
    assert request["odeness.job_id"] == run["odeness.job_id"] == job["id"]
    assert (run["service"], run["odeness.outcome"], run["odeness.attempt"]) == ("odeness-worker", "succeeded", 1)
    assert events[0]["data"] == {"traceparent": f"00-{TRACE}-{request['id']}-01"}


def test_a_failed_job_is_a_failed_span_with_the_errors_code(traced: Served, collector: Collector) -> None:
    with traced.client() as client:
        job = client.post("/v1/evaluation-jobs", json={"kind": "audit", "model": "spheres"}).json()

    def execute(running: RunningJob) -> FinishJob:
        raise RuntimeError("a defect")

    assert run_as_a_worker(traced, job["id"], execute) is Outcome.FAILED
    (run,) = collector.wait_for("run audit job")
    assert run["failed"]
    assert (run["odeness.outcome"], run["error.type"]) == ("failed", "internal_error")


def test_a_service_may_be_given_another_name(
    collector: Collector, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "predictions-eu")
    with serve(make_settings(telemetry=True)) as served, served.client() as client:
        client.get("/v1/models")
    assert collector.wait_for("GET /v1/models")[0]["service"] == "predictions-eu"


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1000")
        made = tracing_of(make_settings(telemetry=True), "odeness-api")
        assert made is not None
        made.start()
        with made.tracer.start_as_current_span("the last"):
            pass

        made.close()  # would else last a thousand seconds
        assert "the last spans are lost" in caplog.text

        connection, _ = listening.accept()
        with connection:
            assert connection.recv(4) == b"POST"


def test_switched_off_nothing_of_the_sdk_is_loaded_and_nothing_is_noted_with_a_job(served: Served) -> None:
    train(served.store, SPHERES_JOB)
    with served.client(headers=TRACEPARENT) as client:
        job = client.post("/v1/evaluation-jobs", json={"kind": "audit", "model": "spheres"}).json()
        assert client.get(f"/v1/jobs/{job['id']}/events").json()["data"][0]["data"] == {}
    program = (
        "import sys, api.app, worker.pool_process\n"
        "from store.settings import Settings\n"
        "api.app.create_app(Settings.load())\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


def test_without_the_extra_or_with_another_exporter_the_start_is_refused_with_what_to_do(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(telemetry=True)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(TelemetryUnavailable, match="OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf only, not with otlp and"):
        create_app(settings)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")

    def missing(name: str) -> Any:
        if name.startswith("opentelemetry.sdk"):
            raise ModuleNotFoundError("no module", name="opentelemetry.sdk")
        return import_module(name)

    monkeypatch.setattr(tracing, "import_module", missing)
    with pytest.raises(TelemetryUnavailable, match=r"pip install 'odeness\[telemetry\]'"):
        create_app(settings)
