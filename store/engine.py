"""Engines for SQLite and PostgreSQL that behave alike."""

import functools
import json
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.pool import NullPool, Pool, QueuePool

# How a transaction begins on SQLite; see begin_transaction.
SQLITE_BEGIN = "odeness_sqlite_begin"
BUSY_TIMEOUT_MILLISECONDS = 30_000


class UnsupportedDatabase(ValueError):
    """The database URL names neither SQLite with a file nor PostgreSQL."""


def parse_database_url(text: str) -> URL:
    """Return the URL with its driver named.

    ``postgres://`` and ``postgresql://`` mean psycopg 3. The message of an error does not contain
    the URL: it may hold a password.

    Raises:
        UnsupportedDatabase: not a URL, another database, or an in-memory SQLite.
    """
    examples = "use sqlite:////path/to/odeness.db or postgresql://user:password@host/database"
    try:
        url = make_url(text)
    except Exception as error:
        raise UnsupportedDatabase(f"the database setting is not a URL: {examples}") from error
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if url.database in (None, "", ":memory:") or "mode" in url.query:
            # Each connection would see a database of its own.
            raise UnsupportedDatabase(f"an SQLite database needs a file: {examples}")
        return url.set(drivername="sqlite+pysqlite")
    raise UnsupportedDatabase(f"{url.drivername} is not supported: {examples}")


def create_engine_from(url: str | URL, *, pool_size: int = 10, for_migrations: bool = False) -> Engine:
    """Return an engine for ``url``; the folder of an SQLite file is made if missing.

    Args:
        url: see ``parse_database_url``.
        pool_size: connections kept; as many again may be opened for a while.
        for_migrations: one connection at a time; on SQLite foreign keys are off, because a table
            rebuilt by Alembic is dropped in between, which would cascade into its children.
    """
    if isinstance(url, URL):
        url = url.render_as_string(hide_password=False)
    parsed = parse_database_url(url)
    options: dict[str, Any] = {
        "json_serializer": functools.partial(json.dumps, allow_nan=False, separators=(",", ":")),
        # A message of SQLAlchemy's reaches logs: statements may, values may not.
        "hide_parameters": True,
    }
    pool: type[Pool] = NullPool if for_migrations else QueuePool
    if not for_migrations:
        options |= {"pool_size": pool_size, "max_overflow": pool_size, "pool_timeout": 30}
    if parsed.get_backend_name() == "postgresql":
        options["connect_args"] = {
            "connect_timeout": 10,
            "application_name": "odeness",
            # Notices a peer that vanished without closing the connection.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        }
        return create_engine(parsed, poolclass=pool, pool_pre_ping=True, **options)
    Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, poolclass=pool, **options)
    event.listen(engine, "connect", functools.partial(_configure_sqlite, foreign_keys=not for_migrations))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, record: object, *, foreign_keys: bool) -> None:
    # sqlite3 must not begin transactions by itself: it does so late and never IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    # The timeout first: the change to WAL takes a lock and would fail where others are connected.
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MILLISECONDS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that begins as a reader and then writes can fail with SQLITE_BUSY at once, without
    # waiting, when another has written since. One that will write asks for the lock first and waits.
    mode = connection.get_execution_options().get(SQLITE_BEGIN, "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")


def writing(engine: Engine) -> Connection:
    """Return a connection whose transaction may write."""
    connection = engine.connect()
    if engine.dialect.name == "sqlite":
        return connection.execution_options(**{SQLITE_BEGIN: "IMMEDIATE"})
    return connection


def reading(engine: Engine) -> Connection:
    """Return a connection whose transaction only reads, and sees one moment of the database."""
    connection = engine.connect()
    if engine.dialect.name == "sqlite":
        return connection.execution_options(**{SQLITE_BEGIN: "DEFERRED"})
    return connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def autocommitting(engine: Engine) -> Connection:
    """Return a connection on whose driver each statement is a transaction of its own."""
    connection = engine.connect()
    if engine.dialect.name == "sqlite":
        return connection  # where none is begun; see _configure_sqlite
    try:
        return connection.execution_options(isolation_level="AUTOCOMMIT", postgresql_readonly=True)
    except BaseException:
        connection.invalidate()
        connection.close()
        raise
