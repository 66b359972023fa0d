"""A collector of OpenTelemetry spans: what a real one would be sent, by OTLP over HTTP."""

import contextlib
import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """Keeps the spans that were sent to it.

    Attributes:
        url: where it listens.
    """

    def __init__(self) -> None:
        self._spans: list[dict[str, Any]] = []
        self._arrived = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                collector._keep(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _keep(self, request: ExportTraceServiceRequest) -> None:
        with self._arrived:
            for sent in request.resource_spans:
                service = _values(sent.resource.attributes)["service.name"]
                for scope in sent.scope_spans:
                    self._spans += [_span(span, service) for span in scope.spans]
            self._arrived.notify_all()

    def wait_for(self, *names: str) -> list[dict[str, Any]]:
        """Return the spans with these names, once each has come."""

        def found() -> list[dict[str, Any]] | None:
            by_name = {span["name"]: span for span in self._spans}
            return [by_name[name] for name in names] if set(names) <= set(by_name) else None

        return self._wait(found, f"spans {names}, there are {[span['name'] for span in self._spans]}")

    def names(self) -> list[str]:
        """Return the names of all spans that have come."""
        with self._arrived:
            return [span["name"] for span in self._spans]

    def _wait(self, found: Callable[[], Any], what: str) -> Any:
        with self._arrived:
            assert self._arrived.wait_for(found, timeout=30), f"did not come: {what}"
            return found()

    @contextlib.contextmanager
    def listening(self) -> Iterator["Collector"]:
        """Listen until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def _span(span: Any, service: str) -> dict[str, Any]:
    return {
        "name": span.name,
        "service": service,
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "failed": span.status.code == 2,
        **_values(span.attributes),
    }


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
