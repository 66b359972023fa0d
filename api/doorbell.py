"""Rings for the workers: tells them by a message that a job is queued.

The database is the truth and the message only a hint. Ringing therefore never delays or fails a
request: it happens in a thread of its own, and what it drops the reconciler rings for again.
"""

import logging
import queue
import threading
from collections.abc import Callable

from celery import Celery
from sqlalchemy.exc import SQLAlchemyError

from store.settings import RUN_JOB_TASK, Settings
from store.unit_of_work import Store

log = logging.getLogger(__name__)

_WAITING = 1000
_CLOSE_SECONDS = 1.0


class Doorbell:
    """Rings for job ids in the background.

    Args:
        send: sends one message; may take its time and may raise.
        mark_rung: notes that the message of a job was sent.
    """

    def __init__(self, send: Callable[[str], None], mark_rung: Callable[[str], None]) -> None:
        self._send = send
        self._mark_rung = mark_rung
        self._waiting: queue.Queue[str | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
        self.broker_answers = True  # whether the last message could be sent

    def start(self) -> None:
        """Start to ring."""
        self._thread.start()

    def ring(self, job_id: str) -> None:
        """Ring for a job soon; returns at once."""
        try:
            self._waiting.put_nowait(job_id)
        except queue.Full:
            log.warning("job %s: not rung for yet, %d others wait for the broker", job_id, _WAITING)

    def ring_now(self, job_id: str) -> None:
        """Ring for a job in the caller's thread; raises what the broker's client raises. For the reconciler."""
        self._send(job_id)

    def close(self) -> None:
        """Stop; jobs not yet rung for are left to the reconciler."""
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            return  # the broker hangs; the thread is a daemon
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while (job_id := self._waiting.get()) is not None:
            try:
                self._send(job_id)
            except Exception as error:  # whatever the broker's client raises
                self.broker_answers = False
                log.warning("job %s: not rung for, the broker is away: %s", job_id, error)
                continue
            self.broker_answers = True
            try:
                self._mark_rung(job_id)
            except SQLAlchemyError as error:
                log.warning("job %s: rung for, but not noted: %s", job_id, type(error).__name__)


def create_doorbell(sender: Celery, store: Store) -> Doorbell:
    """Return a doorbell that sends through ``sender``; it is not started."""

    def send(job_id: str) -> None:
        sender.send_task(RUN_JOB_TASK, args=[job_id])

    def mark_rung(job_id: str) -> None:
        with store.transaction() as tx:
            tx.jobs.mark_rung(job_id)

    return Doorbell(send, mark_rung)


def create_sender(settings: Settings) -> Celery:
    """Return a Celery application that only sends."""
    app = Celery("odeness-api", set_as_current=False)
    app.conf.update(settings.celery_options())
    return app


def check_broker(sender: Celery) -> None:
    """Raise what the broker's client raises unless the broker answers."""
    with sender.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
