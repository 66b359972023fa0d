"""A job's events as server-sent events."""

import time
from collections.abc import AsyncIterator

import anyio
import orjson
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import StreamingResponse

from api.schemas.jobs import EventAnswer
from api.services import Services
from store.events import Event

HEARTBEAT_SECONDS = 15.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0


def event_stream(services: Services, job_id: str, after: int) -> StreamingResponse:
    """Return the response that sends the events numbered above ``after`` until the job has ended."""
    return StreamingResponse(
        _lines(services, job_id, after),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},  # proxies must not hold events back
    )


async def _lines(services: Services, job_id: str, after: int) -> AsyncIterator[bytes]:
    pause = _FIRST_PAUSE_SECONDS
    sent_at = time.monotonic()
    # At once, so that a client of a quiet job knows that it is connected.
    yield KEEPALIVE_COMMENT
    while True:
        events, finished = await _read(services, job_id, after)
        for event in events:
            yield _format(event)
            after = event.sequence
            sent_at = time.monotonic()
            pause = _FIRST_PAUSE_SECONDS
        if finished and not events:
            return
        if not events:
            if time.monotonic() - sent_at >= HEARTBEAT_SECONDS:
                yield KEEPALIVE_COMMENT
                sent_at = time.monotonic()
            await anyio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS, HEARTBEAT_SECONDS)


async def _read(services: Services, job_id: str, after: int) -> tuple[list[Event], bool]:
    def read() -> tuple[list[Event], bool]:
        # In one transaction, so that a finished job's last event is among what is read or was sent before.
        with services.store.reading() as tx:
            job = tx.jobs.get(job_id)
            return tx.events.list(job_id, after=after, limit=500), job is None or job.finished

    return await anyio.to_thread.run_sync(read, limiter=services.polling)


def _format(event: Event) -> bytes:
    data = orjson.dumps(EventAnswer.of(event).model_dump(mode="json")).decode()
    return format_sse_event(data_str=data, event=event.kind, id=str(event.sequence))
