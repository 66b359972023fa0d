"""Aliases on both databases: moved as a whole, one deployer at a time, and moved back."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event, insert
from sqlalchemy.exc import IntegrityError

from store.errors import AliasMoved, InvalidCursor, NotFound, NothingToRollBack
from store.ids import new_id
from store.tables import model_alias, model_alias_move
from store.unit_of_work import Store
from tests.store.conftest import Clock


def add_versions(store: Store, name: str, count: int) -> list[str]:
    """Add versions to a model; return their ids."""
    blob_id = store.save_blob(b"weights " + new_id().encode())
    with store.transaction() as tx:
        return [
            tx.models.register_upload(name, training_spec={}, solver={}, blob_id=blob_id, metadata={}).id
            for _ in range(count)
        ]


@pytest.fixture
def versions(store: Store) -> list[str]:
    """Ids of the four versions of the model ``rings``."""
    return add_versions(store, "rings", 4)


def move(store: Store, version: int, expected: int | None = None, alias: str = "production") -> None:
    with store.transaction() as tx:
        assert tx.aliases.move("rings", alias, version, expected=expected).version == version


def roll_back(store: Store, expected: int | None = None) -> int:
    with store.transaction() as tx:
        return tx.aliases.roll_back("rings", "production", expected=expected).version


def state(store: Store, alias: str = "production") -> tuple[int, int | None, int] | None:
    """Version, previous version and revision of an alias, and that readers are given its version."""
    with store.reading() as tx:
        found = tx.aliases.get("rings", alias)
        served = tx.models.resolve("rings", alias)
    assert (None if found is None else found.version) == (None if served is None else served.version)
    return None if found is None else (found.version, found.previous_version, found.revision)


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """The queries sent meanwhile."""
    sent: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith(("BEGIN", "SET")):
            sent.append(statement)

    event.listen(store.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(store.engine, "before_cursor_execute", note)


class TestResolve:
    def test_each_kind_of_reference_finds_its_version_in_one_query(self, store: Store, versions: list[str]) -> None:
        add_versions(store, "other", 7)
        move(store, 2)
        expected = {None: 3, "latest": 3, 1: 0, "3": 2, "production": 1}
        for reference, position in expected.items():
            with statements(store) as sent, store.reading() as tx:
                found = tx.models.resolve("rings", reference)
            assert found is not None
            assert found.id == versions[position], reference
            assert len(sent) == 1, (reference, sent)

    @pytest.mark.parametrize(
        "reference",
        [
            0,
            -1,
            5,
            2**31,
            10**40,
            "0",
            "5",
            "9" * 10,
            "9" * 5000,
            "²",
            "staging",
            "Production",
            "",
            "\0",
            "a\0",
            "\ud800",
        ],
    )
    def test_what_does_not_exist_is_none(self, store: Store, versions: list[str], reference: int | str) -> None:
        move(store, 2)
        with store.reading() as tx:
            assert tx.models.resolve("rings", reference) is None

    def test_an_alias_belongs_to_its_model(self, store: Store, versions: list[str]) -> None:
        others = add_versions(store, "other", 2)
        move(store, 1)
        with store.transaction() as tx:
            tx.aliases.move("other", "production", 2)
        with store.reading() as tx:
            ours, theirs = tx.models.resolve("rings", "production"), tx.models.resolve("other", "production")
            assert tx.models.resolve("nobody", "production") is None
        assert ours is not None
        assert theirs is not None
        assert (ours.id, theirs.id) == (versions[0], others[1])

    def test_a_new_version_moves_latest_and_no_alias(self, store: Store, versions: list[str]) -> None:
        move(store, 4)
        (newest,) = add_versions(store, "rings", 1)
        with store.reading() as tx:
            latest, aliased = tx.models.resolve("rings", "latest"), tx.models.resolve("rings", "production")
        assert latest is not None
        assert aliased is not None
        assert (latest.id, aliased.id) == (newest, versions[3])


class TestMoves:
    def test_an_alias_is_made_moved_and_remembers_what_was(
        self, store: Store, versions: list[str], clock: Clock
    ) -> None:
        moments = []
        for version in (1, 3, 2):
            clock.forward(60)
            moments.append(clock.now)
            move(store, version)

        assert state(store) == (2, 3, 3)
        with store.reading() as tx:
            alias = tx.aliases.get("rings", "production")
            history = tx.aliases.history("rings", "production")
            newest = tx.aliases.history("rings", "production", limit=1)
        assert alias is not None
        assert alias.moved_at == moments[2]
        assert [(one.revision, one.kind, one.version, one.moved_at) for one in history] == [
            (3, "move", 2, moments[2]),
            (2, "move", 3, moments[1]),
            (1, "move", 1, moments[0]),
        ]
        assert newest == history[:1]

    def test_a_move_to_where_it_points_changes_nothing_whatever_was_expected(
        self, store: Store, versions: list[str]
    ) -> None:
        move(store, 1)
        move(store, 2, expected=1)
        move(store, 2, expected=1)  # the same request, sent again
        move(store, 2)

        assert state(store) == (2, 1, 2)

    @pytest.mark.parametrize(
        ("expected", "message"),
        [(1, "is at version 2, and not at version 1"), (0, "has an alias production already, at version 2")],
    )
    def test_who_expected_another_version_moves_nothing(
        self, store: Store, versions: list[str], expected: int, message: str
    ) -> None:
        move(store, 1, expected=0)
        move(store, 2)
        for change in (
            lambda tx: tx.aliases.move("rings", "production", 3, expected=expected),
            lambda tx: tx.aliases.roll_back("rings", "production", expected=expected),
            lambda tx: tx.aliases.remove("rings", "production", expected=expected),
        ):
            with pytest.raises(AliasMoved, match=message) as refused, store.transaction() as tx:
                change(tx)
            assert refused.value.version == 2
        assert state(store) == (2, 1, 2)

    def test_who_expected_an_alias_where_there_is_none_makes_none(self, store: Store, versions: list[str]) -> None:
        with pytest.raises(AliasMoved, match="no alias production, which was expected at version 2") as refused:
            move(store, 3, expected=2)
        assert refused.value.version is None
        assert state(store) is None

    def test_what_is_not_there_cannot_be_pointed_at(self, store: Store, versions: list[str]) -> None:
        for model, version, message in (("rings", 5, "no version 5"), ("nobody", 1, "no model nobody")):
            with pytest.raises(NotFound, match=message), store.transaction() as tx:
                tx.aliases.move(model, "production", version)
        for change in (
            lambda tx: tx.aliases.roll_back("rings", "production"),
            lambda tx: tx.aliases.remove("rings", "production"),
        ):
            with pytest.raises(NotFound, match="no alias production"), store.transaction() as tx:
                change(tx)

    def test_of_deployers_at_once_that_expect_the_same_one_wins(self, store: Store, versions: list[str]) -> None:
        move(store, 1)
        barrier = threading.Barrier(3)
        outcomes: list[tuple[int, bool]] = []

        def deploy(version: int) -> None:
            barrier.wait()
            try:
                move(store, version, expected=1)
            except AliasMoved:
                outcomes.append((version, False))
            else:
                outcomes.append((version, True))

        in_threads(deploy, [2, 3, 4])

        (winner,) = [version for version, won in outcomes if won]
        assert len(outcomes) == 3
        assert state(store) == (winner, 1, 2)

    def test_aliases_made_at_once_are_moves_one_after_another(self, store: Store, versions: list[str]) -> None:
        barrier = threading.Barrier(4)

        def deploy(version: int) -> None:
            barrier.wait()
            move(store, version)

        in_threads(deploy, [1, 2, 3, 4])

        with store.reading() as tx:
            history = tx.aliases.history("rings", "production")
        assert [one.revision for one in history] == [4, 3, 2, 1]
        assert state(store) == (history[0].version, history[1].version, 4)


class TestRollback:
    def test_a_rollback_goes_back_one_move_and_the_next_one_further(self, store: Store, versions: list[str]) -> None:
        for version in (1, 2, 3):
            move(store, version)

        assert roll_back(store) == 2
        assert state(store) == (2, 1, 4)
        assert roll_back(store, expected=2) == 1
        assert state(store) == (1, None, 5)
        with pytest.raises(NothingToRollBack, match="at version 1, and there is none before it"):
            roll_back(store)
        assert state(store) == (1, None, 5)

    def test_after_a_rollback_a_move_goes_back_to_where_that_led(self, store: Store, versions: list[str]) -> None:
        for version in (1, 2, 3):
            move(store, version)
        roll_back(store)
        move(store, 4)

        assert state(store) == (4, 2, 5)
        assert [roll_back(store), roll_back(store)] == [2, 1]  # and not 3, which was taken back
        with store.reading() as tx:
            history = tx.aliases.history("rings", "production")
        assert [(one.kind, one.version) for one in reversed(history)] == [
            ("move", 1),
            ("move", 2),
            ("move", 3),
            ("rollback", 2),
            ("move", 4),
            ("rollback", 2),
            ("rollback", 1),
        ]

    def test_the_first_version_has_none_before_it(self, store: Store, versions: list[str]) -> None:
        move(store, 3)
        with pytest.raises(NothingToRollBack):
            roll_back(store)


def test_a_removed_alias_is_gone_and_its_history_stays(store: Store, versions: list[str]) -> None:
    move(store, 1)
    move(store, 2)
    with store.transaction() as tx:
        tx.aliases.remove("rings", "production", expected=2)

    assert state(store) is None
    move(store, 4, expected=0)

    assert state(store) == (4, None, 4)  # there is no way back to before the removal
    with store.reading() as tx:
        history = tx.aliases.history("rings", "production")
    assert [(one.revision, one.kind, one.version) for one in history] == [
        (4, "move", 4),
        (3, "removal", None),
        (2, "move", 2),
        (1, "move", 1),
    ]


def test_the_aliases_of_a_model_are_listed_by_name_a_page_at_a_time(store: Store, versions: list[str]) -> None:
    names = ["b", "B", "a.1", "a", "a-1"]
    for number, name in enumerate(names):
        move(store, number % 4 + 1, alias=name)
    move(store, 1, alias="a")
    add_versions(store, "other", 1)
    with store.transaction() as tx:
        tx.aliases.move("other", "c", 1)

    with store.reading() as tx:
        first = tx.aliases.list("rings", limit=3)
        second = tx.aliases.list("rings", limit=3, after=first.next_cursor)
        with pytest.raises(InvalidCursor):
            tx.aliases.list("rings", after="garbage")

    assert [one.alias for one in first.items + second.items] == sorted(names)  # by code point, on both databases
    assert first.has_more
    assert not second.has_more
    moved = next(one for one in first.items + second.items if one.alias == "a")
    assert (moved.version, moved.previous_version, moved.revision) == (1, 4, 2)


@pytest.mark.parametrize(
    "values",
    [
        {"version": 9},
        {"version": None},
        {"kind": "removal"},
        {"kind": "gift"},
        {"revision": 0},
        {"back_to": 2},
        {"back_to": 3, "revision": 9},
    ],
)
def test_the_database_refuses_a_move_that_cannot_be(
    store: Store, versions: list[str], clock: Clock, values: dict[str, object]
) -> None:
    move(store, 1)
    row = {"model": "rings", "alias": "production", "revision": 2, "kind": "move", "version": 2, "back_to": 1}

    with pytest.raises(IntegrityError), store.engine.begin() as connection:
        connection.execute(insert(model_alias_move).values(row | {"moved_at": clock.now} | values))


@pytest.mark.parametrize("values", [{"version": 9}, {"revision": 2}, {"alias": "production"}])
def test_the_database_refuses_an_alias_without_a_version_or_a_move(
    store: Store, versions: list[str], values: dict[str, object]
) -> None:
    move(store, 1)
    row = {"model": "rings", "alias": "other", "version": 1, "revision": 1}

    with pytest.raises(IntegrityError), store.engine.begin() as connection:
        connection.execute(insert(model_alias).values(row | values))


def in_threads(work: Callable[[int], None], arguments: list[int]) -> None:
    threads = [threading.Thread(target=work, args=(one,)) for one in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
