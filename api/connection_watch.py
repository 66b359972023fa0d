"""Closes connections whose clients are too slow, and refuses those that are too many.

One sweep a second over all connections, and no timer and no clock for a request: a sweep notes what each connection is
at, and from when on it has found it there. So a connection may have up to two sweeps more than it is allowed.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from uvicorn.server import ServerState

from api.problems import Problem
from store.settings import Settings

if TYPE_CHECKING:
    from api.http_protocol import BoundedHttpProtocol

log = logging.getLogger(__name__)

STATE_KEY = "odeness.connections"
"""Under which the application's lifespan hands its limits to the server."""

LONGEST_PAUSE = 1.0  # seconds between two sweeps
SLOWEST_BODY = 1000  # bytes a second, beyond what the seconds for a body allow

Phase = Literal["head", "body", "discarded", "answer", "closing", "refused"]
"""``discarded``: of a request that has its answer the body still comes."""

Reason = Literal["slow_head", "slow_body", "answer_not_taken", "too_many"]


@dataclass(frozen=True)
class ConnectionLimits:
    """What a client may take.

    Attributes:
        head_seconds: until a request's line and headers are complete; for the first request from the connection on.
        body_seconds: for a body, and a second more for each ``SLOWEST_BODY`` bytes of it that have come.
        stall_seconds: in which a client takes nothing of an answer that waits for it.
        most: connections of this process at once.
        observe: told of each connection that is closed for one of these reasons.
    """

    head_seconds: float
    body_seconds: float
    stall_seconds: float
    most: int
    observe: Callable[[Reason], None] = lambda reason: None

    @classmethod
    def of(cls, settings: Settings, observe: Callable[[Reason], None]) -> "ConnectionLimits":
        """Return those of the settings."""
        return cls(
            settings.request_head_seconds,
            settings.request_body_seconds,
            settings.answer_stall_seconds,
            settings.max_connections,
            observe,
        )

    @property
    def pause(self) -> float:
        """Seconds between two sweeps."""
        return min(LONGEST_PAUSE, self.head_seconds / 4, self.body_seconds / 4, self.stall_seconds / 4)


@dataclass(slots=True)
class Seen:
    """What sweeps have found of a connection.

    Attributes:
        phase: what it is at.
        of: the very request.
        since: the first sweep that found it there.
        unsent: bytes of an answer that wait for the client.
        stalled: the first sweep that found so many.
    """

    phase: Phase
    of: object
    since: float
    unsent: int
    stalled: float


class ConnectionWatch:
    """Sweeps over the connections of one process while there are any.

    Args:
        limits: what clients may take.
        state: the server's, which has the connections.
        loop: theirs.
    """

    def __init__(self, limits: ConnectionLimits, state: ServerState, loop: asyncio.AbstractEventLoop) -> None:
        self.limits = limits
        self._state = state
        self._loop = loop
        self._sweeping = False

    @classmethod
    def of_server(
        cls, state: ServerState, application: dict[str, Any], loop: asyncio.AbstractEventLoop
    ) -> "ConnectionWatch | None":
        """Return the one of a server; None where its application sets no limits."""
        limits = application.get(STATE_KEY)
        if limits is None:
            return None
        watch: ConnectionWatch | None = getattr(state, "connection_watch", None)
        if watch is None:
            watch = cls(limits, state, loop)
            state.connection_watch = watch  # type: ignore[attr-defined]  # there is one for each server, as of these
        return watch

    def takes(self) -> bool:
        """Return whether there is room for the connection that was added last, and watch it in any case."""
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(self.limits.pause, self._sweep)
        room = len(self._state.connections) <= self.limits.most
        if not room:
            self.limits.observe("too_many")
        return room

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in list(self._state.connections):
            try:
                self._look_at(connection, now)  # type: ignore[arg-type]
            except Exception:  # of one connection, and no reason to look after nobody any more
                log.exception("a connection cannot be looked after")
        self._sweeping = bool(self._state.connections)
        if self._sweeping:
            self._loop.call_later(self.limits.pause, self._sweep)

    def _look_at(self, connection: "BoundedHttpProtocol", now: float) -> None:
        phase, of = connection.phase()
        seen = connection.seen
        if phase is None:
            connection.seen = None
            return
        unsent = connection.transport.get_write_buffer_size()
        if seen is None or seen.phase != phase or seen.of is not of:
            connection.seen = Seen(phase, of, now, unsent, now)
            return
        if unsent != seen.unsent:
            seen.unsent, seen.stalled = unsent, now
        if unsent and now - seen.stalled > self.limits.stall_seconds:
            self._end(connection, "answer_not_taken")
        elif phase == "refused":  # it has had a moment to read why
            connection.transport.abort()
        elif phase == "head" and now - seen.since > self.limits.head_seconds:
            self._end(connection, "slow_head")
        elif phase in ("body", "discarded"):
            if connection.waits_for_us():
                seen.since += self.limits.pause
            allowed = self.limits.body_seconds + connection.received / SLOWEST_BODY
            if now - seen.since > allowed:
                self._end(connection, "slow_body")

    def _end(self, connection: "BoundedHttpProtocol", reason: Reason) -> None:
        log.info("connection of %s closed: %s", connection.client, reason)
        self.limits.observe(reason)
        if reason == "slow_head":
            detail = f"the request's headers did not come within {self.limits.head_seconds:g} s: send them at once"
            connection.refuse(Problem(408, reason, detail))
        elif reason == "slow_body":
            detail = (
                f"the request's body came too slowly: {self.limits.body_seconds:g} s, and one more for each "
                f"{SLOWEST_BODY} bytes, are allowed; send it faster, or less at once"
            )
            connection.refuse(Problem(408, reason, detail))
        else:
            connection.transport.abort()
