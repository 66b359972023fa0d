import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Column, MetaData, Table, func, insert, select, text
from sqlalchemy.exc import IntegrityError, StatementError

from store import tables
from store.column_types import Document, UtcDateTime
from store.engine import UnsupportedDatabase, create_engine_from, parse_database_url, reading, writing
from store.errors import NotFound
from store.unit_of_work import Store


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_means_psycopg_3(scheme: str) -> None:
    url = parse_database_url(f"{scheme}://user:secret@host:5432/name?sslmode=require")

    assert url.render_as_string(hide_password=False) == (
        "postgresql+psycopg://user:secret@host:5432/name?sslmode=require"
    )


@pytest.mark.parametrize(
    "url",
    [
        "mysql://secret@host/name",
        "postgresql+asyncpg://secret@host/name",
        "sqlite://",
        "sqlite:///:memory:",
        "secret",
        "",
    ],
)
def test_other_databases_are_refused_with_an_example_and_without_the_url(url: str) -> None:
    with pytest.raises(UnsupportedDatabase, match=r"sqlite:////path/to/odeness\.db") as refused:
        parse_database_url(url)

    assert "secret" not in str(refused.value)


def test_the_folder_of_an_sqlite_file_is_made(tmp_path: Path) -> None:
    engine = create_engine_from(f"sqlite:///{tmp_path}/a/b/odeness.db")
    with engine.connect():
        pass
    engine.dispose()

    assert (tmp_path / "a" / "b" / "odeness.db").exists()


def test_sqlite_is_set_up_for_many_users(sqlite_url: str) -> None:
    engine = create_engine_from(sqlite_url)
    with engine.connect() as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("busy_timeout", "journal_mode", "synchronous", "foreign_keys")
        }
    engine.dispose()

    assert values == {"busy_timeout": 30_000, "journal_mode": "wal", "synchronous": 1, "foreign_keys": 1}


def test_a_writing_transaction_on_sqlite_takes_the_lock_when_it_begins(sqlite_url: str) -> None:
    engine, other = create_engine_from(sqlite_url), create_engine_from(sqlite_url)
    with writing(engine) as connection, connection.begin(), other.connect() as blocked:
        blocked.exec_driver_sql("PRAGMA busy_timeout = 0")
        blocked.rollback()
        with pytest.raises(Exception, match="database is locked"):
            blocked.execution_options(odeness_sqlite_begin="IMMEDIATE").begin()
    engine.dispose()
    other.dispose()


def test_a_transaction_that_raises_leaves_nothing(store: Store) -> None:
    def submit_and_fail() -> None:
        with store.transaction() as tx:
            tx.jobs.submit("training", {})
            tx.jobs.request_cancel("no such job")

    with pytest.raises(NotFound):
        submit_and_fail()

    with store.reading() as tx:
        assert tx.jobs.list().items == []


def test_a_reading_transaction_sees_one_moment(store: Store) -> None:
    with store.reading() as tx:
        before = tx.jobs.list()
        with store.transaction() as other:
            other.jobs.submit("training", {})
        after = tx.jobs.list()

    assert before.items == after.items == []


def test_many_threads_may_write_at_once(store: Store) -> None:
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(10):
                with store.transaction() as tx:
                    job = tx.jobs.submit("training", {})
                    tx.jobs.claim(job.id, "w", 30)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    with store.reading() as tx:
        assert tx.jobs.count_by_status()["running"] == 80


def test_foreign_keys_are_enforced(store: Store) -> None:
    with pytest.raises(IntegrityError), writing(store.engine) as connection, connection.begin():
        connection.execute(
            insert(tables.event).values(
                job_id="no such", sequence=1, kind="queued", data={}, created_at=datetime.now(UTC)
            )
        )


def test_times_come_back_in_utc_and_naive_ones_are_refused(store: Store) -> None:
    table = Table("moment", MetaData(), Column("at", UtcDateTime()), prefixes=["TEMPORARY"])
    moment = datetime(2026, 3, 1, 1, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    with writing(store.engine) as connection, connection.begin():
        table.create(connection)
        connection.execute(insert(table).values(at=moment))
        stored = connection.execute(select(table.c.at)).scalar_one()
        earlier = connection.execute(
            select(func.count()).where(table.c.at < moment + timedelta(seconds=1))
        ).scalar_one()

    assert stored == moment
    assert stored.utcoffset() == timedelta(0)
    assert earlier == 1
    with (
        pytest.raises(StatementError, match="without time zone"),
        writing(store.engine) as connection,
        connection.begin(),
    ):
        connection.execute(insert(table).values(at=datetime(2026, 3, 1)))  # noqa: DTZ001


def test_documents_keep_the_order_of_their_keys_and_refuse_nan(store: Store) -> None:
    table = Table("paper", MetaData(), Column("body", Document), prefixes=["TEMPORARY"])
    with writing(store.engine) as connection, connection.begin():
        table.create(connection)
        connection.execute(insert(table).values(body={"z": 1, "a": [None, "é"]}))
        assert list(connection.execute(select(table.c.body)).scalar_one().items()) == [("z", 1), ("a", [None, "é"])]
    with (
        pytest.raises(Exception, match="not JSON compliant"),  # each driver wraps it in its own way
        writing(store.engine) as connection,
        connection.begin(),
    ):
        connection.execute(insert(table).values(body={"x": float("nan")}))


def test_an_error_of_the_database_does_not_show_values(store: Store) -> None:
    with pytest.raises(Exception, match="no_such_table") as failed, reading(store.engine) as connection:
        connection.execute(text("SELECT * FROM no_such_table WHERE x = :x"), {"x": "secret"})

    assert "secret" not in str(failed.value)


def test_ping_answers(store: Store) -> None:
    store.ping()


def test_the_database_tells_the_time(real_time_store: Store) -> None:
    with real_time_store.reading() as tx:
        assert abs(tx.now() - datetime.now(UTC)) < timedelta(minutes=5)
        assert tx.now().utcoffset() == timedelta(0)
