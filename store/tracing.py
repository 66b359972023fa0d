"""Spans of OpenTelemetry, from a request to the worker that runs its job.

Switched off, nothing of OpenTelemetry's SDK is loaded. Switched on, spans go to a collector by OTLP over HTTP, as the
standard variables ``OTEL_...`` say. Nothing here is the process's: providers are passed on, and no global one is set.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

    from store.settings import Settings

TraceContext = Callable[[], dict[str, str]]
"""Returns the trace that is being made here, as headers of W3C's Trace Context: ``traceparent``, if there is any."""

CLOSE_SECONDS = 3.0

log = logging.getLogger(__name__)

_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


class TelemetryUnavailable(Exception):
    """Spans are asked for and cannot be sent; the message says what to do."""


class Tracing:
    """The spans of one process.

    Attributes:
        provider: makes them; of the application, not the global one.
        tracer: ours.
    """

    def __init__(self, service: str) -> None:
        _require_known_exporter()
        try:
            self._export = import_module("opentelemetry.sdk.trace.export")
            self._otlp = import_module(_EXPORTER)
        except ModuleNotFoundError as error:
            raise TelemetryUnavailable(
                f"ODENESS_TELEMETRY is on, but {error.name} is not installed: pip install 'odeness[telemetry]', or "
                f"leave the setting out"
            ) from error
        resources, trace = import_module("opentelemetry.sdk.resources"), import_module("opentelemetry.sdk.trace")
        named = {} if _service_is_named() else {"service.name": service}
        resource = resources.Resource.create(named | {"service.version": installed_version("odeness")})
        # Its own handler at exit would run when the threads of ours that it waits for are gone.
        self.provider: TracerProvider = trace.TracerProvider(resource=resource, shutdown_on_exit=False)
        self.tracer: Tracer = self.provider.get_tracer("odeness", installed_version("odeness"))
        self._propagator = import_module("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator()

    def start(self) -> None:
        """Begin to send what ends from now on, in a thread of its own."""
        self.provider.add_span_processor(self._export.BatchSpanProcessor(self._otlp.OTLPSpanExporter()))

    def close(self) -> None:
        """Send what is left, and stop; a collector that does not take it does not hold up the end of a process."""
        closing = threading.Thread(target=self.provider.shutdown, name="last-spans", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            log.warning("the last spans are lost: the collector did not take them within %g s", CLOSE_SECONDS)

    def context(self) -> dict[str, str]:
        """Return the current trace as headers; empty where no span is open."""
        headers: dict[str, str] = {}
        self._propagator.inject(headers)
        return headers

    def continued(self, headers: Mapping[str, Any]) -> "Context":
        """Return the context of a trace that ``context`` wrote; that of a new one where it wrote none."""
        found: Context = self._propagator.extract(headers)
        return found


def tracing_of(settings: "Settings", service: str) -> Tracing | None:
    """Return the spans of this process, not started yet; None where they are switched off.

    Args:
        settings: say whether.
        service: the process's name for the collector, unless ``OTEL_SERVICE_NAME`` gives it another.

    Raises:
        TelemetryUnavailable: the packages are missing, or another exporter is asked for.
    """
    return Tracing(service) if settings.telemetry else None


def no_trace() -> dict[str, str]:
    """Return no trace."""
    return {}


def _require_known_exporter() -> None:
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    protocol = (
        os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "").strip()
        or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip()
        or "http/protobuf"
    )
    if exporter != "otlp" or protocol != "http/protobuf":
        raise TelemetryUnavailable(
            f"spans are sent with OTEL_TRACES_EXPORTER=otlp and OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf only, not "
            f"with {exporter} and {protocol}: leave these variables out, or ODENESS_TELEMETRY"
        )


def _service_is_named() -> bool:
    return bool(os.environ.get("OTEL_SERVICE_NAME")) or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
