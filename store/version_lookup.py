"""Which version a model's ``latest`` or one of its aliases is at the moment, asked for each batch of predictions."""

import re
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, select
from sqlalchemy.exc import OperationalError

from ode_core.specs import ALIAS_PATTERN, LATEST, NAME_PATTERN
from store.engine import autocommitting
from store.tables import model_alias, model_version

_NEWEST = (
    select(model_version.c.id)
    .where(model_version.c.model == bindparam("model"))
    .order_by(model_version.c.version.desc())
    .limit(1)
)
_ALIASED = (
    select(model_version.c.id)
    .join(
        model_alias, (model_alias.c.model == model_version.c.model) & (model_alias.c.version == model_version.c.version)
    )
    .where(model_alias.c.model == bindparam("model"), model_alias.c.alias == bindparam("alias"))
)
_NAME, _ALIAS = re.compile(NAME_PATTERN), re.compile(ALIAS_PATTERN)


class VersionLookup:
    """Finds ids of versions on a connection of its own. For one thread.

    It sends single statements, each its own transaction, through the driver: a transaction of the store, with a
    connection from the pool and a whole row, takes thirty times as long on SQLite. It finds nothing that a transaction
    of the store would not, and where it cannot tell, the store is to be asked, which knows all references and errors.

    Args:
        engine: of the store.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._cursor: Any = None
        self._newest = _DriverStatement(engine, _NEWEST)
        self._aliased = _DriverStatement(engine, _ALIASED)

    def connect(self) -> None:
        """Open the connection, if it is not open: to be called when the database has just answered.

        Raises:
            SQLAlchemyError: it does not any more.
        """
        if self._connection is not None:
            return
        connection = None
        try:
            connection = autocommitting(self._engine)
            cursor = connection.connection.cursor()
        except self._engine.dialect.loaded_dbapi.Error as error:
            _discard(connection)
            raise OperationalError("open a cursor", None, error) from error
        self._connection, self._cursor = connection, cursor

    def id_of(self, model: str, reference: str | None) -> str | None:
        """Return the id of the version that ``latest`` (or None) or an alias means now; None: ask the store."""
        if self._cursor is None or _NAME.fullmatch(model) is None:
            return None
        if reference is None or reference == LATEST:
            return self._found(self._newest, {"model": model})
        if _ALIAS.fullmatch(reference) is None:
            return None
        return self._found(self._aliased, {"model": model, "alias": reference})

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection, self._cursor = self._connection, None, None
        if connection is not None:
            connection.close()

    def _found(self, statement: "_DriverStatement", values: dict[str, str]) -> str | None:
        try:
            self._cursor.execute(statement.text, statement.arguments(values))
            row = self._cursor.fetchone()
        except self._engine.dialect.loaded_dbapi.Error:  # the database was started again, for one
            self._drop()
            return None
        return None if row is None else str(row[0])

    def _drop(self) -> None:
        connection, self._connection, self._cursor = self._connection, None, None
        _discard(connection)


def _discard(connection: Connection | None) -> None:
    if connection is not None:
        with suppress(Exception):  # nobody needs it any more
            connection.invalidate()
            connection.close()


class _DriverStatement:
    """A statement as the driver takes it.

    Args:
        engine: of the database it is for.
        statement: of SQLAlchemy.
    """

    def __init__(self, engine: Engine, statement: Any) -> None:
        compiled = statement.compile(engine)
        self.text: str = str(compiled)
        self._values: dict[str, Any] = {name: value for name, value in compiled.params.items() if value is not None}
        self._order: list[str] | None = compiled.positiontup

    def arguments(self, values: dict[str, str]) -> Any:
        """Return the values in the form of the driver."""
        named = self._values | values
        return named if self._order is None else [named[name] for name in self._order]
