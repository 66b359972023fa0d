"""Jobs that predict a whole data set: accepted, read in pages, and fetched as files."""

import csv
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from api import stored_predictions
from api.client import Client, ProblemError
from api.schemas.answer import ListOf
from api.schemas.stored_predictions import SamplePrediction
from ode_core.models.prediction_columns import pack
from ode_core.specs import Budget, PredictJobSpec
from store.models import ModelVersion
from store.predictions import PredictionChunk
from tests.api.conftest import SPHERES_JOB, Served, assert_problem, claim, serve, train
from tests.api.solver_choices import store_choice
from tests.api.test_dataset_upload import LABELS, POINTS, npz, upload

SAMPLES, FAILED = 250, 7
DATA_SET: dict[str, Any] = {"kind": "predict", "model": "spheres"}


def accept(client: httpx.Client, **options: Any) -> httpx.Response:
    return client.post("/v1/evaluation-jobs", json=DATA_SET | options)


def columns_of(samples: int) -> dict[str, NDArray[Any]]:
    """Predictions with all digits in use, of which sample 7 failed."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(samples, 2)).astype(np.float32)
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    columns = {
        "truth": np.arange(samples) % 2,
        "label": logits.argmax(axis=1),
        "status": np.zeros(samples, dtype=int),
        "nfe": random.integers(2, 10**6, samples),
        "accepted": np.arange(samples),
        "rejected": np.arange(samples) % 3,
        "probabilities": probabilities,
        "logits": logits,
    }
    if samples > FAILED:
        columns["status"][FAILED], columns["label"][FAILED] = 3, -1
        columns["probabilities"][FAILED] = columns["logits"][FAILED] = np.nan
    return columns


def store_predictions(served: Served, job_id: str, columns: dict[str, NDArray[Any]], *, end: str = "succeed") -> None:
    """Do a job's work as a worker would, in three chunks; end it, or let it run."""
    with served.store.reading() as tx:
        attempt = claim(served.store, tx.jobs.require(job_id))
    total = len(columns["label"])
    bounds = [0, total // 3, total // 2, total]
    for first, stop in itertools.pairwise(bounds):
        packed = pack([{name: column[first:stop] for name, column in columns.items()}])
        with served.store.transaction() as tx:
            tx.predictions.append(job_id, attempt, PredictionChunk(first, stop - first, 0.1, packed))
    with served.store.transaction() as tx:
        if end == "succeed":
            tx.jobs.succeed(job_id, attempt, {"model": "spheres", "version": 1})
        elif end == "cancel":
            tx.jobs.request_cancel(job_id)
            tx.jobs.finish_cancelled(job_id, attempt)


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    train(served.store, SPHERES_JOB)
    with served.client() as connected:
        yield connected


@pytest.fixture
def job_id(served: Served, client: httpx.Client) -> str:
    """A job that has predicted ``columns_of(SAMPLES)``."""
    accepted: str = accept(client, logits=True, samples=SAMPLES).json()["id"]
    store_predictions(served, accepted, columns_of(SAMPLES))
    return accepted


def version_of(served: Served) -> ModelVersion:
    with served.store.reading() as tx:
        version = tx.models.version("spheres", 1)
    assert version is not None
    return version


# Accepted


def test_an_accepted_job_names_version_solver_and_data_set(served_on_both: Served) -> None:
    train(served_on_both.store, SPHERES_JOB)
    with served_on_both.client() as client:
        response = accept(client)
        job = response.json()
        train(served_on_both.store, SPHERES_JOB)
    assert response.status_code == 202
    assert (job["kind"], job["version"], job["spec"]["version"]) == ("predict", 1, 1)
    assert job["spec"]["solver"] == {"method": "euler", "steps": 2}
    assert (job["spec"]["dataset"]["kind"], job["spec"]["dataset"]["test_samples"]) == ("concentric_spheres", 1000)
    assert job["progress"]["total"] == 1000
    assert job["links"]["predictions"] == f"/v1/jobs/{job['id']}/predictions"


def test_the_progress_counts_the_samples_of_the_split_within_the_limit(client: httpx.Client) -> None:
    assert accept(client, split="train").json()["progress"]["total"] == 2000
    assert accept(client, split="train", samples=30).json()["progress"]["total"] == 30
    assert accept(client, dataset={"kind": "xor"}, samples=30).json()["progress"]["total"] == 4


def test_an_uploaded_data_set_is_pinned_with_its_facts(client: httpx.Client) -> None:
    assert upload(client).status_code == 201
    job = accept(client, dataset={"kind": "uploaded", "name": "moons"}).json()
    assert upload(client, test_fraction=0.5).status_code == 201
    assert (job["spec"]["dataset"]["version"], job["progress"]["total"]) == (1, 8)
    assert job["spec"]["dataset"]["facts"]["test_samples"] == 8


@pytest.mark.parametrize(("reference", "number"), [("good", 1), ("latest", 2), (2, 2), (None, 2)])
def test_a_version_may_be_an_alias_and_the_job_names_what_it_was(
    served: Served, client: httpx.Client, reference: int | str | None, number: int
) -> None:
    train(served.store, SPHERES_JOB)
    assert client.put("/v1/models/spheres/aliases/good", json={"version": 1}).status_code == 201
    for kind in ("predict", "audit"):
        job = client.post("/v1/evaluation-jobs", json={"kind": kind, "model": "spheres", "version": reference}).json()
        assert (job["version"], job["spec"]["version"]) == (number, number)


# The candidates agree on 970, 950, 995, 999 and 1,000 of 1,000 samples, for 2, 4, 8, 12 and 14.5 evaluations.
@pytest.mark.parametrize(
    ("asked", "solver", "kept"),
    [
        ({"agreement": 0.99}, {"method": "rk4", "steps": 2}, (0.99, "estimate", "refuse")),
        ({"agreement": 0.96}, {"method": "euler", "steps": 2}, (0.96, "estimate", "refuse")),
        # The exact interval of 999 of 1,000 begins at 0.9944, that of 995 at 0.9884.
        (
            {"agreement": 0.99, "evidence": "lower_bound"},
            {"method": "rk4", "steps": 3},
            (0.99, "lower_bound", "refuse"),
        ),
    ],
)
def test_auto_names_the_cheapest_solver_that_agrees_and_keeps_what_was_asked(
    served: Served, client: httpx.Client, asked: dict[str, Any], solver: dict[str, Any], kept: tuple[Any, ...]
) -> None:
    store_choice(served.store, version_of(served))
    spec = accept(client, solver="auto", **asked).json()["spec"]
    assert spec["solver"] == solver
    asked_for = spec["chosen_by"]
    assert (asked_for["agreement"], asked_for["evidence"], asked_for["otherwise"]) == kept
    assert "of the 7 solvers tried" in asked_for["reason"].lower()
    PredictJobSpec.model_validate(spec)  # as the worker reads it


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"solver": {"method": "rk4", "steps": 3}, "samples": 20, "logits": True},
        {"solver": "auto"},
        {"solver": "auto", "agreement": 0.99, "evidence": "lower_bound", "by": "time", "otherwise": "training_solver"},
        {"dataset": {"kind": "uploaded", "name": "moons"}},
    ],
)
def test_the_spec_of_an_accepted_job_is_accepted_again_and_stays_as_it_is(
    served: Served, client: httpx.Client, asked: dict[str, Any]
) -> None:
    store_choice(served.store, version_of(served))
    assert upload(client).status_code == 201
    spec = accept(client, **asked).json()["spec"]
    again = client.post("/v1/evaluation-jobs", json=spec)
    assert again.status_code == 202, again.text
    assert again.json()["spec"] == spec


@pytest.mark.parametrize("solver", [None, "auto"])
def test_what_was_asked_of_a_choice_goes_with_the_solver_that_was_chosen(
    served: Served, client: httpx.Client, solver: str | None
) -> None:
    store_choice(served.store, version_of(served))
    chosen = accept(client, solver="auto").json()["spec"]["chosen_by"]
    problem = assert_problem(accept(client, solver=solver, chosen_by=chosen), 422, "invalid_request")
    assert "name that solver" in problem["detail"]


def test_auto_without_an_audit_says_how_to_get_one_or_takes_the_training_solver(client: httpx.Client) -> None:
    detail = assert_problem(accept(client, solver="auto"), 409, "not_audited")["detail"]
    assert 'POST {"kind": "audit", "model": "spheres", "version": 1} to /v1/evaluation-jobs' in detail
    spec = accept(client, solver="auto", otherwise="training_solver").json()["spec"]
    assert spec["solver"] == {"method": "euler", "steps": 2}
    reason = spec["chosen_by"]["reason"]
    assert reason.startswith("No audit")
    assert reason.endswith("Taken is euler-2, the solver of the training, as `otherwise` asks.")
    assert accept(client).json()["spec"]["chosen_by"] is None


def test_auto_is_refused_where_no_solver_may_be_chosen(served: Served, client: httpx.Client) -> None:
    store_choice(served.store, version_of(served))
    assert_problem(accept(client, solver="auto", agreement=1.0, evidence="lower_bound"), 409, "no_solver_agrees")


def test_a_data_set_with_the_same_numbers_in_another_shape_is_refused_with_the_shape_to_upload(
    client: httpx.Client,
) -> None:
    content = npz(inputs=POINTS.reshape(-1, 1, 2), labels=LABELS)
    assert upload(client, content, name="channels").status_code == 201
    refused = accept(client, dataset={"kind": "uploaded", "name": "channels"})
    problem = assert_problem(refused, 422, "prediction_impossible")
    assert "has shape [1, 2], the model was trained on inputs of shape [2]" in problem["detail"]
    assert "upload the set with inputs reshaped to [n, 2]" in problem["detail"]


@pytest.mark.parametrize(
    ("options", "status", "code", "words"),
    [
        ({"version": "nobody"}, 404, "alias_not_found", "aliases lists them"),
        ({"version": "a b"}, 422, "invalid_request", "version: "),
        ({"version": 0}, 422, "invalid_request", "version: must be at least 1"),
        ({"solver": "best"}, 422, "invalid_request", "solver: "),
        ({"solver": {"method": "rk5", "steps": 2}}, 422, "invalid_request", "solver.method: "),
        ({"solver": {"method": "rk4"}}, 422, "invalid_request", "solver: "),
        ({"agreement": 0.9}, 422, "invalid_request", 'agreement: is for "solver": "auto" alone'),
        ({"solver": "auto", "agreement": 2}, 422, "invalid_request", "agreement: "),
        ({"model": "nobody"}, 404, "model_not_found", "nobody"),
        ({"version": 9}, 404, "model_version_not_found", "9"),
        ({"dataset": {"kind": "digits"}}, 422, "prediction_impossible", "name a data set of that shape"),
        ({"dataset": {"kind": "uploaded", "name": "none"}}, 404, "dataset_not_found", "POST /v1/datasets"),
        ({"dataset": {"kind": "mnist"}}, 422, "prediction_impossible", "[1, 28, 28]"),
        ({"solver": {"method": "rk4", "steps": 100_000}}, 422, "budget_exceeded", "use fewer steps"),
        ({"split": "both"}, 422, "invalid_request", "train"),
        ({"solvers": []}, 422, "invalid_request", "solvers"),
    ],
)
def test_what_cannot_be_predicted_is_refused_with_what_to_do(
    client: httpx.Client, options: dict[str, Any], status: int, code: str, words: str
) -> None:
    assert words in assert_problem(accept(client, **options), status, code)["detail"]


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(prediction_operations=1000), "use fewer samples, fewer steps or looser tolerances"),
        (Budget(prediction_bytes=1000 * 29), "use fewer samples, or leave the logits out"),
    ],
)
def test_more_work_or_storage_than_the_budget_is_refused(make_settings: Any, budget: Budget, words: str) -> None:
    with serve(make_settings(budget=budget)) as served, served.client() as client:
        train(served.store, SPHERES_JOB)
        problem = assert_problem(accept(client, logits=True), 422, "budget_exceeded")
        assert words in problem["detail"]
        assert [error["path"] for error in problem["errors"]] == ["samples"]
        assert accept(client, samples=2).status_code == 202


# Pages


def test_pages_hold_every_sample_once_in_order(client: httpx.Client, job_id: str) -> None:
    expected, found, query = columns_of(SAMPLES), [], {"limit": "60"}
    while True:
        response = client.get(f"/v1/jobs/{job_id}/predictions", params=query)
        assert response.status_code == 200
        answer = ListOf[SamplePrediction].model_validate_json(response.content)
        found += answer.data
        if not answer.has_more:
            break
        assert len(answer.data) == 60
        query["after"] = str(answer.next_cursor)
    assert [row.sample for row in found] == list(range(SAMPLES))
    assert [row.truth for row in found] == expected["truth"].tolist()
    assert [row.nfe for row in found] == expected["nfe"].tolist()
    assert [row.label for row in found if row.sample != FAILED] == np.delete(expected["label"], FAILED).tolist()
    well = [row for row in found if row.sample != FAILED]
    for name in ("probabilities", "logits"):
        exact = np.array([getattr(row, name) for row in well]).astype(np.float32)
        np.testing.assert_array_equal(exact, np.delete(expected[name], FAILED, axis=0))


def test_a_failed_sample_has_a_status_and_a_remedy_and_null_for_numbers(client: httpx.Client, job_id: str) -> None:
    response = client.get(f"/v1/jobs/{job_id}/predictions", params={"after": FAILED - 1, "limit": 1})
    (row,) = json.loads(response.content, parse_constant=pytest.fail)["data"]
    assert (row["sample"], row["status"]) == (FAILED, "non_finite")
    assert row["label"] is row["probabilities"] is row["logits"] is None
    assert "more steps" in row["remedy"]


def test_a_page_has_as_many_rows_as_fit_where_there_are_very_many_classes(
    client: httpx.Client, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_predictions, "MOST_NUMBERS", 40)  # four a sample
    first = client.get(f"/v1/jobs/{job_id}/predictions").json()
    assert (len(first["data"]), first["next_cursor"]) == (10, "9")


def test_a_job_that_runs_shows_what_it_has_and_gives_no_file_yet(served: Served, client: httpx.Client) -> None:
    job_id = accept(client).json()["id"]
    place = f"/v1/jobs/{job_id}/predictions"
    assert client.get(place).json() == {"data": [], "has_more": False, "next_cursor": None}
    store_predictions(served, job_id, columns_of(6), end="run")
    assert [row["sample"] for row in client.get(place).json()["data"]] == list(range(6))
    assert_problem(client.get(place, params={"format": "csv"}), 409, "job_not_finished")


def test_other_jobs_have_no_predictions_and_a_file_has_no_pages(client: httpx.Client, job_id: str) -> None:
    audit = client.post("/v1/evaluation-jobs", json={"kind": "audit", "model": "spheres"}).json()
    assert audit["links"]["predictions"] is None
    assert_problem(client.get(f"/v1/jobs/{audit['id']}/predictions"), 404, "predictions_not_found")
    assert_problem(client.get("/v1/jobs/none/predictions"), 404, "job_not_found")
    for query in ({"limit": 5}, {"after": 3}):
        response = client.get(f"/v1/jobs/{job_id}/predictions", params={"format": "npz"} | query)
        assert next(iter(query)) in assert_problem(response, 422, "invalid_request")["detail"]


# Files


def test_the_csv_has_a_line_a_sample_with_the_digits_of_float32_and_gaps_where_a_solve_failed(
    client: httpx.Client, job_id: str
) -> None:
    response = client.get(f"/v1/jobs/{job_id}/predictions", params={"format": "csv"})
    assert response.headers["content-type"].startswith("text/csv")
    assert response.headers["content-disposition"] == 'attachment; filename="spheres-v1-test-predictions.csv"'
    header, *lines = csv.reader(io.StringIO(response.text))
    assert header == [
        *("sample", "truth", "label", "status", "nfe", "accepted", "rejected"),
        *("probability_0", "probability_1", "logit_0", "logit_1"),
    ]
    expected = columns_of(SAMPLES)
    assert len(lines) == SAMPLES
    assert {len(line) for line in lines} == {len(header)}
    failed = lines.pop(FAILED)
    assert failed[2:4] == ["", "non_finite"]
    assert failed[7:] == ["", "", "", ""]
    assert [int(line[0]) for line in lines] == [sample for sample in range(SAMPLES) if sample != FAILED]
    numbers = np.array([line[7:] for line in lines]).astype(np.float32)
    wide = np.hstack([expected["probabilities"], expected["logits"]])
    np.testing.assert_array_equal(numbers, np.delete(wide, FAILED, axis=0))


def test_numpy_reads_the_npz_without_pickle(client: httpx.Client, job_id: str) -> None:
    response = client.get(f"/v1/jobs/{job_id}/predictions", params={"format": "npz"})
    expected = columns_of(SAMPLES)
    with np.load(io.BytesIO(response.content), allow_pickle=False) as arrays:
        assert set(arrays) == {*expected, "status_names"}
        for name, column in expected.items():
            np.testing.assert_array_equal(arrays[name], column)
        assert arrays["probabilities"].dtype == np.float32
        assert arrays["status_names"][arrays["status"][FAILED]] == "non_finite"


def test_a_cancelled_jobs_file_has_what_was_predicted_and_says_that_it_is_partial(
    served: Served, client: httpx.Client
) -> None:
    job_id = accept(client).json()["id"]
    columns = columns_of(20)
    del columns["logits"]
    store_predictions(served, job_id, columns, end="cancel")
    response = client.get(f"/v1/jobs/{job_id}/predictions", params={"format": "npz"})
    assert response.headers["content-disposition"] == 'attachment; filename="spheres-v1-test-predictions-partial.npz"'
    with np.load(io.BytesIO(response.content)) as arrays:
        assert "logits" not in arrays
        np.testing.assert_array_equal(arrays["label"], columns["label"])


@pytest.mark.parametrize("format", ["csv", "npz"])
def test_a_job_that_was_cancelled_before_it_began_gives_an_empty_file(client: httpx.Client, format: str) -> None:
    job_id = accept(client).json()["id"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    response = client.get(f"/v1/jobs/{job_id}/predictions", params={"format": format})
    assert response.status_code == 200
    if format == "csv":
        assert len(response.text.splitlines()) == 1
    else:
        with np.load(io.BytesIO(response.content)) as arrays:
            assert len(arrays["label"]) == 0


# The client


def test_the_client_yields_all_predictions_and_writes_files(
    served: Served, client: httpx.Client, job_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = columns_of(SAMPLES)
    with Client(served.url) as connected:
        assert [row["nfe"] for row in connected.predictions(job_id)] == expected["nfe"].tolist()
        assert [row["sample"] for row in connected.predictions(job_id, after=247)] == [248, 249]
        named = connected.predictions_file(job_id)
        lines = connected.predictions_file(job_id, tmp_path / "mine.csv", format="csv").read_text().splitlines()
        with pytest.raises(ProblemError) as refused:
            connected.predictions_file("none")
    assert named == Path("spheres-v1-test-predictions.npz")
    with np.load(tmp_path / named) as arrays:
        np.testing.assert_array_equal(arrays["nfe"], expected["nfe"])
    assert len(lines) == SAMPLES + 1
    assert refused.value.code == "job_not_found"
