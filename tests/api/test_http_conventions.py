"""What holds for every request: ids, headers, problems, connections that stay usable."""

import logging
import socket
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.pool import NullPool

from api.app import create_app
from store.schema_version import migrate
from store.settings import Settings
from tests.api.conftest import DIGITS_JOB, assert_problem, serve


def test_every_answer_has_a_request_id_of_its_own(client: httpx.Client) -> None:
    first, second = (client.get("/healthz").headers["x-request-id"] for _ in range(2))
    assert first != second
    assert len(first) >= 16


@pytest.mark.parametrize(("given", "kept"), [("a-1.2_3", True), ("x" * 200, False), ("a b", False), ("<b>", False)])
def test_a_sane_request_id_of_the_client_is_kept(client: httpx.Client, given: str, kept: bool) -> None:
    assert (client.get("/v1/nothing", headers={"X-Request-ID": given}).headers["x-request-id"] == given) == kept


def test_every_answer_has_the_security_headers(client: httpx.Client) -> None:
    for url in ("/", "/v1/jobs", "/v1/nothing", "/healthz", "/docs"):
        headers = client.get(url).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert not [name for name in headers if name.startswith("access-control-")]


@pytest.mark.parametrize("url", ["/nothing", "/v1", "/v1/jobs/", "/v3", "/docs/oauth2-redirect", "/redoc", "/%00"])
def test_an_unknown_path_is_a_problem(client: httpx.Client, url: str) -> None:
    assert_problem(client.get(url), 404, "route_not_found")


@pytest.mark.parametrize(("method", "url"), [("DELETE", "/v1/jobs"), ("GET", "/v1/training-jobs"), ("PUT", "/healthz")])
def test_a_method_that_is_not_allowed_is_a_problem_with_the_allowed_ones(
    client: httpx.Client, method: str, url: str
) -> None:
    response = client.request(method, url)
    problem = assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] in problem["detail"]


def test_a_body_that_announces_too_much_is_refused_unread(make_settings: Callable[..., Settings]) -> None:
    with serve(make_settings(max_body_bytes=2000)) as served, served.client() as client:
        for url in ("/v1/training-jobs", "/v1/models/tiny/predict"):
            response = client.post(url, content=b" " * 2001, headers={"Content-Type": "application/json"})
            assert "2,000" in assert_problem(response, 413, "body_too_large")["detail"]
        assert client.post("/v1/training-jobs", json=DIGITS_JOB).status_code == 202


def test_a_body_without_an_announced_length_is_refused_when_it_grows_too_large(
    make_settings: Callable[..., Settings],
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(10):
            yield b" " * 300

    with serve(make_settings(max_body_bytes=2000)) as served, served.client() as client:
        for url in ("/v1/training-jobs", "/v1/models/tiny/predict"):
            response = client.post(url, content=chunks(), headers={"Content-Type": "application/json"})
            assert_problem(response, 413, "body_too_large")


def test_an_unexpected_error_is_a_problem_without_internals_and_the_connection_lives_on(
    make_settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings()
    app = create_app(settings)

    @app.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError("a secret of the inside")

    with serve(settings, app=app) as served, caplog.at_level(logging.ERROR, "api.access"):
        address = urlsplit(served.url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            for _ in range(3):  # three times on one connection
                connection.sendall(b"GET /broken HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\n\r\n")
                answer = b""
                while b"}" not in answer:
                    received = connection.recv(65536)
                    assert received, "the connection was closed"
                    answer += received
                assert answer.startswith(b"HTTP/1.1 500")
                assert b"secret" not in answer
                assert b'"request_id":"mine"' in answer
        with served.client() as client:
            assert_problem(client.get("/broken"), 500, "internal_error")
    assert "mine" in caplog.text
    assert "a secret of the inside" in caplog.text  # in the log it is needed


def test_a_database_that_is_away_is_a_problem_that_asks_to_try_again(
    postgres_url: str, postgres_server_url: str, make_settings: Callable[..., Settings]
) -> None:
    migrate(postgres_url)
    server = create_engine(postgres_server_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    name = make_url(postgres_url).database

    def let_in(allowed: bool) -> None:
        with server.connect() as connection:
            connection.execute(text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {allowed}'))
            if not allowed:
                ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
                connection.execute(text(ended), {"name": name})

    with serve(make_settings(database_url=postgres_url)) as served, served.client() as client:
        assert client.get("/v1/jobs").status_code == 200
        let_in(False)
        try:
            for response in (client.get("/v1/jobs"), client.post("/v1/training-jobs", json=DIGITS_JOB)):
                assert_problem(response, 503, "database_unavailable")
                assert response.headers["retry-after"]
                assert str(name) not in response.text
            assert_problem(client.get("/readyz"), 503, "database_unavailable")
            assert client.get("/healthz").status_code == 200
            assert "odeness_http_requests_total" in client.get("/metrics").text
        finally:
            let_in(True)
        # The pool notices that its connections are dead.
        assert client.get("/v1/jobs").status_code == 200
        assert client.get("/readyz").status_code == 200


def test_a_statement_that_fails_never_shows_itself(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings()
    app = create_app(settings)

    @app.get("/broken")
    def broken() -> None:
        raise ProgrammingError("SELECT secret FROM job", {}, Exception("no such column"))

    with serve(settings, app=app) as served, served.client() as client:
        response = client.get("/broken")
        assert_problem(response, 500, "internal_error")
        assert "secret" not in response.text


def test_openapi_and_pages_come_from_here_alone(client: httpx.Client) -> None:
    for url in ("/", "/docs", "/odeness.css"):
        page = client.get(url)
        assert page.status_code == 200
        assert "//" not in page.text
        assert "<script" not in page.text
