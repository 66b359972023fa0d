"""Connections to a server on which tests write bytes themselves."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.api.conftest import Served


@contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    at = urlsplit(served.url)
    assert at.hostname is not None
    assert at.port is not None
    with socket.create_connection((at.hostname, at.port), timeout=20) as connection:
        yield connection
