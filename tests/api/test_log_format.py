"""The API's log as JSON."""

import json
import logging
import logging.config
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO

import pytest

from api.http_server import logging_configuration
from api.log_format import JsonFormatter
from api.log_stream import LineFormatter
from tests.api.conftest import Served


@contextmanager
def written_as_json(name: str) -> Iterator[StringIO]:
    log, written = logging.getLogger(name), StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        yield written
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def test_a_request_is_one_object_with_its_id(served: Served) -> None:
    with written_as_json("api.access") as written, served.client() as client:
        client.get("/v1/models/nobody%0A", headers={"X-Request-ID": "abc-1"})
    (line,) = written.getvalue().splitlines()
    record = json.loads(line)
    assert record.pop("milliseconds") > 0
    assert record.pop("time").endswith("Z")
    assert record.pop("message").startswith("GET /v1/models/nobody")
    assert record == {
        "level": "info",
        "logger": "api.access",
        "request_id": "abc-1",
        "method": "GET",
        "path": "/v1/models/nobody\n",
        "status": 404,
    }


def test_an_error_is_one_line_with_its_traceback() -> None:
    with written_as_json("a.test") as written:
        try:
            raise ValueError("it is\nso")
        except ValueError:
            logging.getLogger("a.test").exception("failed")
    (line,) = written.getvalue().splitlines()
    assert "ValueError: it is\nso" in json.loads(line)["traceback"]


@pytest.mark.parametrize(("form", "kind"), [("line", LineFormatter), ("json", JsonFormatter)])
def test_the_servers_configuration_makes_the_formatter_asked_for(form: str, kind: type[logging.Formatter]) -> None:
    configuration = logging_configuration("info", form)
    configurator = logging.config.DictConfigurator(configuration)  # type: ignore[attr-defined]
    name = configuration["handlers"]["console"]["formatter"]
    assert type(configurator.configure_formatter(configurator.config["formatters"][name])) is kind
