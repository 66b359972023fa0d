import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from api.client import Client, JobNotSucceeded, ProblemError, ServerUnreachable
from ode_core.specs import SolverSpec, SweepJobSpec, TrainingJobSpec
from store.results import NewResult
from store.settings import Settings
from tests.api.conftest import DIGITS_JOB, SPHERES_JOB, Served, claim, serve, submit, train


@pytest.fixture
def connected(served: Served) -> Iterator[Client]:
    with Client(served.url + "/", patience=0) as client:
        yield client


def finish(served: Served, job_id: str) -> None:
    """Do a job's work, as a worker would."""
    with served.store.reading() as tx:
        attempt = claim(served.store, tx.jobs.require(job_id))
    with served.store.transaction() as tx:
        tx.metrics.append(job_id, attempt, {"loss": [(1, 2.0), (2, float("nan"))], "steps": [(1, 2.0)]})
        tx.jobs.report_progress(job_id, attempt, 2, 5, "halfway")
        tx.jobs.succeed(job_id, attempt, {"model": "tiny", "version": 1})


class TestJobs:
    @pytest.mark.parametrize("spec", [DIGITS_JOB, TrainingJobSpec.model_validate(DIGITS_JOB)], ids=["dict", "spec"])
    def test_a_training_is_submitted_as_a_mapping_or_a_spec(self, connected: Client, spec: Any) -> None:
        job = connected.submit_training(spec)

        assert (job["kind"], job["status"], job["name"]) == ("training", "queued", "tiny")
        assert job["spec"]["training"]["iterations"] == 5
        assert connected.job(job["id"]) == job

    def test_an_evaluation_is_submitted_as_a_mapping_or_a_spec(self, served: Served, connected: Client) -> None:
        train(served.store)

        sweep = connected.submit_evaluation(SweepJobSpec(model="tiny", solvers=[SolverSpec(method="rk4", steps=4)]))
        audit = connected.submit_evaluation({"kind": "audit", "model": "tiny"})

        assert (sweep["kind"], sweep["version"]) == ("sweep", 1)
        assert audit["kind"] == "audit"

    def test_the_same_idempotency_key_gives_the_same_job(self, connected: Client) -> None:
        first, second = (connected.submit_training(DIGITS_JOB, idempotency_key="once") for _ in range(2))

        assert first["id"] == second["id"]

    def test_two_submissions_are_two_jobs(self, connected: Client) -> None:
        assert connected.submit_training(DIGITS_JOB)["id"] != connected.submit_training(DIGITS_JOB)["id"]

    def test_waiting_ends_with_the_job_and_shows_each_look(self, served: Served, connected: Client) -> None:
        job_id = connected.submit_training(DIGITS_JOB)["id"]
        looks: list[str] = []

        def look(job: Any) -> None:
            looks.append(job["status"])
            if len(looks) == 2:
                finish(served, job_id)

        job = connected.wait(job_id, look, poll_seconds=0.01)

        assert looks == ["queued", "queued", "succeeded"]
        assert job["progress"] == {"step": 5, "total": 5, "message": "halfway"}  # an ended job is complete

    def test_waiting_for_a_cancelled_job_is_an_error_that_has_the_job(self, connected: Client) -> None:
        job_id = connected.submit_training(DIGITS_JOB)["id"]
        assert connected.cancel(job_id)["status"] == "cancelled"

        with pytest.raises(JobNotSucceeded, match="the training job tiny cancelled") as ended:
            connected.wait(job_id)
        assert ended.value.job["id"] == job_id

    def test_waiting_for_a_failed_job_says_why_it_failed(self, served: Served, connected: Client) -> None:
        job_id = connected.submit_training(DIGITS_JOB)["id"]
        with served.store.reading() as tx:
            job = tx.jobs.require(job_id)
        attempt = claim(served.store, job)
        with served.store.transaction() as tx:
            tx.jobs.fail(job_id, attempt, {"code": "training_diverged", "message": "the loss is not finite"})

        with pytest.raises(JobNotSucceeded, match="failed: the loss is not finite"):
            connected.wait(job_id)

    def test_waiting_can_be_limited(self, connected: Client) -> None:
        job_id = connected.submit_training(DIGITS_JOB)["id"]

        with pytest.raises(TimeoutError, match="still queued"):
            connected.wait(job_id, timeout=0)

    def test_metrics_result_and_events_are_read(self, served: Served, connected: Client) -> None:
        job_id = connected.submit_training(DIGITS_JOB)["id"]
        finish(served, job_id)

        assert connected.metrics(job_id) == {"loss": [(1, 2.0), (2, None)], "steps": [(1, 2.0)]}
        assert connected.metrics(job_id, "loss", after_step=1) == {"loss": [(2, None)]}
        assert connected.result(job_id) == {"model": "tiny", "version": 1}
        assert [event["kind"] for event in connected.events(job_id)] == ["queued", "started", "succeeded"]
        assert [event["sequence"] for event in connected.events(job_id, after=1)] == [2, 3]

    def test_lists_go_on_over_pages(self, served: Served, connected: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("api.client.transport._PAGE", 2)
        submitted = [submit(served.store).id for _ in range(5)]

        assert [job["id"] for job in connected.jobs()] == submitted[::-1]
        assert list(connected.jobs(status="running")) == []


class TestModels:
    @pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
    def test_an_input_that_is_not_finite_is_refused_with_its_place(self, connected: Client, number: float) -> None:
        inputs = [[[0.1, 0.2]], [[0.3, number]]]

        for given in (inputs, np.array(inputs)):
            with pytest.raises(ValueError, match=rf"inputs\[1\]\[0\]\[1\] is {number}: a prediction needs finite"):
                connected.predict("spheres", given)

    def test_a_version_is_read_predicted_with_and_downloaded(self, served: Served, connected: Client) -> None:
        train(served.store, SPHERES_JOB)

        assert [model["name"] for model in connected.models()] == ["spheres"]
        assert connected.model("spheres")["latest_version"] == 1
        assert connected.version("spheres", 1)["input_shape"] == [1, 2]
        assert connected.checkpoint("spheres", 1)[8:9] == b"{"
        own = connected.predict("spheres", [[[0.1, 0.2]], [[0.3, 0.0]]])
        rk4 = connected.predict("spheres", np.array([[[0.1, 0.2]]]), SolverSpec(method="rk4", steps=4), version=1)
        assert (own["solver"]["method"], own["nfe"], len(own["predictions"])) == ("euler", 2, 2)
        assert (rk4["solver"]["method"], rk4["nfe"], len(rk4["predictions"])) == ("rk4", 16, 1)

    def test_results_are_filtered_and_sorted(self, served: Served, connected: Client) -> None:
        train(served.store)
        job = submit(served.store)
        attempt = claim(served.store, job)
        with served.store.transaction() as tx:
            tx.results.add(job.id, attempt, [result_row(steps, accuracy) for steps, accuracy in ((2, 0.9), (4, 0.5))])

        rows = list(connected.results(model="tiny", job=job.id, sort="accuracy"))

        assert [(row["test_steps"], row["accuracy"]) for row in rows] == [(4, 0.5), (2, 0.9)]
        assert list(connected.results(test_method="rk4")) == []

    def test_the_catalogue_and_the_state_are_read(self, connected: Client) -> None:
        assert {"euler", "rk4", "dopri5"} <= {solver["method"] for solver in connected.solvers()}
        assert {"digits", "mnist"} <= {dataset["kind"] for dataset in connected.datasets()}
        assert connected.ready()["database"] == "ok"


def result_row(steps: int, accuracy: float) -> NewResult:
    solver = {"method": "euler", "steps": steps}
    return NewResult(
        dataset={"kind": "digits"},
        train_solver={"method": "euler", "steps": 2},
        test_solver=solver,
        model="tiny",
        version=1,
        nfe=steps,
        samples=10,
        failures=0,
        seconds=0.1,
        accuracy=accuracy,
        flip_rate=0.0,
        train_steps=2,
        test_steps=steps,
    )


class TestRefusals:
    def test_a_refusal_says_what_is_wrong_where_and_under_which_id(self, connected: Client) -> None:
        with pytest.raises(ProblemError) as refused:
            connected.submit_training(DIGITS_JOB | {"solver": {"method": "euler", "steps": 0}})

        assert refused.value.status == 422
        assert "steps" in str(refused.value)
        assert any("solver" in error["path"] for error in refused.value.errors)
        assert refused.value.request_id

    def test_a_name_cannot_leave_its_place_in_the_path(self, connected: Client) -> None:
        with pytest.raises(ProblemError) as refused:
            connected.model("../jobs?limit=1")

        assert refused.value.status == 404

    def test_the_api_key_is_sent(self, make_settings: Callable[..., Settings]) -> None:
        with serve(make_settings(api_key="open sesame")) as served:
            with Client(served.url, "open sesame") as client:
                assert list(client.jobs()) == []
            with Client(served.url) as client, pytest.raises(ProblemError) as refused:
                list(client.jobs())
        assert refused.value.status == 401


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers with the next status of ``server.script``; None cuts the connection."""

    def do_GET(self) -> None:
        status = self.server.script.pop(0)  # type: ignore[attr-defined]
        if status is None:
            return
        body = b"<html>not odeness</html>" if status == 502 else json.dumps({"data": [], "has_more": False}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def scripted(*statuses: int | None) -> Iterator[tuple[str, list[int | None]]]:
    """A server that answers each request with the next status; what is left of the script is seen."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as server:
        server.script = list(statuses)  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server.script  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


class TestAServerThatIsAway:
    def test_for_a_moment_is_asked_again(self) -> None:
        with scripted(503, None, 200) as (url, script), Client(url) as client:
            assert list(client.jobs()) == []
            assert script == []

    def test_is_asked_again_with_a_submission_which_its_key_makes_safe(self) -> None:
        with scripted(None, 200) as (url, script), Client(url) as client:
            client.submit_training(DIGITS_JOB)
            assert script == []

    def test_for_long_is_a_clear_error(self) -> None:
        with Client("http://127.0.0.1:9", patience=0) as client, pytest.raises(ServerUnreachable, match="running"):
            client.ready()

    def test_with_something_else_in_its_place_is_a_clear_error(self) -> None:
        with scripted(502) as (url, _), Client(url) as client:
            with pytest.raises(ProblemError, match="answered 502: <html>not odeness") as refused:
                client.ready()
            assert refused.value.code == "not_odeness"
