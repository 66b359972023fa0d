"""Closed-loop load on one server: each connection sends its next request when the answer to the last one is whole.

One thread, a selector and no library in between: a request costs the client some 20 microseconds, so that a core of its
own is enough for servers that take fifty. Answers are kept as they came and looked at when the clock has stopped.
"""

import gc
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.serving.http_messages import HttpBroken, answer_length

MOST_BYTES = 1 << 18
PATIENCE_SECONDS = 30.0

Address = tuple[str, int]


@dataclass(frozen=True)
class Exchange:
    """A request and its answer.

    Attributes:
        number: of the request in the list of requests.
        latency: seconds from before it was sent to when its answer was whole.
        timed: whether the answer came within the measured time, not while warming up or after the end.
        answer: as it came.
    """

    number: int
    latency: float
    timed: bool
    answer: bytes


@dataclass
class LoadRun:
    """What happened.

    Attributes:
        seconds: measured.
        client_seconds: of processor time that the client took meanwhile.
        exchanges: all answered requests, those outside the measured time too.
        lost: by reason, requests that got no answer.
    """

    seconds: float
    client_seconds: float = 0.0
    exchanges: list[Exchange] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)


class _Connection:
    __slots__ = ("number", "received", "sent_at", "socket")

    def __init__(self, address: Address) -> None:
        self.socket = socket.create_connection(address, timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.number = 0
        self.sent_at = 0.0


class _Load:
    def __init__(self, address: Address, requests: Sequence[bytes], run: LoadRun) -> None:
        self._address = address
        self._requests = requests
        self._run = run
        self._next = 0
        self._sending = True
        self._selector = selectors.DefaultSelector()
        self._busy = 0

    def open(self, connections: int) -> None:
        for _ in range(connections):
            self._open_one()

    def _open_one(self) -> None:
        try:
            connection = _Connection(self._address)
        except OSError as error:
            self._run.lost[f"no connection: {error.strerror or error}"] += 1
            return
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._busy += 1
        self._send(connection)

    def _send(self, connection: _Connection) -> None:
        connection.number = self._next % len(self._requests)
        self._next += 1
        connection.sent_at = time.perf_counter()
        try:
            connection.socket.sendall(self._requests[connection.number])
        except OSError as error:
            self._lose(connection, f"connection lost: {error.strerror or error}")

    def exchange_until(self, moment: float, *, timed: bool) -> None:
        """Go on until the clock shows ``moment``, or nothing is under way any more."""
        clock, select, exchanges = time.perf_counter, self._selector.select, self._run.exchanges
        silent_since = clock()
        while self._busy and (now := clock()) < moment:
            events = select(min(moment - now, 1.0))
            if not events:
                if clock() - silent_since > PATIENCE_SECONDS:
                    self._lose_all(f"no answer in {PATIENCE_SECONDS:g} s")
                continue
            silent_since = clock()
            for key, _ in events:
                connection: _Connection = key.data
                if not self._receive(connection):
                    continue
                latency = clock() - connection.sent_at
                exchanges.append(Exchange(connection.number, latency, timed, connection.received))
                connection.received = b""
                if self._sending:
                    self._send(connection)
                else:
                    self._close(connection)

    def finish(self) -> None:
        """Send no more, wait for what is under way, and close everything."""
        self._sending = False
        self.exchange_until(time.perf_counter() + PATIENCE_SECONDS, timed=False)
        self._lose_all(f"no answer in {PATIENCE_SECONDS:g} s")
        self._selector.close()

    def _receive(self, connection: _Connection) -> bool:
        """Take what has come; return whether the answer is whole."""
        try:
            data = connection.socket.recv(MOST_BYTES)
            if not data:
                self._lose(connection, "connection closed by the server")
                return False
            connection.received += data
            end = answer_length(connection.received)
        except (OSError, HttpBroken, ValueError) as error:
            self._lose(connection, str(error))
            return False
        if end is not None and end < len(connection.received):
            self._lose(connection, "more came than one answer")
            return False
        return end is not None

    def _lose(self, connection: _Connection, reason: str) -> None:
        self._run.lost[reason] += 1
        self._close(connection)
        if self._sending:
            self._open_one()

    def _lose_all(self, reason: str) -> None:
        self._sending = False
        for key in list(self._selector.get_map().values()):
            self._lose(key.data, reason)

    def _close(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._busy -= 1


def run_load(
    address: Address, requests: Sequence[bytes], *, connections: int, warm_up: float, seconds: float
) -> LoadRun:
    """Send ``requests`` in turn, over and over, on so many connections; ``warm_up`` seconds unmeasured come first."""
    run = LoadRun(seconds)
    load = _Load(address, requests, run)
    gc.collect()
    gc.disable()
    try:
        load.open(connections)
        load.exchange_until(time.perf_counter() + warm_up, timed=False)
        processor, start = time.process_time(), time.perf_counter()
        load.exchange_until(start + seconds, timed=True)
        run.client_seconds = time.process_time() - processor
        load.finish()
    finally:
        gc.enable()
    return run


def count_wrong(run: LoadRun, is_wrong: Callable[[int, bytes], str | None]) -> tuple[list[float], dict[str, int]]:
    """Return the latencies of the timed right answers in seconds, and the number of errors by kind.

    ``is_wrong(number, answer)`` says what is wrong with an answer to request ``number``; None: nothing. All answers are
    looked at, the untimed too.
    """
    errors, latencies = Counter(run.lost), []
    for exchange in run.exchanges:
        reason = is_wrong(exchange.number, exchange.answer)
        if reason is not None:
            errors[reason] += 1
        elif exchange.timed:
            latencies.append(exchange.latency)
    return latencies, dict(errors)
