"""Requests that wait for a job without holding a thread."""

import re
import time

import anyio
from fastapi import Request

from api.services import Services
from store.jobs import Job

LONGEST_WAIT_SECONDS = 60
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 0.5


def preferred_wait(prefer: str | None) -> int:
    """Return the seconds that a ``Prefer`` header (RFC 7240) asks to wait, at most 60; 0 if it does not."""
    match = re.search(r'(?:^|,)\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:[,;]|$)', prefer or "", re.IGNORECASE)
    return min(int(match[1]), LONGEST_WAIT_SECONDS) if match else 0


async def read_job(services: Services, job_id: str) -> Job:
    """Return the job, read in one of the few threads for requests that wait."""

    def read() -> Job:
        with services.store.reading() as tx:
            return tx.jobs.require(job_id)

    return await anyio.to_thread.run_sync(read, limiter=services.polling)


async def wait_for_job(request: Request, services: Services, job_id: str, seconds: float) -> Job:
    """Return the job when it has ended, ``seconds`` have passed or the client has left."""
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        job = await read_job(services, job_id)
        remaining = deadline - time.monotonic()
        if job.finished or remaining <= 0 or await request.is_disconnected():
            return job
        await anyio.sleep(min(pause, remaining))
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
