import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Double, Integer, MetaData, String, Table, select

from store.errors import InvalidCursor
from store.pagination import KeysetOrder
from store.unit_of_work import Store

TABLE = Table("t", MetaData(), Column("id", String), Column("n", Integer), Column("x", Double), Column("s", String))
QUERY = select(TABLE)


def encoded(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "!",
        "é",
        "a",
        "bm90IGpzb24",
        base64.urlsafe_b64encode(b"[" * 100_000).decode(),
        encoded("n", 1),
        encoded("n", 1, 2),
        encoded("n", 1, "id", "more"),
        encoded("x", 1, "id"),  # of another order
        encoded("-n", 1, "id"),
        encoded("n", "1", "id"),
        encoded("n", True, "id"),
        encoded("n", 1.5, "id"),
        encoded("n", 2**63, "id"),
        encoded("n", [1], "id"),
        encoded("n", {}, "id"),
        encoded("n", 1, "i\0d"),
        encoded("n", 1, "\ud800"),
        encoded("n", 1, "i" * 501),
    ],
)
def test_a_malformed_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursor, match="pass next_cursor of the previous page unchanged"):
        KeysetOrder("n", TABLE.c.n, TABLE.c.id).apply(QUERY, 10, cursor)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", '"1"', "true"])
def test_a_cursor_with_a_number_no_column_holds_is_refused(value: str) -> None:
    cursor = base64.urlsafe_b64encode(f'["x", {value}, "id"]'.encode()).decode()

    with pytest.raises(InvalidCursor):
        KeysetOrder("x", TABLE.c.x, TABLE.c.id).apply(QUERY, 10, cursor)


@given(st.text(max_size=200))
def test_no_text_makes_a_cursor_fail_otherwise(text: str) -> None:
    with pytest.raises(InvalidCursor):
        KeysetOrder("s", TABLE.c.s, TABLE.c.id).apply(QUERY, 10, text)


def test_a_malformed_cursor_is_refused_by_each_list(store: Store) -> None:
    with store.reading() as tx:
        for read in (tx.jobs.list, tx.models.list, tx.results.list):
            with pytest.raises(InvalidCursor):
                read(after="nonsense")


def test_a_cursor_of_one_list_does_not_fit_another(store: Store) -> None:
    with store.transaction() as tx:
        for _ in range(2):
            tx.jobs.submit("training", {})
        cursor = tx.jobs.list(limit=1).next_cursor
        with pytest.raises(InvalidCursor):
            tx.models.list(after=cursor)
