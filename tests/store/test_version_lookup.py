"""The lookup of versions on both databases: what the store's transactions find, at once, whatever happens meanwhile."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from store.engine import writing
from store.unit_of_work import Store, Transaction
from store.version_lookup import VersionLookup
from tests.store.test_aliases import add_versions, move


@pytest.fixture
def lookup(store: Store) -> Iterator[VersionLookup]:
    lookup = VersionLookup(store.engine)
    lookup.connect()
    yield lookup
    lookup.close()


def test_the_newest_version_is_found_as_soon_as_it_is_stored(store: Store, lookup: VersionLookup) -> None:
    assert lookup.id_of("rings", None) is None
    first, second = add_versions(store, "rings", 2)
    add_versions(store, "other", 3)
    assert (first, lookup.id_of("rings", None), lookup.id_of("rings", "latest")) == (first, second, second)
    (third,) = add_versions(store, "rings", 1)
    assert lookup.id_of("rings", None) == third


def test_a_move_of_an_alias_is_seen_by_the_next_question(store: Store, lookup: VersionLookup) -> None:
    ids = add_versions(store, "rings", 3)
    assert lookup.id_of("rings", "production") is None
    for version in (2, 1, 3):
        move(store, version)
        assert lookup.id_of("rings", "production") == ids[version - 1]
    assert lookup.id_of("other", "production") is None


@pytest.mark.parametrize("reference", ["1", "-", "a b", "a\0", "a' OR '1'='1", "%s", "ü", "\ud800"])
def test_what_is_no_alias_is_left_to_the_store(store: Store, lookup: VersionLookup, reference: str) -> None:
    add_versions(store, "rings", 1)
    assert lookup.id_of("rings", reference) is None
    assert lookup.id_of(reference, None) is None


def test_it_takes_no_lock_and_leaves_no_transaction_open(store: Store, lookup: VersionLookup) -> None:
    add_versions(store, "rings", 1)
    lookup.id_of("rings", None)
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
        if store.engine.dialect.name == "sqlite":
            # Waits for readers, and says so in its first column when it was in vain.
            assert other.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0] == 0
        else:
            idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
            assert other.execute(text(idle)).scalar_one() == 0


def test_a_lost_connection_is_no_answer_until_it_is_opened_again(store: Store, lookup: VersionLookup) -> None:
    (only,) = add_versions(store, "rings", 1)
    assert lookup.id_of("rings", None) == only
    if store.engine.dialect.name == "sqlite":
        assert lookup._cursor is not None
        lookup._cursor.connection.close()
    else:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
        with store.engine.connect() as other:
            other.execute(text(f"{ended} pg_backend_pid()"))
    assert lookup.id_of("rings", None) is None
    lookup.connect()
    assert lookup.id_of("rings", None) == only


def test_a_connection_lost_while_it_is_opened_is_not_held_and_opened_again_later(store: Store) -> None:
    (only,) = add_versions(store, "rings", 1)
    lookup = VersionLookup(store.engine)

    def lose(connection: Any, *_: Any) -> None:
        connection.close()

    event.listen(store.engine, "checkout", lose)
    with pytest.raises(OperationalError):
        lookup.connect()
    event.remove(store.engine, "checkout", lose)
    assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert lookup.id_of("rings", None) is None
    lookup.connect()
    assert lookup.id_of("rings", None) == only
    lookup.close()


def test_a_connection_given_back_is_like_any_other(store: Store) -> None:
    add_versions(store, "rings", 1)
    lookup = VersionLookup(store.engine)
    lookup.connect()
    lookup.id_of("rings", None)
    lookup.close()
    with writing(store.engine) as connection:
        Transaction(connection, None).aliases.move("rings", "production", 1)
        connection.rollback()
    with store.reading() as tx:
        assert tx.aliases.get("rings", "production") is None
    assert lookup.id_of("rings", None) is None
