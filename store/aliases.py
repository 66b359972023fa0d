"""Aliases: names for a model's versions that can be moved, each move in one transaction, and moved back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Select, and_, delete, func, insert, select, update

from store import tables
from store.errors import AliasMoved, NotFound, NothingToRollBack
from store.pagination import KeysetOrder, Page
from store.scope import Scope
from store.tables import model_alias, model_alias_move, model_version

MoveKind = Literal["move", "rollback", "removal"]


@dataclass(frozen=True)
class Alias:
    """A name for one of a model's versions.

    Attributes:
        model: the model's name.
        alias: the alias.
        version: where it points.
        previous_version: where a rollback would put it; None: it has pointed at no other before.
        revision: how often it was moved, removals included; the last move has this number.
        moved_at: when it was moved last.
    """

    model: str
    alias: str
    version: int
    previous_version: int | None
    revision: int
    moved_at: datetime


@dataclass(frozen=True)
class AliasMove:
    """One move of an alias: its number from 1, and where it pointed from then on, None after its removal."""

    revision: int
    kind: MoveKind
    version: int | None
    moved_at: datetime


_BY_ALIAS = KeysetOrder("alias", None, model_alias.c.alias)


class Aliases:
    """Moves and finds aliases.

    A move waits for others of the same model: it sees where the alias points, and nobody comes between.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def get(self, model: str, alias: str) -> Alias | None:
        """Return the alias, or None."""
        query = _aliases(model).where(model_alias.c.alias == alias)
        row = self._scope.connection.execute(query).mappings().one_or_none()
        return None if row is None else Alias(**row)

    def list(self, model: str, *, limit: int = 50, after: str | None = None) -> Page[Alias]:
        """Return a model's aliases by name.

        Raises:
            InvalidCursor: ``after`` is malformed.
        """
        query = _BY_ALIAS.apply(_aliases(model), limit, after)
        found = [Alias(**row) for row in self._scope.connection.execute(query).mappings()]
        more = len(found) > limit
        found = found[:limit]
        return Page(found, _BY_ALIAS.cursor(None, found[-1].alias) if more else None)

    def history(self, model: str, alias: str, *, limit: int = 50) -> Sequence[AliasMove]:
        """Return the last moves of an alias, the newest first; they stay when it is removed."""
        move = model_alias_move.c
        query = (
            select(move.revision, move.kind, move.version, move.moved_at)
            .where(move.model == model, move.alias == alias)
            .order_by(move.revision.desc())
            .limit(limit)
        )
        return [AliasMove(**row) for row in self._scope.connection.execute(query).mappings()]

    def move(self, model: str, alias: str, version: int, *, expected: int | None = None) -> Alias:
        """Point an alias at a version; make it if there is none. One that points there already stays as it is.

        Args:
            model: the model's name.
            alias: a name that fits ``ode_core.specs.ALIAS_PATTERN``.
            version: of the model.
            expected: where the alias must point before, 0: there must be none yet; None: anywhere.

        Raises:
            NotFound: there is no such version.
            AliasMoved: the alias points elsewhere than expected.
        """
        current = self._hold(model, alias)
        if current is not None and current.version == version:
            return current
        _check_expected(model, alias, current, expected)
        self._require_version(model, version)
        return self._record(model, alias, current, "move", version, None if current is None else current.revision)

    def roll_back(self, model: str, alias: str, *, expected: int | None = None) -> Alias:
        """Put an alias back to where it pointed before its last move; a second time, before the move before that.

        Args:
            model: the model's name.
            alias: the alias.
            expected: where it must point before; None: anywhere.

        Raises:
            NotFound: there is no such alias.
            AliasMoved: the alias points elsewhere than expected.
            NothingToRollBack: there was no version before.
        """
        current = self._hold_existing(model, alias, expected)
        before = self._move_before(current)
        if before is None:
            raise NothingToRollBack(
                f"alias {alias} of model {model} is at version {current.version}, and there is none before it"
            )
        return self._record(model, alias, current, "rollback", before["version"], before["back_to"])

    def remove(self, model: str, alias: str, *, expected: int | None = None) -> None:
        """Remove an alias; its versions and its history stay.

        Args:
            model: the model's name.
            alias: the alias.
            expected: where it must point before; None: anywhere.

        Raises:
            NotFound: there is no such alias.
            AliasMoved: the alias points elsewhere than expected.
        """
        self._hold_existing(model, alias, expected)
        self._add_move(model, alias, "removal", None, None)
        here = (model_alias.c.model == model, model_alias.c.alias == alias)
        self._scope.connection.execute(delete(model_alias).where(*here))

    def _hold(self, model: str, alias: str) -> Alias | None:
        """Return the alias, locked by its model's row; an alias that is still to be made has no row to lock."""
        query = select(tables.model.c.name).where(tables.model.c.name == model).with_for_update()
        if self._scope.connection.execute(query).one_or_none() is None:
            raise NotFound(f"there is no model {model}")
        return self.get(model, alias)

    def _hold_existing(self, model: str, alias: str, expected: int | None) -> Alias:
        current = self._hold(model, alias)
        if current is None:
            raise NotFound(f"model {model} has no alias {alias}")
        _check_expected(model, alias, current, expected)
        return current

    def _require_version(self, model: str, version: int) -> None:
        query = select(model_version.c.id).where(model_version.c.model == model, model_version.c.version == version)
        if self._scope.connection.execute(query).one_or_none() is None:
            raise NotFound(f"model {model} has no version {version}")

    def _move_before(self, current: Alias) -> Any:
        last, before = model_alias_move.alias("last"), model_alias_move.alias("before")
        query = (
            select(before.c.version, before.c.back_to)
            .join_from(last, before, _restores(last, before))
            .where(last.c.model == current.model, last.c.alias == current.alias, last.c.revision == current.revision)
        )
        return self._scope.connection.execute(query).mappings().one_or_none()

    def _record(
        self, model: str, alias: str, current: Alias | None, kind: MoveKind, version: int, back_to: int | None
    ) -> Alias:
        revision = self._add_move(model, alias, kind, version, back_to)
        statement: Any
        if current is None:
            statement = insert(model_alias).values(model=model, alias=alias, version=version, revision=revision)
        else:
            here = (model_alias.c.model == model, model_alias.c.alias == alias)
            statement = update(model_alias).where(*here).values(version=version, revision=revision)
        self._scope.connection.execute(statement)
        moved = self.get(model, alias)
        assert moved is not None
        return moved

    def _add_move(self, model: str, alias: str, kind: MoveKind, version: int | None, back_to: int | None) -> int:
        move = model_alias_move.c
        newest = select(func.max(move.revision)).where(move.model == model, move.alias == alias)
        revision = (self._scope.connection.execute(newest).scalar_one() or 0) + 1
        statement = insert(model_alias_move).values(
            model=model,
            alias=alias,
            revision=revision,
            kind=kind,
            version=version,
            back_to=back_to,
            moved_at=self._scope.now(),
        )
        self._scope.connection.execute(statement)
        return revision


def _aliases(model: str) -> Select[Any]:
    last, before = model_alias_move.alias("last"), model_alias_move.alias("before")
    of_alias = and_(
        last.c.model == model_alias.c.model,
        last.c.alias == model_alias.c.alias,
        last.c.revision == model_alias.c.revision,
    )
    return (
        select(model_alias, before.c.version.label("previous_version"), last.c.moved_at)
        .join_from(model_alias, last, of_alias)
        .outerjoin(before, _restores(last, before))
        .where(model_alias.c.model == model)
    )


def _restores(last: Any, before: Any) -> Any:
    """Whether a rollback of the move ``last`` goes to the move ``before``."""
    return and_(before.c.model == last.c.model, before.c.alias == last.c.alias, before.c.revision == last.c.back_to)


def _check_expected(model: str, alias: str, current: Alias | None, expected: int | None) -> None:
    version = None if current is None else current.version
    if expected is None or expected == (version or 0):
        return
    if version is None:
        message = f"model {model} has no alias {alias}, which was expected at version {expected}"
    elif expected == 0:
        message = f"model {model} has an alias {alias} already, at version {version}"
    else:
        message = f"alias {alias} of model {model} is at version {version}, and not at version {expected}"
    raise AliasMoved(message, version)
