"""Aliases over HTTP: moved by one request, put back by another, and never the wrong way by accident."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api.client import Client, ProblemError
from api.routes import aliases
from api.schemas.aliases import AliasAnswer, AliasDetail
from store.unit_of_work import Store
from tests.api.conftest import SPHERES_JOB, Served, assert_problem, train

PLACE = "/v1/models/spheres/aliases/production"


def add_versions(store: Store, count: int) -> None:
    """Give the model ``spheres`` versions, which here share their weights."""
    first = train(store, SPHERES_JOB)
    parts: dict[str, Any] = {"training_spec": first.training_spec, "solver": first.solver, "blob_id": first.blob_id}
    with store.transaction() as tx:
        for _ in range(count - 1):
            tx.models.register_upload("spheres", metadata={}, **parts)


@pytest.fixture
def deployed(served: Served) -> Iterator[httpx.Client]:
    """A client of a server whose model ``spheres`` has four versions and no alias."""
    add_versions(served.store, 4)
    with served.client() as client:
        yield client


def move(client: httpx.Client, version: int, **body: Any) -> dict[str, Any]:
    response = client.put(PLACE, json={"version": version, **body})
    assert response.status_code in (200, 201), response.text
    AliasAnswer.model_validate_json(response.content)
    answer: dict[str, Any] = response.json()
    return answer


def read(client: httpx.Client) -> dict[str, Any]:
    response = client.get(PLACE)
    assert response.status_code == 200, response.text
    AliasDetail.model_validate_json(response.content)
    answer: dict[str, Any] = response.json()
    return answer


def test_an_alias_is_made_moved_and_rolled_back_by_one_request_each(served_on_both: Served) -> None:
    add_versions(served_on_both.store, 3)
    with served_on_both.client() as client:
        made = client.put(PLACE, json={"version": 2})
        assert (made.status_code, made.headers["location"]) == (201, PLACE)
        assert made.json()["links"] == {
            "self": PLACE,
            "model": "/v1/models/spheres",
            "version": "/v1/models/spheres/versions/2",
            "predict": f"{PLACE}/predict",
            "rollback": f"{PLACE}/rollback",
        }
        assert client.get(made.json()["links"]["version"]).json()["version"] == 2

        moved = client.put(PLACE, json={"version": 3})
        assert moved.status_code == 200
        assert "location" not in moved.headers
        assert (moved.json()["version"], moved.json()["previous_version"]) == (3, 2)

        back = client.post(moved.json()["links"]["rollback"])
        assert back.status_code == 200
        assert (back.json()["version"], back.json()["previous_version"]) == (2, None)

        detail = read(client)
        assert [(one["revision"], one["kind"], one["version"]) for one in detail["history"]] == [
            (3, "rollback", 2),
            (2, "move", 3),
            (1, "move", 2),
        ]
        assert detail["moved_at"] == detail["history"][0]["moved_at"]
        listed = client.get(client.get("/v1/models/spheres").json()["links"]["aliases"]).json()
        assert listed == {"data": [back.json()], "has_more": False, "next_cursor": None}
        problem = assert_problem(client.post(f"{PLACE}/rollback"), 409, "nothing_to_roll_back")
        assert "PUT the version" in problem["detail"]

        assert client.delete(PLACE).status_code == 204
        assert_problem(client.get(PLACE), 404, "alias_not_found")
        assert client.get("/v1/models/spheres/aliases").json()["data"] == []
        assert client.get("/v1/models/spheres/versions/2").status_code == 200


def test_a_prediction_by_an_alias_is_of_where_it_points_from_the_next_request_on(deployed: httpx.Client) -> None:
    predict = move(deployed, 2)["links"]["predict"]

    def served() -> int:
        response = deployed.post(predict, json={"inputs": [[[0.1, 0.2]]]})
        assert response.status_code == 200, response.text
        version: int = response.json()["version"]
        return version

    assert served() == 2
    move(deployed, 3)
    assert served() == 3
    deployed.post(f"{PLACE}/rollback")
    assert served() == 2


def test_a_request_that_expects_what_is_no_longer_so_changes_nothing(deployed: httpx.Client) -> None:
    move(deployed, 1, expected_version=0)
    move(deployed, 2, expected_version=1)

    for response in (
        deployed.put(PLACE, json={"version": 3, "expected_version": 1}),
        deployed.put(PLACE, json={"version": 3, "expected_version": 0}),
        deployed.post(f"{PLACE}/rollback?expected_version=1"),
        deployed.delete(f"{PLACE}?expected_version=1"),
    ):
        assert "version 2" in assert_problem(response, 409, "alias_moved")["detail"]
    assert_problem(
        deployed.put("/v1/models/spheres/aliases/new", json={"version": 3, "expected_version": 1}), 409, "alias_moved"
    )
    assert read(deployed)["revision"] == 2

    assert deployed.post(f"{PLACE}/rollback?expected_version=2").json()["version"] == 1
    assert deployed.delete(f"{PLACE}?expected_version=1").status_code == 204


def test_of_deployers_at_once_one_moves_the_alias_and_the_others_are_told(served: Served) -> None:
    add_versions(served.store, 4)
    answers: list[httpx.Response] = []
    barrier = threading.Barrier(3)

    def deploy(version: int) -> None:
        with served.client() as client:
            barrier.wait()
            answers.append(client.put(PLACE, json={"version": version, "expected_version": 1}))

    with served.client() as client:
        move(client, 1)
        threads = [threading.Thread(target=deploy, args=(version,)) for version in (2, 3, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        (won,) = [answer for answer in answers if answer.status_code == 200]
        for lost in (answer for answer in answers if answer is not won):
            assert_problem(lost, 409, "alias_moved")
        assert len(answers) == 3
        assert read(client)["version"] == won.json()["version"]


def test_a_repeated_move_stays_one_and_a_repeated_rollback_with_its_key_too(deployed: httpx.Client) -> None:
    move(deployed, 1)
    move(deployed, 2)
    assert move(deployed, 3, expected_version=2) == move(deployed, 3, expected_version=2)

    key = {"Idempotency-Key": "back"}
    first, second = (deployed.post(f"{PLACE}/rollback", headers=key) for _ in range(2))

    assert first.json() == second.json()
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert read(deployed)["version"] == 2
    other = deployed.post("/v1/models/spheres/aliases/other/rollback", headers=key)
    assert_problem(other, 422, "idempotency_key_reused")


def test_a_rollback_that_was_refused_gives_its_key_back(deployed: httpx.Client) -> None:
    move(deployed, 1)
    key = {"Idempotency-Key": "back"}
    assert_problem(deployed.post(f"{PLACE}/rollback", headers=key), 409, "nothing_to_roll_back")
    move(deployed, 2)

    assert deployed.post(f"{PLACE}/rollback", headers=key).json()["version"] == 1


def test_the_history_is_as_long_as_asked_for(deployed: httpx.Client) -> None:
    for version in (1, 2, 3, 4):
        move(deployed, version)

    history = deployed.get(f"{PLACE}?limit=2").json()["history"]

    assert [one["version"] for one in history] == [4, 3]


def test_aliases_are_listed_a_page_at_a_time(deployed: httpx.Client) -> None:
    for alias in ("staging", "canary", "production"):
        assert deployed.put(f"/v1/models/spheres/aliases/{alias}", json={"version": 1}).status_code == 201
    first = deployed.get("/v1/models/spheres/aliases?limit=2").json()
    second = deployed.get("/v1/models/spheres/aliases", params={"after": first["next_cursor"]}).json()

    assert [one["alias"] for one in first["data"]] == ["canary", "production"]
    assert [one["alias"] for one in second["data"]] == ["staging"]
    assert (first["has_more"], second["has_more"]) == (True, False)


@pytest.mark.parametrize("alias", ["latest", "Latest"])
def test_latest_is_reserved_with_the_advice_to_take_another_name(refusing_client: httpx.Client, alias: str) -> None:
    place = f"/v1/models/tiny/aliases/{alias}"
    for response in (
        refusing_client.put(place, json={"version": 1}),
        refusing_client.post(f"{place}/rollback"),
        refusing_client.delete(place),
    ):
        assert "another name" in assert_problem(response, 422, "alias_reserved")["detail"]


def test_who_reads_latest_as_an_alias_is_told_where_to_look(refusing_client: httpx.Client) -> None:
    problem = assert_problem(refusing_client.get("/v1/models/tiny/aliases/latest"), 404, "alias_not_found")
    assert "GET /v1/models/tiny tells" in problem["detail"]


@pytest.mark.parametrize("alias", ["1", "2026", "1a", "-a", "a%20b", "a%00", "x" * 101, "%C3%A9"])
def test_a_name_that_is_no_alias_is_refused_where_it_would_be_made_and_unknown_elsewhere(
    refusing_client: httpx.Client, alias: str
) -> None:
    place = f"/v1/models/tiny/aliases/{alias}"
    problem = assert_problem(refusing_client.put(place, json={"version": 1}), 422, "invalid_request")
    assert problem["errors"][0]["path"] == "alias"
    assert "begin with a letter" in problem["detail"]
    assert_problem(refusing_client.get(place), 404, "alias_not_found")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "version"),
        ({"version": None}, "version"),
        ({"version": 0}, "version"),
        ({"version": 2**31}, "version"),
        ({"version": "newest"}, "version"),
        ({"version": 1, "expected_version": -1}, "expected_version"),
        ({"version": 1, "expected": 1}, "expected"),
    ],
)
def test_a_move_that_makes_no_sense_is_refused_at_its_place(
    refusing_client: httpx.Client, body: dict[str, Any], path: str
) -> None:
    response = refusing_client.put("/v1/models/tiny/aliases/new", json=body)
    assert assert_problem(response, 422, "invalid_request")["errors"][0]["path"] == path


def test_what_does_not_exist_is_named(refusing_client: httpx.Client) -> None:
    nobody, nothing = "/v1/models/nobody/aliases/production", "/v1/models/tiny/aliases/nothing"
    version = refusing_client.put(nothing, json={"version": 9})
    assert "no version 9" in assert_problem(version, 404, "model_version_not_found")["detail"]
    assert_problem(refusing_client.put(nobody, json={"version": 1}), 404, "model_not_found")
    for place, code in ((nobody, "model_not_found"), (nothing, "alias_not_found")):
        assert_problem(refusing_client.get(place), 404, code)
        assert_problem(refusing_client.post(f"{place}/rollback"), 404, code)
        assert_problem(refusing_client.delete(place), 404, code)


def test_the_python_client_moves_reads_and_rolls_back(served: Served) -> None:
    add_versions(served.store, 3)
    with Client(served.url, patience=0) as client:
        client.move_alias("spheres", "production", 2, expected_version=0)
        client.move_alias("spheres", "production", 3)
        client.move_alias("spheres", "canary", 1)

        assert [(one["alias"], one["version"]) for one in client.aliases("spheres")] == [
            ("canary", 1),
            ("production", 3),
        ]
        with pytest.raises(ProblemError) as refused:
            client.roll_back_alias("spheres", "production", expected_version=2)
        assert refused.value.code == "alias_moved"
        assert client.roll_back_alias("spheres", "production", expected_version=3)["version"] == 2
        assert [one["version"] for one in client.alias("spheres", "production")["history"]] == [2, 3, 2]
        client.remove_alias("spheres", "canary", expected_version=1)
        assert [one["alias"] for one in client.aliases("spheres")] == ["production"]


def test_an_alias_that_is_removed_while_it_is_rolled_back_or_removed_is_not_found(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(served.store, SPHERES_JOB)
    monkeypatch.setattr(aliases, "find_alias", lambda tx, model, alias: None)  # it was still there
    with served.client() as client:
        assert_problem(client.post("/v1/models/spheres/aliases/live/rollback"), 404, "alias_not_found")
        assert_problem(client.delete("/v1/models/spheres/aliases/live"), 404, "alias_not_found")


@pytest.mark.parametrize(("reference", "version"), [("latest", 4), ("production", 2), ("2", 2)])
def test_wherever_a_version_stands_in_a_path_an_alias_and_latest_may_stand(
    deployed: httpx.Client, reference: str, version: int
) -> None:
    move(deployed, 2)
    place = f"/v1/models/spheres/versions/{reference}"
    assert deployed.get(place).json()["version"] == version
    answer = deployed.post(f"{place}/predict", json={"inputs": [[[0.1, 0.12]]]})
    assert answer.json()["version"] == version
    assert deployed.get(f"{place}/charts").status_code == 200
    detail = assert_problem(deployed.get(f"{place}/solver-choice"), 409, "not_audited")["detail"]
    assert f'"version": {version}' in detail
    weights = deployed.get(f"{place}/checkpoint")
    assert f"spheres-v{version}.safetensors" in weights.headers["content-disposition"]
    # What a name means changes, so a cache has to ask.
    assert ("immutable" in weights.headers["cache-control"]) == reference.isdecimal()


def test_an_alias_that_is_not_there_is_none_in_the_place_of_a_version_either(deployed: httpx.Client) -> None:
    for end in ("", "/checkpoint", "/solver-choice", "/charts"):
        assert_problem(deployed.get(f"/v1/models/spheres/versions/nothing{end}"), 404, "alias_not_found")


def test_the_client_takes_an_alias_for_a_version(served: Served) -> None:
    add_versions(served.store, 2)
    with Client(served.url) as client:
        client.move_alias("spheres", "production", 1)
        assert client.version("spheres", "production")["version"] == 1
        assert client.version("spheres", "latest")["version"] == 2
        assert client.predict("spheres", [[[0.1, 0.12]]], version="production")["version"] == 1
        assert client.checkpoint("spheres", "production") == client.checkpoint("spheres", 1)
        with pytest.raises(ProblemError, match='"version": 1'):
            client.solver_choice("spheres", "production")
