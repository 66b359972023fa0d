"""Accepting, reading, steering and aggregating studies over HTTP."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from api.client import Client, StudyNotSucceeded
from api.schemas.studies import StudyAnswer, StudyResults
from ode_core.specs import StudySpec
from store.jobs import Job
from store.results import NewResult
from store.unit_of_work import Store
from tests.api.conftest import Served, assert_problem, claim

STUDY: dict[str, Any] = {
    "name": "grid",
    "base": {
        "dataset": {"kind": "concentric_spheres"},
        "model": {"kind": "preset", "name": "sphere2"},
        "training": {"iterations": 100},
    },
    "train": {"methods": ["euler"], "steps": [2, 4]},
    "seeds": 2,
    "sweep": {"methods": ["rk4"], "steps": [8]},
}
SEARCH = {key: value for key, value in STUDY.items() if key != "train"} | {
    "name": "critical",
    "search": {"lowest": 1, "highest": 4},
}


@pytest.fixture
def connected(served: Served) -> Iterator[Client]:
    with Client(served.url, patience=0) as client:
        yield client


def job_of(store: Store, cell: dict[str, Any]) -> Job:
    with store.reading() as tx:
        return tx.jobs.require(cell["job_id"])


def finish(store: Store, cell: dict[str, Any], accuracy: dict[int, float], *, failed: tuple[int, ...] = ()) -> None:
    """Do the work of a study's job, as a worker would; each model has this accuracy under rk4-8, 0.9 under its own."""
    job = job_of(store, cell)
    attempt = claim(store, job)
    solver = job.spec["training"]["solver"]
    with store.transaction() as tx:
        tx.studies.hold_of_job(job.id)
        for version, (seed, value) in enumerate(accuracy.items(), start=1):
            row = NewResult(
                model=cell["model"],
                version=version,
                dataset=job.spec["training"]["dataset"],
                train_solver=solver,
                test_solver={"method": "rk4", "steps": 8},
                train_steps=solver["steps"],
                test_steps=8,
                nfe=32.0,
                accuracy=value,
                flip_rate=0.9 - value,
                samples=1000,
                failures=0,
                seconds=1.0,
                study_id=job.study_id,
                seed=seed,
            )
            tx.results.add(job.id, attempt, [row])
        runs = [
            {
                "seed": seed,
                "version": version,
                "solver": solver,
                "accuracy": 0.9,
                "mean_training_evaluations": 2.0,
                "training_seconds": 3.5,
                "search": {"train_accuracy": 0.9, "test_accuracy": value, "flip_rate": 0.9 - value},
            }
            for version, (seed, value) in enumerate(accuracy.items(), start=1)
        ]
        reasons = [{"seed": seed, "reason": "in iteration 3 of 100 the loss is not finite"} for seed in failed]
        result = {"model": cell["model"], "version": len(runs), "runs": runs, "failed_seeds": reasons}
        tx.jobs.succeed(job.id, attempt, result)


def test_a_study_is_accepted_with_its_place_and_its_jobs(served_on_both: Served) -> None:
    with served_on_both.client() as client:
        response = client.post("/v1/studies", json=STUDY)
        assert response.status_code == 202
        study = response.json()
        assert response.headers["location"] == f"/v1/studies/{study['id']}" == study["links"]["self"]
        assert int(response.headers["retry-after"]) >= 1
        StudyAnswer.model_validate_json(response.content)
        assert (study["name"], study["status"], study["search"]) == ("grid", "running", None)
        assert study["progress"] == {"step": 0, "total": 200, "jobs": 2, "finished_jobs": 0}
        assert study["spec"]["seeds"] == [0, 1]
        assert [(cell["label"], cell["status"], cell["seeds"]) for cell in study["cells"]] == [
            ("euler-2", "queued", [0, 1]),
            ("euler-4", "queued", [0, 1]),
        ]
        assert client.get(study["links"]["self"]).json() == study
        jobs = client.get(study["links"]["jobs"]).json()["data"]
        assert {job["id"] for job in jobs} == {cell["job_id"] for cell in study["cells"]}
        assert {(job["kind"], job["study"], job["links"]["study"]) for job in jobs} == {
            ("study_run", study["id"], study["links"]["self"])
        }


def test_the_same_key_is_the_same_study_whenever_it_comes(served_on_both: Served) -> None:
    with served_on_both.client() as client, ThreadPoolExecutor(4) as pool:
        barrier = threading.Barrier(4)

        def post(_: int) -> httpx.Response:
            barrier.wait()
            return client.post("/v1/studies", json=STUDY, headers={"Idempotency-Key": "once"})

        answers = list(pool.map(post, range(4)))

        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert [answer.headers.get("idempotency-replayed") for answer in answers].count("true") == 3
        assert len(client.get("/v1/studies").json()["data"]) == 1
        assert len(client.get("/v1/jobs").json()["data"]) == 2
        other = client.post("/v1/studies", json=STUDY | {"seeds": 3}, headers={"Idempotency-Key": "once"})
        assert_problem(other, 422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"train": {"methods": ["euler"], "steps": [2, 2]}}, "invalid_request", "euler-2 is there twice"),
        ({"seed": 3}, "invalid_request", "seed"),
        ({"train": {"methods": ["euler"], "steps": [50_000]}, "seeds": 1}, "budget_exceeded", "euler-50000"),
        ({"sweep": {"methods": ["rk4"], "steps": [90_000]}}, "budget_exceeded", "rk4-90000"),
    ],
)
def test_a_study_with_one_cell_that_cannot_run_is_refused_whole(
    served: Served, changes: dict[str, Any], code: str, says: str
) -> None:
    budget = {"training": {"iterations": 1_000_000}}
    body = STUDY | {"base": STUDY["base"] | budget} | changes
    with served.client() as client:
        response = client.post("/v1/studies", json=body)

        assert says in assert_problem(response, 422, code)["detail"]
        assert client.get("/v1/jobs").json()["data"] == []
        assert client.get("/v1/studies").json()["data"] == []


def test_a_study_whose_data_are_missing_is_refused(served: Served) -> None:
    base = {"dataset": {"kind": "mnist"}, "model": {"kind": "classifier", "field": {"kind": "conv2d", "channels": 2}}}
    with served.client() as client:
        assert_problem(client.post("/v1/studies", json=STUDY | {"base": base}), 409, "dataset_unavailable")


def test_results_are_put_together_over_seeds_and_failed_seeds_are_shown(served: Served, connected: Client) -> None:
    study = connected.submit_study(StudySpec.model_validate(STUDY))
    finish(served.store, study["cells"][0], {0: 0.5, 1: 0.7})
    finish(served.store, study["cells"][1], {1: 0.85}, failed=(0,))

    done = connected.wait_for_study(study["id"])
    rows = connected.study_results(study["id"])

    assert done["status"] == "succeeded"
    assert done["progress"] == {"step": 200, "total": 200, "jobs": 2, "finished_jobs": 2}
    assert [(one["seed"], one["version"], one["accuracy"]) for one in done["cells"][0]["versions"]] == [
        (0, 1, 0.9),
        (1, 2, 0.9),
    ]
    assert done["cells"][1]["failed_seeds"] == [{"seed": 0, "reason": "in iteration 3 of 100 the loss is not finite"}]
    StudyResults.model_validate({"data": rows})
    coarse, fine = rows
    assert (coarse["label"], coarse["train_steps"], coarse["test_solver"], coarse["nfe"]) == (
        "euler-2",
        2,
        {"method": "rk4", "steps": 8},
        32.0,
    )
    assert coarse["accuracy"]["mean"] == pytest.approx(0.6)
    assert coarse["accuracy"]["sd"] == pytest.approx(0.1 * 2**0.5)  # of two values 0.2 apart
    assert coarse["accuracy"]["by_seed"] == {"0": 0.5, "1": 0.7}
    assert (fine["accuracy"]["mean"], fine["accuracy"]["sd"], fine["accuracy"]["n"]) == (0.85, None, 1)
    assert fine["failed_seeds"] == [0]
    single = list(connected.results(study=study["id"], sort="accuracy"))
    assert [(row["study"], row["seed"], row["accuracy"]) for row in single] == [
        (study["id"], 0, 0.5),
        (study["id"], 1, 0.7),
        (study["id"], 1, 0.85),
    ]
    assert list(connected.results(study="no id")) == []
    assert list(connected.jobs(study="no id")) == []


def test_a_study_is_cancelled_and_resumed_as_a_whole(served_on_both: Served) -> None:
    with Client(served_on_both.url, patience=0) as connected:
        study = connected.submit_study(STUDY)
        finish(served_on_both.store, study["cells"][0], {0: 0.5, 1: 0.7})

        cancelled = connected.cancel_study(study["id"])

        assert cancelled["status"] == "cancelled"
        assert [cell["status"] for cell in cancelled["cells"]] == ["succeeded", "cancelled"]
        with pytest.raises(StudyNotSucceeded, match="euler-4: cancelled"):
            connected.wait_for_study(study["id"])
        resumed = connected.resume_study(study["id"])
        assert resumed["status"] == "running"
        assert [cell["status"] for cell in resumed["cells"]] == ["succeeded", "queued"]
        assert resumed["cells"][0]["job_id"] == study["cells"][0]["job_id"]
        assert resumed["cells"][1]["job_id"] != study["cells"][1]["job_id"]
        finish(served_on_both.store, resumed["cells"][1], {0: 0.8, 1: 0.8})
        assert connected.study(study["id"])["status"] == "succeeded"
        assert [row["status"] for row in connected.studies(name="grid", status="succeeded")] == ["succeeded"]
        assert list(connected.studies(status="failed")) == []


def test_resuming_is_refused_while_a_study_runs_and_when_it_is_done(served: Served, connected: Client) -> None:
    study = connected.submit_study(STUDY | {"train": {"methods": ["euler"], "steps": [2]}})
    with served.client() as client:
        running = client.post(f"/v1/studies/{study['id']}/resume")
        finish(served.store, study["cells"][0], {0: 0.5, 1: 0.7})
        done = client.post(f"/v1/studies/{study['id']}/resume")

    assert "cancel it first" in assert_problem(running, 409, "study_not_resumable")["detail"]
    assert "nothing to resume" in assert_problem(done, 409, "study_not_resumable")["detail"]


def test_a_search_shows_its_bracket_and_what_it_saved(served: Served, connected: Client) -> None:
    study = connected.submit_study(SEARCH)
    assert study["search"] is not None
    assert study["search"]["bracket"] == {"last_failing": None, "first_passing": None}
    assert [cell["label"] for cell in study["cells"]] == ["euler-2"]

    finish(served.store, study["cells"][0], {0: 0.5, 1: 0.89})
    between = connected.study(study["id"])
    finish(served.store, between["cells"][1], {0: 0.85, 1: 0.9})
    done = connected.wait_for_study(study["id"])

    assert [cell["label"] for cell in between["cells"]] == ["euler-2", "euler-4"]
    assert between["status"] == "running"
    assert between["search"] is not None
    assert between["search"]["bracket"] == {"last_failing": 2, "first_passing": None}
    found = done["search"]
    assert found is not None
    assert (found["finished"], found["monotone"]) == (True, True)
    assert found["bracket"] == {"last_failing": 2, "first_passing": 4}
    assert (found["runs"], found["full_grid_runs"], found["runs_saved"]) == (4, 6, 2)
    assert found["checked"][0]["by_seed"]["0"] == {
        "passes": False,
        "train_accuracy": 0.9,
        "test_accuracy": 0.5,
        "flip_rate": pytest.approx(0.4),
        "reason": None,
    }


@pytest.mark.parametrize("path", ["", "/results"])
@pytest.mark.parametrize("study_id", ["nothing", "01a208d0-2414-7087-9918-fa4586517f76"])
def test_a_study_that_is_not_there_is_not_found(client: httpx.Client, path: str, study_id: str) -> None:
    assert_problem(client.get(f"/v1/studies/{study_id}{path}"), 404, "study_not_found")
    for action in ("cancel", "resume"):
        assert_problem(client.post(f"/v1/studies/{study_id}/{action}"), 404, "study_not_found")


def test_waiting_for_a_study_can_be_limited(connected: Client) -> None:
    study = connected.submit_study(STUDY)

    with pytest.raises(TimeoutError, match="with 0 of 2 jobs done"):
        connected.wait_for_study(study["id"], timeout=0)
