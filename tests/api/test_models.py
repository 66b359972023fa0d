"""Models, their versions and weights."""

import hashlib

import httpx
import pytest
from safetensors.torch import load

from api.schemas.models import ModelAnswer, ModelVersionDetail
from tests.api.conftest import DIGITS_JOB, SPHERES_JOB, Served, assert_problem, train

WEIGHTS = "/v1/models/tiny/versions/1/checkpoint"


def test_models_are_listed_by_name_page_by_page(served_on_both: Served) -> None:
    for name in ("b", "c", "a"):
        train(served_on_both.store, DIGITS_JOB | {"name": name})
    with served_on_both.client() as client:
        first = client.get("/v1/models", params={"limit": 2}).json()
        second = client.get("/v1/models", params={"limit": 2, "after": first["next_cursor"]}).json()
    assert [model["name"] for model in first["data"] + second["data"]] == ["a", "b", "c"]
    assert (first["has_more"], second["has_more"]) == (True, False)


def test_a_model_shows_its_versions_newest_first(served_on_both: Served) -> None:
    versions = [train(served_on_both.store, SPHERES_JOB, metadata={"test_accuracy": 0.25 * n}) for n in (1, 2)]
    with served_on_both.client() as client:
        response = client.get("/v1/models/spheres")
        ModelAnswer.model_validate_json(response.content)
        model = response.json()
        assert (model["name"], model["latest_version"]) == ("spheres", 2)
        assert [one["version"] for one in model["versions"]] == [2, 1]
        newest = model["versions"][0]
        assert newest["job_id"] == versions[1].job_id
        assert newest["metadata"] == {"test_accuracy": 0.5}
        assert newest["input_shape"] == [1, 2]
        assert newest["classes"] == 2
        assert newest["solver"] == {"method": "euler", "steps": 2}
        assert client.get(newest["links"]["job"]).status_code == 200
        detail = client.get(newest["links"]["self"])
        ModelVersionDetail.model_validate_json(detail.content)
        assert detail.json()["checkpoint"]["href"] == newest["links"]["checkpoint"]


def test_the_weights_are_downloaded_whole(served_on_both: Served) -> None:
    version = train(served_on_both.store)
    data = served_on_both.store.read_blob(version.blob_id)
    with served_on_both.client() as client:
        response = client.get(WEIGHTS)
        detail = client.get("/v1/models/tiny/versions/1").json()
    assert response.status_code == 200
    assert response.content == data
    assert int(response.headers["content-length"]) == len(data) == detail["checkpoint"]["bytes"]
    digest = hashlib.sha256(data).hexdigest()
    assert response.headers["etag"] == f'"{digest}"'
    assert detail["checkpoint"]["sha256"] == digest
    assert response.headers["accept-ranges"] == "bytes"
    assert 'filename="tiny-v1.safetensors"' in response.headers["content-disposition"]
    assert load(response.content)


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=10-", slice(10, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=5-99999999", slice(5, None)),
        ("bytes=-99999999", slice(0, None)),
    ],
)
def test_a_part_of_the_weights_is_downloaded(refusing_client: httpx.Client, header: str, part: slice) -> None:
    data = refusing_client.get(WEIGHTS).content
    start, stop, _ = part.indices(len(data))
    response = refusing_client.get(WEIGHTS, headers={"Range": header})
    assert response.status_code == 206
    assert response.content == data[part]
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"


@pytest.mark.parametrize("header", ["bytes=9-1", "lines=1-2", "bytes=a-b", "bytes=0-1,3-4", "bytes=-", ""])
def test_a_range_that_is_none_or_several_gives_the_whole(refusing_client: httpx.Client, header: str) -> None:
    assert refusing_client.get(WEIGHTS, headers={"Range": header}).status_code == 200


@pytest.mark.parametrize("header", ["bytes=99999999-", "bytes=-0"])
def test_a_range_outside_the_file_is_refused_with_its_size(refusing_client: httpx.Client, header: str) -> None:
    size = len(refusing_client.get(WEIGHTS).content)
    response = refusing_client.get(WEIGHTS, headers={"Range": header})
    assert_problem(response, 416, "range_not_satisfiable")
    assert response.headers["content-range"] == f"bytes */{size}"


def test_weights_already_there_are_not_sent_again(refusing_client: httpx.Client) -> None:
    tag = refusing_client.get(WEIGHTS).headers["etag"]
    for names in (tag, f'"x", W/{tag}', "*"):
        response = refusing_client.get(WEIGHTS, headers={"If-None-Match": names})
        assert (response.status_code, response.content) == (304, b"")
    assert refusing_client.get(WEIGHTS, headers={"If-None-Match": '"x"'}).status_code == 200
    assert refusing_client.get(WEIGHTS, headers={"Range": "bytes=0-1", "If-Range": tag}).status_code == 206
    assert refusing_client.get(WEIGHTS, headers={"Range": "bytes=0-1", "If-Range": '"x"'}).status_code == 200
