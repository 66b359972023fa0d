"""The API key."""

from collections.abc import Callable

import httpx
import pytest

from api.authentication import OPEN_PATHS, PublicBindWithoutKey, is_loopback, require_key_for_public_bind
from store.settings import Settings
from tests.api.conftest import DIGITS_JOB, assert_problem, serve

KEY = "correct-horse-battery"


def test_every_path_but_the_open_ones_needs_the_key(make_settings: Callable[..., Settings]) -> None:
    with serve(make_settings(api_key=KEY)) as served, served.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
        for path, operations in paths.items():
            for method in operations:
                url = path.replace("{job_id}", "1").replace("{name}", "m").replace("{version}", "1")
                response = client.request(method, url)
                assert (response.status_code == 401) == (path not in OPEN_PATHS), path
                assert ("security" in operations[method]) == (path not in OPEN_PATHS)
        assert_problem(client.get("/v1/nothing"), 401, "unauthorized")
        assert client.get("/readyz").status_code == 200


WRONG = ["", KEY, f"Basic {KEY}", "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer é", f"Bearer  x {KEY}"]


def test_a_missing_or_wrong_key_is_refused_before_the_body_is_read(make_settings: Callable[..., Settings]) -> None:
    with serve(make_settings(api_key=KEY)) as served, served.client() as client:
        for headers in [{}, *({"Authorization": header.encode()} for header in WRONG)]:
            response = client.post("/v1/training-jobs", content=b"not json", headers=headers)
            problem = assert_problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert "Authorization: Bearer" in problem["detail"]
            assert KEY not in response.text


def test_the_right_key_is_let_in(make_settings: Callable[..., Settings]) -> None:
    with serve(make_settings(api_key=KEY)) as served, served.client() as client:
        for header in (f"Bearer {KEY}", f"bearer {KEY}", f"Bearer  {KEY}"):
            headers = {"Authorization": header}
            assert client.post("/v1/training-jobs", json=DIGITS_JOB, headers=headers).status_code == 202
            assert client.get("/metrics", headers=headers).status_code == 200


def test_the_page_shows_no_jobs_where_a_key_is_needed(make_settings: Callable[..., Settings]) -> None:
    with serve(make_settings(api_key=KEY)) as served:
        with served.client(headers={"Authorization": f"Bearer {KEY}"}) as client:
            client.post("/v1/training-jobs", json=DIGITS_JOB | {"name": "confidential"})
        page = httpx.get(f"{served.url}/", trust_env=False)
    assert page.status_code == 200
    assert "confidential" not in page.text
    assert "API key" in page.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "", "127.0.0.1.example.org"])
def test_a_public_address_needs_a_key(host: str, make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(PublicBindWithoutKey, match="ODENESS_API_KEY"):
        require_key_for_public_bind(host, make_settings())
    require_key_for_public_bind(host, make_settings(api_key=KEY))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"])
def test_a_loopback_address_needs_none(host: str, make_settings: Callable[..., Settings]) -> None:
    assert is_loopback(host)
    require_key_for_public_bind(host, make_settings())
