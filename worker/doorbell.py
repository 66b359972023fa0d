"""Rings for a job: sends the message that makes a worker look at it."""

import logging
from collections.abc import Callable

from celery import Celery
from kombu.exceptions import OperationalError

log = logging.getLogger(__name__)


def make_ring(app: Celery, task_name: str) -> Callable[[str], None]:
    """Return the function that rings for a job id.

    It raises ``kombu.exceptions.OperationalError`` when the broker is away, after one more try: the
    pooled connection may be one that a broker's restart cut.
    """

    def ring(job_id: str) -> None:
        app.send_task(
            task_name,
            args=[job_id],
            ignore_result=True,
            retry=True,
            retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0},
        )

    return ring


def best_effort(ring: Callable[[str], None]) -> Callable[[str], None]:
    """Return ``ring`` without its errors: the reconciler rings again."""

    def ring_if_possible(job_id: str) -> None:
        try:
            ring(job_id)
        except OperationalError as error:
            log.info("job %s: not rung for, the broker is away: %s", job_id, error)

    return ring_if_possible
