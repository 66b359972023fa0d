"""Uploaded data sets: taken in, listed, named by jobs; and everything that is none is refused."""

import io
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from api import dataset_upload
from api.client import Client
from ode_core.datasets.labelled_arrays import LabelledArrays
from ode_core.specs import TrainingJobSpec, UploadedSpec
from store.settings import Settings
from tests.api.conftest import DIGITS_JOB, Served, assert_problem, serve

OCTETS = {"Content-Type": "application/octet-stream"}
POINTS = np.random.default_rng(0).random((40, 2)).astype(np.float32)
LABELS = np.arange(40) % 2
MLP = {"kind": "classifier", "field": {"kind": "mlp", "hidden": [4]}}


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


MOONS = npz(inputs=POINTS, labels=LABELS)


def upload(client: httpx.Client, content: bytes = MOONS, *, headers: Any = None, **query: Any) -> httpx.Response:
    return client.post(
        "/v1/datasets", params={"name": "moons"} | query, content=content, headers=OCTETS | (headers or {})
    )


def job(dataset: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return DIGITS_JOB | {"dataset": dataset, "model": MLP} | changes


# Taken in


def test_an_upload_is_a_version_with_its_facts(served_on_both: Served) -> None:
    with served_on_both.client() as client:
        response = upload(client, input_scale=0.5, test_fraction=0.25, split_seed=7)
        assert response.status_code == 201
        assert response.headers["location"] == "/v1/datasets/moons"
        version = response.json()
        assert (version["name"], version["version"]) == ("moons", 1)
        assert (version["input_shape"], version["classes"], version["input_scale"]) == ([2], 2, 0.5)
        assert (version["train_samples"], version["test_samples"]) == (30, 10)
        assert version["source"]["format"] == "npz"
        assert (version["source"]["test_fraction"], version["source"]["split_seed"]) == (0.25, 7)
        assert version["source"]["bytes"] == len(MOONS)

        again = upload(client).json()
        assert again["version"] == 2
        described = client.get("/v1/datasets/moons").json()
        assert described["latest_version"] == 2
        assert described["versions"] == [again, version]
    with served_on_both.store.reading() as tx:
        stored = tx.datasets.version("moons", 1)
    assert stored is not None
    arrays = LabelledArrays.from_bytes(served_on_both.store.read_blob(stored.blob_id))
    assert arrays.fingerprint == version["sha256"]
    rows = np.concatenate([arrays.train_inputs, arrays.test_inputs])
    assert np.array_equal(np.unique(rows, axis=0), np.unique(POINTS, axis=0))


def test_test_samples_of_the_file_are_taken_as_they_are(served: Served) -> None:
    content = npz(inputs=POINTS, labels=LABELS, test_inputs=POINTS[:6], test_labels=LABELS[:6])
    with served.client() as client:
        version = upload(client, content).json()
        assert (version["train_samples"], version["test_samples"]) == (40, 6)
        assert "test_fraction" not in version["source"]
        problem = assert_problem(upload(client, content, test_fraction=0.2), 422, "invalid_file")
        assert "leave test_fraction" in problem["detail"]


def test_a_parquet_file_is_read_with_its_column_of_labels(served: Served) -> None:
    content = io.BytesIO()
    pq.write_table(pa.table({"x": POINTS[:, 0], "y": POINTS[:, 1], "class": LABELS}), content)
    with served.client() as client:
        version = upload(client, content.getvalue(), label="class").json()
        assert (version["input_shape"], version["train_samples"]) == ([2], 32)
        assert (version["source"]["format"], version["source"]["label"]) == ("parquet", "class")
        problem = assert_problem(upload(client, content.getvalue()), 422, "invalid_file")
        assert "name the column of labels, one of x, y, class" in problem["detail"]


def test_a_repeated_request_with_a_key_is_one_upload(served_on_both: Served) -> None:
    key = {"Idempotency-Key": "mine"}
    with served_on_both.client() as client:
        first, again = upload(client, headers=key), upload(client, headers=key)
        assert again.status_code == 201
        assert again.json() == first.json()
        assert again.headers["idempotency-replayed"] == "true"
        for changed in ({"input_scale": 2}, {"name": "suns"}):
            assert_problem(upload(client, headers=key, **changed), 422, "idempotency_key_reused")
        other = npz(inputs=POINTS + 1, labels=LABELS)
        assert_problem(upload(client, other, headers=key), 422, "idempotency_key_reused")
        assert client.get("/v1/datasets/moons").json()["latest_version"] == 1


def test_the_list_has_ours_first_and_then_the_uploaded_ones_page_by_page(served: Served) -> None:
    with served.client() as client:
        for name in ("b", "a", "c"):
            upload(client, name=name)
        first = client.get("/v1/datasets", params={"limit": 2}).json()
        rest = client.get("/v1/datasets", params={"limit": 2, "after": first["next_cursor"]}).json()
    assert [one["name"] for one in first["data"] if one["kind"] == "uploaded"] == ["a", "b"]
    assert first["data"][0]["kind"] == "digits"
    assert [one["name"] for one in rest["data"]] == ["c"]
    assert not rest["has_more"]
    assert rest["data"][0]["example"] == {"kind": "uploaded", "name": "c", "version": 1}


def test_the_client_uploads_arrays_files_and_bytes(served: Served, tmp_path: Path) -> None:
    (tmp_path / "moons.npz").write_bytes(MOONS)
    with Client(served.url) as client:
        versions = [
            client.upload_dataset("moons", {"inputs": POINTS, "labels": LABELS}),
            client.upload_dataset("moons", tmp_path / "moons.npz"),
            client.upload_dataset("moons", str(tmp_path / "moons.npz")),
            client.upload_dataset("moons", MOONS, idempotency_key="once"),
            client.upload_dataset("moons", MOONS, idempotency_key="once"),
        ]
        assert [version["version"] for version in versions] == [1, 2, 3, 4, 4]
        assert len({version["sha256"] for version in versions}) == 1
        assert client.dataset("moons")["latest_version"] == 4
        assert "moons" in [one["name"] for one in client.datasets()]


# Named by jobs


def test_a_job_is_accepted_with_version_and_facts_filled_in(served_on_both: Served) -> None:
    with served_on_both.client() as client:
        upload(client, input_scale=0.25)
        facts = upload(client, input_scale=0.5).json()
        accepted = client.post("/v1/training-jobs", json=job({"kind": "uploaded", "name": "moons"}))
        assert accepted.status_code == 202, accepted.text
        stored = accepted.json()["spec"]
        assert stored["dataset"]["version"] == 2
        dataset = TrainingJobSpec.model_validate(stored).dataset
        assert isinstance(dataset, UploadedSpec)
        assert (dataset.input_shape, dataset.classes, dataset.input_scale) == ((2,), 2, 0.5)
        assert dataset.facts is not None
        assert dataset.facts.sha256 == facts["sha256"]

        older = client.post("/v1/training-jobs", json=job({"kind": "uploaded", "name": "moons", "version": 1}))
        assert older.json()["spec"]["dataset"]["facts"]["input_scale"] == 0.25
        repeated = client.post("/v1/training-jobs", json=stored)
        assert repeated.json()["spec"] == stored


@pytest.mark.parametrize(
    ("dataset", "changes", "status", "code", "message"),
    [
        ({"name": "suns"}, {}, 404, "dataset_not_found", "POST /v1/datasets"),
        ({"name": "moons", "version": 9}, {}, 404, "dataset_version_not_found", "moons has no version 9"),
        ({"name": "moons", "version": 0}, {}, 422, "invalid_request", "dataset.version: must be at least 1"),
        ({"name": "../moons"}, {}, 422, "invalid_request", "dataset.name"),
        ({}, {}, 422, "invalid_request", "dataset.name: this field is required"),
        ({"name": "moons"}, {"model": {"kind": "preset", "name": "cifar10"}}, 422, "invalid_request", "needs images"),
    ],
)
def test_a_job_on_data_that_is_not_there_or_does_not_fit_is_refused(
    served: Served, dataset: Any, changes: Any, status: int, code: str, message: str
) -> None:
    with served.client() as client:
        upload(client)
        response = client.post("/v1/training-jobs", json=job({"kind": "uploaded"} | dataset, **changes))
    assert message in assert_problem(response, status, code)["detail"]


def test_facts_that_are_not_the_data_sets_own_are_refused(served: Served) -> None:
    with served.client() as client:
        upload(client)
        spec = client.post("/v1/training-jobs", json=job({"kind": "uploaded", "name": "moons"})).json()["spec"]
        spec["dataset"]["facts"]["classes"] = 3
        problem = assert_problem(client.post("/v1/training-jobs", json=spec), 422, "invalid_request")
        assert problem["errors"][0]["path"] == "dataset.facts"


def test_the_budget_counts_uploaded_data(make_settings: Callable[..., Settings]) -> None:
    with serve(make_settings(budget={"parameters": 20})) as served, served.client() as client:
        upload(client)
        assert_problem(
            client.post("/v1/training-jobs", json=job({"kind": "uploaded", "name": "moons"})), 422, "budget_exceeded"
        )


# Refused


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def bomb() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inputs.npy", bytes(300 * 1024 * 1024))
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<html>not found</html>", "neither an npz nor a Parquet file"),
        (MOONS[:-40], "not a whole npz file"),
        (MOONS[:10], "not a whole npz file"),
        (b"PAR1" + bytes(100), "not a whole Parquet file"),
        (b"PAR1" + MOONS + b"PAR1", "not a whole Parquet file"),
        (b"\x80\x04\x95", "neither an npz nor a Parquet file"),
        (npz(inputs=np.array([Harmful()] * 40, dtype=object), labels=LABELS), "never Python objects"),
        (npz(inputs=POINTS), "has no array labels"),
        (npz(inputs=POINTS, labels=LABELS, test_inputs=POINTS), "test_inputs alone"),
        (npz(inputs=POINTS, labels=LABELS - 1), "the label -1"),
        (npz(inputs=POINTS, labels=LABELS[:7]), "one label for each"),
        (npz(inputs=np.full_like(POINTS, np.nan), labels=LABELS), "not finite"),
        (npz(inputs=POINTS, labels=LABELS, more=LABELS), "it may hold inputs"),
    ],
)
def test_a_file_that_is_no_data_set_is_refused_and_nothing_is_stored(
    served: Served, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(dataset_upload.__file__).parents[1]))
    with served.client() as client:
        problem = assert_problem(upload(client, content), 422, "invalid_file")
        assert message in problem["detail"]
        assert_problem(client.get("/v1/datasets/moons"), 404, "dataset_not_found")
        assert upload(client).status_code == 201  # the server is as it was
    assert not (tmp_path / "executed").exists()


def test_a_bomb_is_refused_as_too_large(served: Served) -> None:
    with served.client() as client:
        problem = assert_problem(upload(client, bomb()), 413, "dataset_too_large")
    assert "ODENESS_MAX_UPLOAD_BYTES" in problem["detail"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_limit_is_refused_and_only_uploads_have_theirs(
    make_settings: Callable[..., Settings], chunked: bool
) -> None:
    large = bytes(200_000)
    with serve(make_settings(max_upload_bytes=100_000, max_body_bytes=2_000)) as served, served.client() as client:
        content: Any = iter([large[:1000]] * 200) if chunked else large
        problem = assert_problem(upload(client, content), 413, "body_too_large")
        assert "ODENESS_MAX_UPLOAD_BYTES" in problem["detail"]
    with serve(make_settings(max_upload_bytes=100_000, max_body_bytes=1_024)) as served, served.client() as client:
        assert upload(client, npz(inputs=np.random.default_rng(0).random((40, 60)), labels=LABELS)).status_code == 201
        refused = client.post("/v1/training-jobs", content=bytes(2000), headers={"Content-Type": "application/json"})
        assert_problem(refused, 413, "body_too_large")


@pytest.mark.parametrize("media_type", [None, "application/x-www-form-urlencoded", "text/plain", "multipart/form-data"])
def test_what_a_page_of_another_site_could_send_is_refused(served: Served, media_type: str | None) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    with served.client() as client:
        response = client.post("/v1/datasets", params={"name": "moons"}, content=MOONS, headers=headers)
    assert "application/octet-stream" in assert_problem(response, 415, "unsupported_media_type")["detail"]


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({"name": "digits"}, "name"),
        ({"name": "uploaded"}, "name"),
        ({"name": "-x"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"input_scale": 0}, "input_scale"),
        ({"input_scale": "nan"}, "input_scale"),
        ({"test_fraction": 0.9}, "test_fraction"),
        ({"split_seed": -1}, "split_seed"),
        ({"labels": "y"}, "labels"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_their_place(
    refusing_client: httpx.Client, query: dict[str, Any], path: str
) -> None:
    problem = assert_problem(upload(refusing_client, **query), 422, "invalid_request")
    assert problem["errors"][0]["path"] == path


def test_a_name_is_needed(refusing_client: httpx.Client) -> None:
    response = refusing_client.post("/v1/datasets", content=MOONS, headers=OCTETS)
    assert assert_problem(response, 422, "invalid_request")["errors"][0]["path"] == "name"


def test_a_reader_that_dies_is_a_refusal(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(command: list[str], **options: Any) -> Any:
        return subprocess.CompletedProcess(command, -11, b"", b"segmentation fault")

    monkeypatch.setattr(dataset_upload.subprocess, "run", dying)
    with served.client() as client:
        problem = assert_problem(upload(client), 422, "invalid_file")
    assert "damaged" in problem["detail"]


def test_a_reader_that_takes_too_long_is_a_refusal(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_upload, "_READ_SECONDS", 0.01)
    with served.client() as client:
        assert_problem(upload(client), 422, "invalid_file")


def test_more_uploads_than_there_is_room_for_are_asked_to_wait(served: Served) -> None:
    limiter = served.app.state.services.uploads
    for number in range(dataset_upload.AT_ONCE):
        limiter.acquire_on_behalf_of_nowait(number)
    with served.client() as client:
        response = upload(client)
        assert_problem(response, 503, "busy")
        assert response.headers["retry-after"]
        limiter.release_on_behalf_of(0)
        assert upload(client).status_code == 201
        assert upload(client, b"").status_code == 422
        assert upload(client).status_code == 201  # a refused one has left its place


def test_the_reader_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODENESS_API_KEY", "secret")
    assert "secret" not in dataset_upload._environment().values()
