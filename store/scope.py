"""What the repositories of one transaction share: its connection, its clock and the trace it is part of."""

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Connection, func, select

from store.column_types import UtcDateTime
from store.tracing import TraceContext, no_trace

Clock = Callable[[], datetime]


class Scope:
    """One transaction: a connection inside it, and the time.

    Leases compare times written by several machines, so PostgreSQL's clock decides rather than
    each machine's own. Users of an SQLite file are on one machine.

    Attributes:
        trace_context: the trace that the transaction is part of, if any.
    """

    def __init__(
        self, connection: Connection, clock: Clock | None = None, trace_context: TraceContext = no_trace
    ) -> None:
        self.connection = connection
        self.trace_context = trace_context
        self._clock = clock

    def now(self) -> datetime:
        """Return the time: the given clock's, else the database server's, else this machine's."""
        if self._clock is not None:
            return self._clock()
        if self.connection.dialect.name == "postgresql":
            moment = self.connection.execute(select(func.clock_timestamp(type_=UtcDateTime()))).scalar_one()
            assert isinstance(moment, datetime)
            return moment
        return datetime.now(UTC)
