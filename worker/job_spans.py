"""A span of OpenTelemetry for every attempt at a job, in the trace of the request that submitted it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from store.jobs import Job
from store.tracing import Tracing

if TYPE_CHECKING:
    from opentelemetry.trace import StatusCode

    from store.unit_of_work import Store

TellOutcome = Callable[[str, str | None], None]
"""Told how an attempt ended, and the code of its error."""
JobSpan = Callable[[Job], AbstractContextManager[TellOutcome]]
"""Opens a span around an attempt at a claimed job."""


def no_span(job: Job) -> AbstractContextManager[TellOutcome]:
    """Open none."""
    return nullcontext(_tell_nobody)


def _tell_nobody(outcome: str, error: str | None) -> None:
    pass


def spans_of_jobs(tracing: Tracing, store: "Store") -> JobSpan:
    """Return what opens a span ``run job`` around an attempt; its trace is the one noted with the job's first event."""

    @contextmanager
    def span_of(job: Job) -> Iterator[TellOutcome]:
        with tracing.tracer.start_as_current_span(
            f"run {job.kind} job",
            context=tracing.continued(_noted_trace(store, job.id)),
            attributes={
                "odeness.job_id": job.id,
                "odeness.job_kind": job.kind,
                "odeness.attempt": job.attempt,
                "odeness.model": job.model or "",
            },
        ) as span:

            def tell(outcome: str, error: str | None) -> None:
                span.set_attribute("odeness.outcome", outcome)
                if error is not None:
                    span.set_attribute("error.type", error)
                    span.set_status(_error_status())

            yield tell

    return span_of


def _noted_trace(store: "Store", job_id: str) -> dict[str, str]:
    try:
        with store.reading() as tx:
            first = tx.events.list(job_id, limit=1)
    except SQLAlchemyError:  # the job itself goes on without it
        return {}
    return {name: str(value) for event in first for name, value in event.data.items()}


def _error_status() -> "StatusCode":
    from opentelemetry.trace import StatusCode  # noqa: PLC0415  # nothing of it is loaded where it is off

    return StatusCode.ERROR
