"""What Prometheus is told: requests, jobs, predictions."""

import logging
from collections import Counter as Counted
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from api.process_metrics import ProcessMetrics
from store.unit_of_work import Store

log = logging.getLogger(__name__)

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class RequestMetrics:
    """The counters of one application; each has a registry of its own.

    Args:
        together: the measurements of all processes of the server, where there are several.
    """

    def __init__(self, together: ProcessMetrics | None = None) -> None:
        self._together = together
        self._of_database: list[Collector] = []
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "odeness_http_requests", "HTTP requests", ("method", "route", "status"), registry=self.registry
        )
        self._latency = Histogram(
            "odeness_http_request_seconds",
            "Seconds until a request's answer was complete",
            ("method", "route"),
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        # As few as there are labels; to find these takes longer than to count.
        self._of_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._predictions = Counter(
            "odeness_predictions", "Samples predicted", ("solver_method", "status"), registry=self.registry
        )
        self._evaluations = Counter(
            "odeness_prediction_evaluations", "Evaluations of vector fields for predictions", registry=self.registry
        )
        self._batches = Histogram(
            "odeness_prediction_batch_rows",
            "Rows of a batch that was computed at once",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
            registry=self.registry,
        )
        self._model_seconds = Histogram(
            "odeness_prediction_model_seconds",
            "Seconds a batch of predictions occupied the model thread",
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._waits = Histogram(
            "odeness_prediction_wait_seconds",
            "Seconds a prediction request waited for the model thread",
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._closed = Counter(
            "odeness_connections_closed",
            "Connections refused or closed, by reason: too_many, slow_head, slow_body, answer_not_taken",
            ("reason",),
            registry=self.registry,
        )
        self._refusals = Counter(
            "odeness_predictions_unanswered",
            "Prediction requests that were not computed to the end, by reason: busy, too_late, abandoned",
            ("reason",),
            registry=self.registry,
        )

    def observe_closed_connection(self, reason: str) -> None:
        """Count a connection that was refused, or closed because of its client."""
        self._closed.labels(reason).inc()

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request; ``status`` 499: its client left before the answer; 0: the server stopped before it."""
        method = method if method in _METHODS else "other"  # labels must not grow with what clients send
        found = self._of_route.get((method, route, status))
        if found is None:
            requests = self._requests.labels(method, route, str(status or "none"))
            found = self._of_route[method, route, status] = requests, self._latency.labels(method, route)
        requests, latency = found
        requests.inc()
        latency.observe(seconds)

    def observe_batch(self, method: str, statuses: "Counted[str]", evaluations: int, rows: int, seconds: float) -> None:
        """Count a batch: how many of its rows ended with each status."""
        for status, samples in statuses.items():
            self._predictions.labels(method, status).inc(samples)
        self._evaluations.inc(evaluations)
        self._batches.observe(rows)
        self._model_seconds.observe(seconds)

    def observe_waits(self, seconds: Iterable[float]) -> None:
        """Count how long each request of a batch waited."""
        for one in seconds:
            self._waits.observe(one)

    def observe_refusal(self, reason: str) -> None:
        """Count a prediction request that was not computed to the end."""
        self._refusals.labels(reason).inc()

    def watch_jobs(self, store: Store) -> None:
        """Report the number of jobs in each status, read from the database when asked."""
        jobs = _JobsByStatus(store)
        self._of_database.append(jobs)
        self.registry.register(jobs)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format, of all processes."""
        if self._together is not None:
            return self._together.exposition(self._of_database)
        return generate_latest(self.registry)


class _JobsByStatus(Collector):
    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> list[GaugeMetricFamily]:
        """Return the names only, so that registering does not read the database."""
        return [self._gauge()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the counts; without a database there are none, and the other metrics still appear."""
        gauge = self._gauge()
        try:
            with self._store.reading() as tx:
                counts = tx.jobs.count_by_status()
        except SQLAlchemyError as error:
            log.warning("jobs by status are missing from the metrics: %s", type(error).__name__)
            return
        for status, count in counts.items():
            gauge.add_metric([status], count)
        yield gauge

    @staticmethod
    def _gauge() -> GaugeMetricFamily:
        return GaugeMetricFamily("odeness_jobs", "Jobs by status", labels=["status"])
