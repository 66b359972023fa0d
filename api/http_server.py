"""Runs the HTTP API in uvicorn: of ``odeness api``, and beneath the supervisor of ``odeness serve``."""

import signal
import socket
import sys
from typing import Any

import uvicorn

from api.measuring_together import measured_together

APPLICATION = "api.app:create_app"

# Open event streams would hold up a shutdown for ever.
SHUTDOWN_SECONDS = 5


class PortUnavailable(Exception):
    """The address to listen on cannot be had; the message says why and what to do."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket; port 0 takes a free one.

    Raises:
        PortUnavailable: the port is in use, or the host is not an address of this machine.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise PortUnavailable(f"cannot listen on {host}: {error.strerror}; use --host 127.0.0.1") from None
    # "localhost" may be both: clients that are given 127.0.0.1 must reach it.
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise PortUnavailable(
            f"cannot listen on {host}:{port}: {(error.strerror or 'unknown error').lower()}; "
            "stop what uses the port, or choose another with --port"
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL under which this machine reaches the server."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104  # all addresses: name the one that always works
        host = "127.0.0.1" if listener.family == socket.AF_INET else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_on(listener: socket.socket, log_level: str, log_format: str) -> None:
    """Serve on a socket that is already listening, until SIGTERM or SIGINT; raises SystemExit if the start fails."""
    server = uvicorn.Server(uvicorn.Config(APPLICATION, **_options(log_level, log_format)))
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn takes these over while it runs and sends itself the signal again when it has stopped
        # in order: without this, that would end the process with an error.
        signal.signal(number, _do_nothing)
    server.run(sockets=[listener])
    if not server.started:
        sys.exit(1)


def serve(host: str, port: int, processes: int, log_level: str, log_format: str) -> None:
    """Serve on ``host`` and ``port`` with so many processes, until SIGTERM or SIGINT."""
    if processes == 1:
        serve_on(listen(host, port), log_level, log_format)
    else:
        listen(host, port).close()  # a clear error now, instead of one from each process
        with measured_together():
            uvicorn.run(APPLICATION, host=host, port=port, workers=processes, **_options(log_level, log_format))


def _do_nothing(number: int, frame: object) -> None:
    pass


def _options(log_level: str, log_format: str) -> dict[str, Any]:
    return {
        "factory": True,
        "http": "api.http_protocol:BoundedHttpProtocol",
        "ws": "none",  # there are none, whatever packages are installed
        "log_config": logging_configuration(log_level, log_format),
        "access_log": False,  # the API's own line has the request id
        "server_header": False,
        "timeout_graceful_shutdown": SHUTDOWN_SECONDS,
    }


def logging_configuration(level: str, form: str = "line") -> dict[str, Any]:
    """Return the configuration of ``logging``: one line a record on standard error, as the worker's or as JSON."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"()": "api.log_stream.LineFormatter"},
            "json": {"()": "api.log_format.JsonFormatter"},
        },
        "handlers": {"console": {"class": "api.log_stream.TurnHandler", "formatter": form}},
        "root": {"handlers": ["console"], "level": level.upper()},
        "loggers": {
            name: {"level": "WARNING"} for name in ("httpx", "httpcore", "celery", "kombu", "alembic", "uvicorn.access")
        },
    }


def main() -> None:
    """``python -m api.http_server FD LEVEL FORMAT``: serve on an inherited socket; how the supervisor starts it."""
    descriptor, level, form = sys.argv[1:]
    serve_on(socket.socket(fileno=int(descriptor)), level, form)


if __name__ == "__main__":
    main()
