"""Waiting until a job or a study has ended."""

import time
from collections.abc import Callable
from typing import TypeVar

from api.client.answers import Job, Study

FINISHED = frozenset({"succeeded", "failed", "cancelled"})

Awaited = TypeVar("Awaited", Job, Study)


def wait_until_finished(
    look: Callable[[], Awaited],
    on_progress: Callable[[Awaited], None] | None,
    still: Callable[[Awaited], str],
    *,
    timeout: float | None,
    poll_seconds: float,
) -> Awaited:
    """Return a job or study once it has ended, however it did.

    Args:
        look: fetches it.
        on_progress: called with it each time it was looked at.
        still: says how far it is, for those who wait no longer.
        timeout: seconds after which ``TimeoutError`` is raised; the work goes on.
        poll_seconds: pause between two looks.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        found = look()
        if on_progress is not None:
            on_progress(found)
        if found["status"] in FINISHED:
            return found
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(still(found))
        time.sleep(poll_seconds)
