"""The store: transactions with their repositories, and the operations that need several."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text

from store.engine import create_engine_from, reading, writing
from store.events import Events
from store.job_lifecycle import Jobs
from store.scope import Clock, Scope


class Transaction:
    """One transaction's repositories."""

    def __init__(self, connection: Connection, clock: Clock | None) -> None:
        scope = Scope(connection, clock)
        self.now = scope.now
        self.jobs = Jobs(scope)
        self.events = Events(scope)


class Store:
    """A database.

    Args:
        engine: from ``store.engine.create_engine_from``.
        clock: for tests; default: the database server's clock, or this machine's with SQLite.
    """

    def __init__(self, engine: Engine, *, clock: Clock | None = None) -> None:
        self.engine = engine
        self._clock = clock

    @classmethod
    def connect(cls, url: str) -> "Store":
        """Return the store at a database URL; nothing is opened before the first transaction."""
        return cls(create_engine_from(url))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Open a transaction that may write: committed when the block ends, rolled back when it raises."""
        with writing(self.engine) as connection, connection.begin():
            yield Transaction(connection, self._clock)

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Open a transaction that only reads, and sees one moment of the database."""
        with reading(self.engine) as connection:
            yield Transaction(connection, self._clock)

    def ping(self) -> None:
        """Raise SQLAlchemy's error unless the database answers."""
        with reading(self.engine) as connection:
            connection.execute(text("SELECT 1"))
