"""What lets the tests run in several processes at once."""

import pytest

from tests.conftest import _redis_client, redis_url_of_worker


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ("redis://127.0.0.1:6379/15", ["redis://127.0.0.1:6379/15", "redis://127.0.0.1:6379/14"]),
        ("rediss://:pass@host/7?a=b", ["rediss://:pass@host/7?a=b", "rediss://:pass@host/6?a=b"]),
        (
            "redis+socket:///run/broker.sock?virtual_host=3",
            ["redis+socket:///run/broker.sock?virtual_host=3", "redis+socket:///run/broker.sock?virtual_host=2"],
        ),
    ],
)
def test_each_process_empties_a_redis_database_of_its_own(given: str, own: list[str]) -> None:
    assert [redis_url_of_worker(given, worker) for worker in ("gw0", "gw1")] == own


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:6379", "redis://127.0.0.1:6379/0", "redis+socket:///run/broker.sock"]
)
def test_too_few_redis_databases_are_told_before_one_is_shared(url: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="name database 1 or higher"):
        redis_url_of_worker(url, "gw1")


def test_the_virtual_host_of_a_socket_is_the_database_that_is_emptied() -> None:
    with _redis_client("redis+socket:///run/broker.sock?virtual_host=2") as client:
        settings = client.connection_pool.connection_kwargs
    assert (settings["path"], settings["db"]) == ("/run/broker.sock", 2)
