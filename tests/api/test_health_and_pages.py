"""Health, measurements and the pages for people."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from api.request_metrics import RequestMetrics
from store.settings import Settings
from tests.api.conftest import DIGITS_JOB, Served, claim, serve, submit, train
from tests.api.test_predictions import DIGIT, predict


def test_alive_says_the_version(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "version": "0.1.0"}


def test_ready_shows_a_broker_that_is_away_as_degraded(client: httpx.Client) -> None:
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "database": "ok", "broker": "degraded"}


def test_ready_with_a_broker_is_all_well(make_settings: Callable[..., Settings], redis_url: str) -> None:
    with serve(make_settings(broker_url=redis_url)) as served, served.client() as client:
        assert client.get("/readyz").json()["broker"] == "ok"


def test_every_measurement_is_in_the_table_of_the_documentation_with_its_labels(served: Served) -> None:
    train(served.store)
    submit(served.store)
    metrics: RequestMetrics = served.app.state.services.metrics
    metrics.observe_refusal("busy")
    metrics.observe_closed_connection("slow_head")
    with served.client() as client:
        predict(client, [DIGIT])
        client.get("/healthz")
        families = list(text_string_to_metric_families(client.get("/metrics").text))
    measured = {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in families
        if not family.name.endswith("_created")
    }

    text = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
    section = text.partition("### Metrics\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| `(odeness_\w+)` \| (\w+) \| (.*?) ?\| ", section, flags=re.MULTILINE)
    assert {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == measured


def test_the_measurements_count_requests_by_template_jobs_by_status_and_predictions(served_on_both: Served) -> None:
    version = train(served_on_both.store)
    submit(served_on_both.store)
    with served_on_both.client() as client:
        for _ in range(3):
            client.get(f"/v1/jobs/{version.job_id}")
        client.get("/v1/unknown/1")
        client.get("/v1/unknown/2")
        predict(client, [DIGIT, DIGIT], {"method": "rk4", "steps": 2})
        lines = client.get("/metrics").text.splitlines()
    assert 'odeness_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"} 3.0' in lines
    assert 'odeness_http_requests_total{method="GET",route="unmatched",status="404"} 2.0' in lines
    assert 'odeness_http_request_seconds_count{method="GET",route="/v1/jobs/{job_id}"} 3.0' in lines
    assert 'odeness_jobs{status="queued"} 1.0' in lines
    assert 'odeness_jobs{status="succeeded"} 1.0' in lines
    assert 'odeness_predictions_total{solver_method="rk4",status="success"} 2.0' in lines
    assert "odeness_prediction_evaluations_total 16.0" in lines


def test_the_page_shows_jobs_and_models_with_their_verdicts(served: Served) -> None:
    train(served.store)
    with served.store.transaction() as tx:
        audit = tx.jobs.submit("audit", {}, model="tiny", model_version=1)
    attempt = claim(served.store, audit)
    sentence = "Not an ODE: <b>67 %</b> of the predictions change."
    with served.store.transaction() as tx:
        result = {"model": "tiny", "version": 1, "verdict": "discrete", "sentence": sentence}
        tx.jobs.succeed(audit.id, attempt, result)
    failed = submit(served.store, DIGITS_JOB | {"name": "bad"})
    attempt = claim(served.store, failed)
    with served.store.transaction() as tx:
        tx.jobs.fail(failed.id, attempt, {"code": "c", "message": "lower the rate"})
    with served.client() as client:
        page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert 'class="verdict discrete"' in page.text
    assert "&lt;b&gt;67 %&lt;/b&gt;" in page.text
    assert "lower the rate" in page.text
    assert f"/v1/jobs/{failed.id}" in page.text


def test_the_documentation_page_lists_every_operation(client: httpx.Client) -> None:
    page = client.get("/docs").text
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        assert path in page
        for method in operations:
            assert method.upper() in page
