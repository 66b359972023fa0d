"""A span of OpenTelemetry for every request: FastAPI's own, with what it cannot know."""

from fastapi.telemetry import TelemetryConfig
from opentelemetry.trace import get_current_span
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.request_guard import route_template
from store.tracing import Tracing

_NOT_TRACED = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
_JOBS = "/v1/jobs/"


def request_telemetry(tracing: Tracing | None) -> TelemetryConfig:
    """Return FastAPI's settings for its spans: all off, or requests alone and with our provider.

    It continues the trace of a caller who sends ``traceparent``. Prometheus has the metrics, and the log what happened.
    """
    off: TelemetryConfig = {
        "tracing": False,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
    }
    if tracing is None:
        return off
    return {**off, "tracing": True, "tracer_provider": tracing.provider, "exclude": _is_probe}


def _is_probe(scope: Scope) -> bool:
    return scope.get("path") in _NOT_TRACED


class RequestSpans:
    """ASGI middleware that names a request's span after its route, and tells its id and the job it submitted.

    FastAPI's own routing names spans, which predictions do not go through.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        span = get_current_span()

        async def send_told(message: Message) -> None:
            if message["type"] == "http.response.start":  # after the last part of an answer the span has ended
                if "route" in scope:
                    route = route_template(scope)
                    span.update_name(f"{scope['method']} {route}")
                    span.set_attribute("http.route", route)
                for name, value in message["headers"]:
                    if name == b"x-request-id":
                        span.set_attribute("odeness.request_id", value.decode("latin-1"))
                    elif name == b"location" and value.startswith(_JOBS.encode()):
                        span.set_attribute("odeness.job_id", value.decode("latin-1").removeprefix(_JOBS))
            await send(message)

        await self.app(scope, receive, send_told)
