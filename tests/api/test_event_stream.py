"""Events as a stream."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

import api.event_stream
from store.jobs import Job
from store.settings import Settings
from tests.api.conftest import Served, assert_problem, claim, serve, submit, train
from tests.conftest import wait_until

STREAM = {"Accept": "text/event-stream"}


def events_of(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Read a stream as a browser would; comments come as ``{"comment": ...}``."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            yield {"comment": line}
        elif line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        elif fields:
            yield fields
            fields = {}


@contextlib.contextmanager
def streaming(client: httpx.Client, job_id: str, **headers: str) -> Iterator[Iterator[dict[str, str]]]:
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM | headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield events_of(response.iter_lines())


def only_events(stream: Iterator[dict[str, str]]) -> Iterator[dict[str, str]]:
    return (event for event in stream if "comment" not in event)


def finish(served: Served, job: Job, attempt: int) -> None:
    with served.store.transaction() as tx:
        tx.jobs.fail(job.id, attempt, {"code": "c", "message": "m"})


def test_a_stream_sends_what_happens_as_it_happens_and_ends_with_the_job(served_on_both: Served) -> None:
    job = submit(served_on_both.store)
    with served_on_both.client() as client, streaming(client, job.id) as stream:
        events = only_events(stream)
        first = next(events)
        assert (first["id"], first["event"]) == ("1", "queued")
        attempt = claim(served_on_both.store, job)
        second = next(events)
        assert (second["id"], second["event"]) == ("2", "started")
        data: dict[str, Any] = json.loads(second["data"])
        assert (data["job_id"], data["sequence"], data["kind"]) == (job.id, 2, "started")
        finish(served_on_both, job, attempt)
        assert [event["event"] for event in events] == ["failed"]


def test_a_stream_goes_on_after_the_last_event_the_client_has(served: Served) -> None:
    version = train(served.store)
    with served.client() as client:
        headers = {"Last-Event-ID": "1"}
        with streaming(client, version.job_id, **headers) as stream:
            assert [event["id"] for event in only_events(stream)] == ["2", "3"]
        done = client.get(f"/v1/jobs/{version.job_id}/events", headers=STREAM | {"Last-Event-ID": "3"})
        assert done.status_code == 204  # an EventSource does not come back after this


@pytest.mark.parametrize("header", ["x", "-1", "1" * 15, "1 2"])
def test_a_last_event_id_that_is_none_is_refused(served: Served, header: str) -> None:
    job = submit(served.store)
    with served.client() as client:
        response = client.get(f"/v1/jobs/{job.id}/events", headers=STREAM | {"Last-Event-ID": header})
        assert_problem(response, 422, "invalid_request")


def test_a_quiet_stream_is_kept_alive(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.event_stream, "HEARTBEAT_SECONDS", 0.05)
    job = submit(served.store)
    with served.client() as client, streaming(client, job.id) as stream:
        comments = 0
        for event in stream:
            comments += "comment" in event
            if comments == 4:
                break


def test_many_streams_leave_the_threads_to_others(served: Served) -> None:
    job = submit(served.store)
    with contextlib.ExitStack() as stack:
        limits = httpx.Limits(max_connections=None)
        client = stack.enter_context(served.client(limits=limits))
        streams = [stack.enter_context(streaming(client, job.id)) for _ in range(100)]
        for stream in streams:
            assert next(only_events(stream))["event"] == "queued"
        started = time.monotonic()
        assert client.get("/v1/jobs").status_code == 200
        assert time.monotonic() - started < 5


def test_a_client_that_leaves_ends_its_stream(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    open_streams = set()
    original = api.event_stream._lines

    async def counted(*arguments: Any) -> Any:
        token = object()
        open_streams.add(token)
        try:
            async for line in original(*arguments):
                yield line
        finally:
            open_streams.discard(token)

    monkeypatch.setattr(api.event_stream, "_lines", counted)
    job = submit(served.store)
    with served.client() as client, streaming(client, job.id) as stream:
        next(only_events(stream))
        assert len(open_streams) == 1
    wait_until(lambda: not open_streams, "the stream is closed")


def test_the_server_stops_though_a_stream_is_open(make_settings: Callable[..., Settings]) -> None:
    with contextlib.ExitStack() as clients:
        with serve(make_settings(), graceful_seconds=1) as served:
            job = submit(served.store)
            client = clients.enter_context(served.client())
            stream = clients.enter_context(streaming(client, job.id))
            next(only_events(stream))
        # Here the server has stopped; the stream was cut, which a client can tell from its end.
        with pytest.raises(httpx.HTTPError):
            list(stream)
