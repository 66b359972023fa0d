"""Accepting, reading and cancelling jobs."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery

from api.schemas.jobs import JobAnswer, MetricSeriesList
from api.waiting import preferred_wait
from store.settings import Settings
from tests.api.conftest import DIGITS_JOB, Served, assert_problem, claim, serve, submit, train
from tests.conftest import wait_until


def test_a_training_job_is_accepted_with_its_place_and_its_body(served_on_both: Served) -> None:
    with served_on_both.client() as client:
        response = client.post("/v1/training-jobs", json=DIGITS_JOB)
        assert response.status_code == 202
        job = response.json()
        assert response.headers["location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
        assert int(response.headers["retry-after"]) >= 1
        JobAnswer.model_validate_json(response.content)
        assert (job["kind"], job["status"], job["name"], job["model"]) == ("training", "queued", "tiny", "tiny")
        assert job["progress"] == {"step": 0, "total": 5, "message": ""}
        assert (job["attempt"], job["error"], job["started_at"], job["version"]) == (0, None, None, None)
        assert job["spec"]["solver"] == {"method": "euler", "steps": 2}
        assert job["spec"]["training"]["checkpoint_interval"] == 100  # defaults are filled in
        assert client.get(job["links"]["self"]).json() == job
        with served_on_both.store.reading() as tx:
            assert tx.jobs.require(job["id"]).spec == job["spec"]


def test_an_evaluation_names_the_version_that_was_the_latest_when_it_was_accepted(served: Served) -> None:
    train(served.store)
    with served.client() as client:
        sweep = {"kind": "sweep", "model": "tiny", "version": None, "solvers": [{"method": "rk4", "steps": 4}] * 2}
        accepted = client.post("/v1/evaluation-jobs", json=sweep).json()
        train(served.store)
        audit = client.post("/v1/evaluation-jobs", json={"kind": "audit", "model": "tiny", "epsilon": 0.02}).json()
    assert (accepted["version"], accepted["spec"]["version"], accepted["progress"]["total"]) == (1, 1, 2)
    assert accepted["spec"]["solvers"] == [{"method": "rk4", "steps": 4}] * 2
    assert (audit["version"], audit["spec"]["version"], audit["kind"]) == (2, 2, "audit")


def test_the_workers_are_rung_for_and_the_ring_is_noted(make_settings: Callable[..., Settings], redis_url: str) -> None:
    settings = make_settings(broker_url=redis_url)
    with serve(settings) as served, served.client() as client:
        job = client.post("/v1/training-jobs", json=DIGITS_JOB).json()

        def rung() -> bool:
            with served.store.reading() as tx:
                return tx.jobs.require(job["id"]).rung_at is not None

        wait_until(rung, "the ring is noted")
    receiver = Celery(set_as_current=False)
    receiver.conf.update(settings.celery_options())
    with receiver.connection_for_read() as connection, connection.SimpleQueue("odeness") as queue:
        message = queue.get(timeout=5)
        message.ack()
        assert message.headers["task"] == "odeness.run_job"
        assert message.payload[0] == [job["id"]]
    receiver.close()


def test_a_broker_that_is_away_delays_nothing(make_settings: Callable[..., Settings]) -> None:
    # Nothing listens there, and packets to it are not answered: the slowest way to be away.
    with serve(make_settings(broker_url="redis://10.255.255.1:6379/0")) as served, served.client() as client:
        for _ in range(5):
            started = time.monotonic()
            assert client.post("/v1/training-jobs", json=DIGITS_JOB).status_code == 202
            assert time.monotonic() - started < 1


def test_the_reconciler_rings_for_jobs_the_doorbell_missed(
    make_settings: Callable[..., Settings], redis_url: str
) -> None:
    settings = make_settings(broker_url=redis_url, reconcile_seconds=0.05, requeue_after_seconds=0.05)
    with serve(settings) as served:
        job = submit(served.store)  # behind the API's back: nobody rang

        def rung() -> bool:
            with served.store.reading() as tx:
                return tx.jobs.require(job.id).rung_at is not None

        wait_until(rung, "the reconciler rang")


# Idempotency-Key


def test_the_same_key_and_body_give_the_stored_answer(served_on_both: Served) -> None:
    headers = {"Idempotency-Key": "once-1"}
    with served_on_both.client() as client:
        first = client.post("/v1/training-jobs", json=DIGITS_JOB, headers=headers)
        again = client.post("/v1/training-jobs", json=DIGITS_JOB, headers=headers)
        assert (first.status_code, again.status_code) == (202, 202)
        assert again.json() == first.json()
        assert again.headers["location"] == first.headers["location"]
        assert again.headers["idempotency-replayed"] == "true"
        assert "idempotency-replayed" not in first.headers
        assert len(client.get("/v1/jobs").json()["data"]) == 1


def test_the_same_key_with_another_body_is_refused(served_on_both: Served) -> None:
    train(served_on_both.store)
    headers = {"Idempotency-Key": "once-1"}
    with served_on_both.client() as client:
        assert client.post("/v1/training-jobs", json=DIGITS_JOB, headers=headers).status_code == 202
        other = client.post("/v1/training-jobs", json=DIGITS_JOB | {"name": "other"}, headers=headers)
        assert_problem(other, 422, "idempotency_key_reused")
        audit = client.post("/v1/evaluation-jobs", json={"kind": "audit", "model": "tiny"}, headers=headers)
        assert_problem(audit, 422, "idempotency_key_reused")


def test_a_refused_request_does_not_use_its_key_up(served: Served) -> None:
    headers = {"Idempotency-Key": "once-1"}
    body = {"kind": "audit", "model": "tiny"}
    with served.client() as client:
        assert_problem(client.post("/v1/evaluation-jobs", json=body, headers=headers), 404, "model_not_found")
        train(served.store)
        assert client.post("/v1/evaluation-jobs", json=body, headers=headers).status_code == 202


def test_many_requests_at_once_with_one_key_make_one_job(served_on_both: Served) -> None:
    start = threading.Barrier(8)

    def post(_: int) -> tuple[int, Any]:
        with served_on_both.client() as client:
            start.wait(10)
            response = client.post("/v1/training-jobs", json=DIGITS_JOB, headers={"Idempotency-Key": "race"})
            return response.status_code, response.json().get("id")

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(post, range(8)))
    assert {status for status, _ in answers} <= {202, 409}
    assert len({job_id for status, job_id in answers if status == 202}) == 1
    with served_on_both.store.reading() as tx:
        assert len(tx.jobs.list().items) == 1


# Prefer: wait


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=5", 5),
        ("respond-async, wait=10", 10),
        ("WAIT = 7", 7),
        ('wait="3"; strict', 3),
        ("wait=100000", 60),
        ("wait=-1", 0),
        ("wait=x", 0),
        ("await=5", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_the_wait_that_a_prefer_header_asks_for_is_bounded(header: str | None, seconds: int) -> None:
    assert preferred_wait(header) == seconds


def test_prefer_wait_answers_when_the_job_has_ended(served_on_both: Served) -> None:
    def work() -> None:
        def queued() -> list[Any]:
            with served_on_both.store.reading() as tx:
                return tx.jobs.list(status="queued").items

        wait_until(lambda: bool(queued()), "the job is there")
        (job,) = queued()
        attempt = claim(served_on_both.store, job)
        with served_on_both.store.transaction() as tx:
            tx.jobs.fail(job.id, attempt, {"code": "training_diverged", "message": "lower the learning rate"})

    with ThreadPoolExecutor(1) as threads, served_on_both.client() as client:
        worked = threads.submit(work)
        response = client.post("/v1/training-jobs", json=DIGITS_JOB, headers={"Prefer": "wait=20"})
        worked.result()
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "wait=20"
    assert response.json()["status"] == "failed"
    assert response.json()["error"]["code"] == "training_diverged"
    assert "retry-after" not in response.headers


def test_prefer_wait_gives_up_after_its_time(served: Served) -> None:
    with served.client() as client:
        started = time.monotonic()
        response = client.post("/v1/training-jobs", json=DIGITS_JOB, headers={"Prefer": "wait=1"})
        assert time.monotonic() - started >= 1
    assert (response.status_code, response.json()["status"]) == (202, "queued")


def test_requests_that_wait_leave_the_threads_to_others(served: Served) -> None:
    """More requests wait than the server has threads, and one that does not wait is answered meanwhile."""
    waiting = 45
    with ThreadPoolExecutor(waiting) as threads, served.client() as client:

        def post(_: int) -> int:
            with served.client() as own:
                return own.post("/v1/training-jobs", json=DIGITS_JOB, headers={"Prefer": "wait=30"}).status_code

        answers = [threads.submit(post, number) for number in range(waiting)]
        wait_until(lambda: len(client.get("/v1/jobs?limit=100").json()["data"]) == waiting, "all wait")
        started = time.monotonic()
        assert client.get("/v1/models").status_code == 200
        assert time.monotonic() - started < 5
        assert not any(answer.done() for answer in answers)
        for job in client.get("/v1/jobs?limit=100").json()["data"]:
            assert client.post(job["links"]["cancel"]).status_code == 200
        assert {answer.result(30) for answer in answers} == {202}


# Lists


def test_jobs_are_listed_newest_first_page_by_page(served_on_both: Served) -> None:
    jobs = [submit(served_on_both.store, DIGITS_JOB | {"name": f"m{number}"}) for number in range(5)]
    with served_on_both.client() as client:
        seen, cursor = [], None
        while True:
            page = client.get("/v1/jobs", params={"limit": 2} | ({"after": cursor} if cursor else {})).json()
            assert set(page) == {"data", "has_more", "next_cursor"}
            assert page["has_more"] == (page["next_cursor"] is not None)
            seen += [job["id"] for job in page["data"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
    assert seen == [job.id for job in reversed(jobs)]


def test_jobs_are_filtered(served_on_both: Served) -> None:
    train(served_on_both.store)
    queued = submit(served_on_both.store, DIGITS_JOB | {"name": "waits"})

    def ids(**parameters: Any) -> list[str]:
        with served_on_both.client() as client:
            return [job["id"] for job in client.get("/v1/jobs", params=parameters).json()["data"]]

    assert ids(status="queued") == ids(model="waits") == ids(name="waits") == [queued.id]
    assert len(ids(kind="training")) == len(ids(status=["queued", "succeeded"])) == 2
    assert ids(kind="sweep") == ids(status="failed") == []


# Results


def test_a_result_is_passed_through_when_the_job_has_succeeded(served: Served) -> None:
    version = train(served.store)
    with served.client() as client:
        result = client.get(f"/v1/jobs/{version.job_id}/result").json()
        job = client.get(f"/v1/jobs/{version.job_id}").json()
    assert result == {"model": "tiny", "version": 1, "solver": {"method": "euler", "steps": 2}, "accuracy": 0.5}
    assert (job["status"], job["version"]) == ("succeeded", 1)


def test_there_is_no_result_before_the_job_has_ended(served: Served) -> None:
    job = submit(served.store)
    with served.client() as client:
        problem = assert_problem(client.get(f"/v1/jobs/{job.id}/result"), 409, "job_not_finished")
        assert "queued" in problem["detail"]
        claim(served.store, job)
        assert_problem(client.get(f"/v1/jobs/{job.id}/result"), 409, "job_not_finished")


def test_the_result_of_a_failed_job_is_its_error(served: Served) -> None:
    job = submit(served.store)
    attempt = claim(served.store, job)
    with served.store.transaction() as tx:
        tx.jobs.fail(job.id, attempt, {"code": "training_diverged", "message": "lower the rate", "iteration": 3})
    with served.client() as client:
        problem = assert_problem(client.get(f"/v1/jobs/{job.id}/result"), 409, "job_failed")
        assert "lower the rate" in problem["detail"]
        assert client.get(f"/v1/jobs/{job.id}").json()["error"] == {
            "code": "training_diverged",
            "message": "lower the rate",
            "iteration": 3,
        }


# Cancel


def test_a_queued_job_is_cancelled_at_once(served_on_both: Served) -> None:
    job = submit(served_on_both.store)
    with served_on_both.client() as client:
        cancelled = client.post(f"/v1/jobs/{job.id}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        assert client.post(f"/v1/jobs/{job.id}/cancel").json() == cancelled.json()
        assert_problem(client.get(f"/v1/jobs/{job.id}/result"), 409, "job_cancelled")


def test_a_running_job_is_asked_to_stop(served_on_both: Served) -> None:
    job = submit(served_on_both.store)
    claim(served_on_both.store, job)
    with served_on_both.client() as client:
        answer = client.post(f"/v1/jobs/{job.id}/cancel").json()
    assert answer["status"] == "cancelling"
    assert answer["cancel_requested_at"] is not None


def test_an_ended_job_stays_as_it_is_when_cancelled(served: Served) -> None:
    version = train(served.store)
    with served.client() as client:
        answer = client.post(f"/v1/jobs/{version.job_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")


# Metrics


def test_metrics_are_served_after_a_step_by_name_and_thinned(served_on_both: Served) -> None:
    job = submit(served_on_both.store)
    attempt = claim(served_on_both.store, job)
    loss = [(step, 1 / step) for step in range(1, 1001)]
    with served_on_both.store.transaction() as tx:
        tx.metrics.append(job.id, attempt, {"loss": loss, "steps": [(step, 2.0) for step in range(1, 1001)]})

    def series(**parameters: Any) -> dict[str, list[Any]]:
        with served_on_both.client() as client:
            response = client.get(f"/v1/jobs/{job.id}/metrics", params=parameters)
        MetricSeriesList.model_validate_json(response.content)
        return {one["name"]: one["points"] for one in response.json()["data"]}

    assert series(name="loss", after_step=0, max_points=10_000) == {"loss": [list(point) for point in loss]}
    assert series(name="loss", after_step=998) == {"loss": [[999, 1 / 999], [1000, 1 / 1000]]}
    assert set(series()) == set(series(name=["loss", "steps"])) == {"loss", "steps"}
    assert series(name="nothing") == {}
    thinned = series(name="loss", max_points=10)["loss"]
    assert len(thinned) <= 10
    assert thinned[0] == [1, 1.0]
    assert thinned[-1] == [1000, 1 / 1000]
    assert series(name="loss", after_step=1000) == {"loss": []}


def test_a_point_that_is_not_finite_leaves_as_null_and_is_counted(served_on_both: Served) -> None:
    job = submit(served_on_both.store)
    attempt = claim(served_on_both.store, job)
    points = [(1, 0.5), (2, float("nan")), (3, float("inf"))]
    with served_on_both.store.transaction() as tx:
        tx.metrics.append(job.id, attempt, {"loss": points})
    with served_on_both.client() as client:
        response = client.get(f"/v1/jobs/{job.id}/metrics")
    assert response.json() == {"data": [{"name": "loss", "points": [[1, 0.5], [2, None], [3, None]], "non_finite": 2}]}


# Events


def test_events_are_listed_in_order_after_a_number(served_on_both: Served) -> None:
    version = train(served_on_both.store)
    with served_on_both.client() as client:
        url = f"/v1/jobs/{version.job_id}/events"
        everything = client.get(url).json()
        assert [event["kind"] for event in everything["data"]] == ["queued", "started", "succeeded"]
        assert [event["sequence"] for event in everything["data"]] == [1, 2, 3]
        assert not everything["has_more"]
        page = client.get(url, params={"limit": 2}).json()
        assert (page["has_more"], page["next_cursor"]) == (True, "2")
        rest = client.get(url, params={"after": page["next_cursor"]}).json()
        assert page["data"] + rest["data"] == everything["data"]
