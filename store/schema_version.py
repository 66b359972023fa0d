"""The schema's version: bringing a database to the newest, and refusing one that is not."""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine, inspect, text

from store.engine import create_engine_from, reading, writing
from store.errors import SchemaNotAtHead

_ADVISORY_LOCK = 0x0DE_2E55  # any number that no one else uses in this database


def migration_config() -> Config:
    """Return Alembic's configuration; the connection goes into its ``attributes``."""
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    config.set_main_option("path_separator", "os")
    return config


def head_revision() -> str:
    """Return the newest revision this program knows."""
    head = ScriptDirectory.from_config(migration_config()).get_current_head()
    assert head is not None
    return head


def current_revision(engine: Engine) -> str | None:
    """Return the database's revision; None for an empty database."""
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def require_head(engine: Engine) -> None:
    """Check that the schema is the one this program was written for.

    Raises:
        SchemaNotAtHead: it is not; the message says what to do.
    """
    current, head = current_revision(engine), head_revision()
    if current == head:
        return
    if current is None:
        raise SchemaNotAtHead("the database is empty: run `odeness migrate`")
    known = {script.revision for script in ScriptDirectory.from_config(migration_config()).walk_revisions()}
    if current in known:
        raise SchemaNotAtHead(
            f"the database's schema is at revision {current}, this version needs {head}: run `odeness migrate`"
        )
    raise SchemaNotAtHead(
        f"the database's schema is at revision {current}, which a newer version of odeness made: install that version"
    )


def migrate(database: Engine | URL | str, revision: str = "head") -> None:
    """Bring the database to ``revision``: upward, or downward if it is an older one.

    Safe to call from several processes at once: one migrates, the others wait and find it done.
    All of it is one transaction, so a failure leaves the schema as it was.
    """
    url = database.url if isinstance(database, Engine) else database
    engine = create_engine_from(url, for_migrations=True)
    try:
        with writing(engine) as connection, connection.begin():
            if engine.dialect.name == "postgresql":
                # On SQLite, BEGIN IMMEDIATE waits for the other's commit.
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            config = migration_config()
            config.attributes["connection"] = connection
            if _is_below(revision, MigrationContext.configure(connection).get_current_revision()):
                command.downgrade(config, revision)
            else:
                command.upgrade(config, revision)
            if engine.dialect.name == "sqlite" and inspect(connection).get_table_names():
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                if broken:
                    raise RuntimeError(f"the migration left {len(broken)} rows without the row they refer to")
    finally:
        engine.dispose()


def _is_below(revision: str, current: str | None) -> bool:
    if revision == "head" or current is None:
        return False
    if revision == "base":
        return True
    scripts = ScriptDirectory.from_config(migration_config())
    return revision != current and revision in {
        script.revision for script in scripts.iterate_revisions(current, "base")
    }
