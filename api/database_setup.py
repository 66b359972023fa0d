"""The database before a server starts: migrated, or found to be so; with errors for people."""

from collections.abc import Iterator
from contextlib import contextmanager

from alembic.util.exc import CommandError
from sqlalchemy.exc import SQLAlchemyError

from store.engine import create_engine_from
from store.schema_version import migrate, require_head
from store.settings import Settings


class DatabaseUnavailable(Exception):
    """The database cannot be used; the message says why and what to do."""


def migrate_database(settings: Settings) -> None:
    """Bring the database to this version's schema.

    Raises:
        DatabaseUnavailable: it cannot be reached, or a newer version made it.
    """
    with _errors_for_people():
        migrate(settings.database)


def require_migrated(settings: Settings) -> None:
    """Check that the database is there and has this version's schema.

    Raises:
        DatabaseUnavailable: it cannot be reached.
        SchemaNotAtHead: its schema is another.
    """
    engine = create_engine_from(settings.database)
    try:
        with _errors_for_people():
            require_head(engine)
    finally:
        engine.dispose()


@contextmanager
def _errors_for_people() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        # The driver's first line names host and reason; the rest is the statement and a link.
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise DatabaseUnavailable(f"cannot use the database: {reason}; check ODENESS_DATABASE_URL") from None
    except CommandError as error:
        raise DatabaseUnavailable(f"cannot migrate the database: {error}; a newer version of odeness made it") from None
