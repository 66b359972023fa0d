"""Keyset pagination: pages that neither skip nor repeat a row while others are written."""

import base64
import binascii
import json
import math
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Boolean, ColumnElement, Float, Integer, Select, and_, or_

from store.errors import InvalidCursor

T = TypeVar("T")
MAX_LIMIT = 1000


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some rows of a list, and where the next page begins.

    Attributes:
        items: at most ``limit`` rows.
        next_cursor: opaque text for ``after``; None when this is the last page.
    """

    items: list[T]
    next_cursor: str | None

    @property
    def has_more(self) -> bool:
        """Whether there is a next page."""
        return self.next_cursor is not None


@dataclass(frozen=True)
class KeysetOrder:
    """An order of rows: by one column, nulls last, ties broken by a unique column.

    Attributes:
        name: of the order, kept in its cursors: a cursor fits only the order it was made for.
        column: sorted by; None when the tie-breaker alone is the order.
        tie_breaker: a unique column, text, never null.
        descending: the direction of both.
    """

    name: str
    column: ColumnElement[Any] | None
    tie_breaker: ColumnElement[str]
    descending: bool = False

    def apply(self, query: Select[Any], limit: int, after: str | None) -> Select[Any]:
        """Return the query for the page after the cursor ``after``, and one row more.

        Raises:
            InvalidCursor: ``after`` was not made by ``cursor`` of this order.
            ValueError: ``limit`` is not within 1 and 1000.
        """
        if not 1 <= limit <= MAX_LIMIT:
            raise ValueError(f"limit must be between 1 and {MAX_LIMIT}, not {limit}")
        if after is not None:
            query = query.where(self._beyond(*self._read(after)))
        order: list[ColumnElement[Any]] = []
        if self.column is not None:
            order += [self.column.is_(None), self.column.desc() if self.descending else self.column.asc()]
        order.append(self.tie_breaker.desc() if self.descending else self.tie_breaker.asc())
        return query.order_by(*order).limit(limit + 1)

    def cursor(self, value: Any, tie: str) -> str:
        """Return the opaque cursor of the row with these values."""
        return base64.urlsafe_b64encode(json.dumps([self.name, value, tie]).encode()).decode().rstrip("=")

    def _beyond(self, value: Any, tie: str) -> ColumnElement[bool]:
        after_tie = self.tie_breaker < tie if self.descending else self.tie_breaker > tie
        if self.column is None:
            return after_tie
        if value is None:
            return and_(self.column.is_(None), after_tie)
        after_value = self.column < value if self.descending else self.column > value
        return or_(after_value, and_(self.column == value, after_tie), self.column.is_(None))

    def _read(self, cursor: str) -> tuple[Any, str]:
        problem = InvalidCursor(
            "the cursor is malformed or belongs to another list or sort order: pass next_cursor of the "
            "previous page unchanged, or leave it out to begin anew"
        )
        try:
            padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
            parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        except (UnicodeError, binascii.Error, ValueError, RecursionError) as error:
            raise problem from error
        if not (isinstance(parts, list) and len(parts) == 3 and parts[0] == self.name):
            raise problem
        _, value, tie = parts
        if not (_storable_text(tie) and self._storable(value)):
            raise problem
        return value, tie

    def _storable(self, value: Any) -> bool:
        """Whether ``value`` can be a value of the column; a forged one must not reach the database."""
        if value is None:
            return True
        if self.column is None or isinstance(self.column.type, Boolean):
            return False
        if isinstance(self.column.type, Integer):
            return type(value) is int and abs(value) < 2**63
        if isinstance(self.column.type, Float):
            return type(value) in (int, float) and math.isfinite(value) and abs(value) <= 1e300
        return _storable_text(value)


def _storable_text(value: object) -> bool:
    if not isinstance(value, str) or len(value) > 500 or "\0" in value:
        return False
    try:
        value.encode()  # a lone surrogate cannot be
    except UnicodeError:
        return False
    return True
