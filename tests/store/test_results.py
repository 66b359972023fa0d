import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.errors import InvalidCursor, InvalidSort
from store.results import SORTABLE, NewResult, Result
from store.unit_of_work import Store, Transaction

Running = tuple[str, int]


def row(**changes: object) -> NewResult:
    values: dict[str, object] = {
        "model": "digits",
        "version": 1,
        "dataset": {"kind": "digits", "test_fraction": 0.2},
        "train_solver": {"method": "euler", "steps": 2},
        "test_solver": {"method": "rk4", "steps": 64},
        "train_steps": 2,
        "test_steps": 64,
        "nfe": 256.0,
        "accuracy": 0.1,
        "flip_rate": 0.9,
        "samples": 360,
        "failures": 0,
        "seconds": 0.5,
    }
    return NewResult(**{**values, **changes})  # type: ignore[arg-type]


def all_pages(tx: Transaction, limit: int, **arguments: object) -> list[Result]:
    found: list[Result] = []
    after: str | None = None
    while True:
        page = tx.results.list(limit=limit, after=after, **arguments)  # type: ignore[arg-type]
        found += page.items
        if not page.has_more:
            return found
        assert len(page.items) == limit
        after = page.next_cursor


def test_a_result_comes_back_with_its_kind_and_methods(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        tx.results.add(*running, [row()])
        (found,) = tx.results.list().items

    assert (found.dataset_kind, found.train_method, found.test_method) == ("digits", "euler", "rk4")
    assert found.test_solver == {"method": "rk4", "steps": 64}
    assert (found.job_id, found.nfe, found.accuracy, found.flip_rate) == (running[0], 256.0, 0.1, 0.9)


def test_a_job_that_is_run_again_replaces_its_results(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        other = tx.jobs.submit("sweep", {})
        assert tx.jobs.claim(other.id, "w", 30) is not None
        tx.results.add(other.id, 1, [row(nfe=7.0)])
        tx.results.add(*running, [row(nfe=1.0), row(nfe=2.0)])
        tx.results.replace_for_job(*running, [row(nfe=3.0)])
        assert [each.nfe for each in tx.results.list(sort="nfe").items] == [3.0, 7.0]


@pytest.mark.parametrize("name", ["nfe", "seconds", "accuracy", "flip_rate"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_is_finite(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} of a result must be finite"):
        row(**{name: value})


def test_results_can_be_filtered(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        tx.results.add(
            *running,
            [
                row(seconds=1.0),
                row(seconds=2.0, version=2, accuracy=None),
                row(seconds=3.0, model="spheres", dataset={"kind": "concentric_spheres"}),
                row(seconds=4.0, test_solver={"method": "dopri5"}, test_steps=None, accuracy=0.95, nfe=80.0),
                row(seconds=5.0, train_solver={"method": "rk4"}, accuracy=0.5),
            ],
        )

        def found(**filters: object) -> list[float]:
            return [each.seconds for each in tx.results.list(sort="seconds", **filters).items]  # type: ignore[arg-type]

        assert found() == [1, 2, 3, 4, 5]
        assert found(model="digits") == [1, 2, 4, 5]
        assert found(model="digits", version=2) == [2]
        assert found(dataset="concentric_spheres") == [3]
        assert found(test_method="dopri5") == [4]
        assert found(train_method="rk4") == [5]
        assert found(job=running[0]) == [1, 2, 3, 4, 5]
        assert found(job="no such job") == []
        assert found(minimum={"accuracy": 0.5}) == [4, 5]
        assert found(minimum={"accuracy": 0.2}, maximum={"accuracy": 0.9, "nfe": 1000}) == [5]
        assert found(maximum={"test_steps": 64}) == [1, 2, 3, 5]


@pytest.mark.parametrize("sort", ["colour", "", "-", "--nfe", "dataset_kind", "id; DROP TABLE result"])
def test_only_listed_columns_can_be_sorted_by(store: Store, sort: str) -> None:
    with store.reading() as tx, pytest.raises(InvalidSort, match="use one of created_at, model"):
        tx.results.list(sort=sort)


def test_only_listed_columns_have_a_range(store: Store) -> None:
    with store.reading() as tx:
        with pytest.raises(InvalidSort, match="no range"):
            tx.results.list(minimum={"model": 1})
        with pytest.raises(InvalidSort, match="no range"):
            tx.results.list(maximum={"colour": 1})


def test_a_cursor_belongs_to_its_sort(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        tx.results.add(*running, [row(), row()])
        page = tx.results.list(sort="nfe", limit=1)
        for other in ("-nfe", "accuracy", "-created_at"):
            with pytest.raises(InvalidCursor):
                tx.results.list(sort=other, after=page.next_cursor)


@pytest.mark.parametrize("name", SORTABLE)
def test_every_sort_pages_through_every_row_once(store: Store, running: Running, name: str) -> None:
    with store.transaction() as tx:
        tx.results.add(
            *running,
            [
                row(
                    model=f"m{n % 3}",
                    version=n % 2 + 1,
                    accuracy=None if n % 4 == 0 else n / 20,
                    flip_rate=None,
                    nfe=float(n % 5),
                    test_steps=None if n % 3 == 0 else 2**n,
                    samples=10 + n % 2,
                    failures=n % 3,
                )
                for n in range(12)
            ],
        )
        everything = {each.id for each in tx.results.list(limit=100).items}
        for sort in (name, f"-{name}"):
            whole = [each.id for each in tx.results.list(sort=sort, limit=100).items]
            assert len(whole) == 12
            assert set(whole) == everything
            for limit in (1, 5):
                assert [each.id for each in all_pages(tx, limit, sort=sort)] == whole


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1, max_size=12),
    st.integers(1, 5),
    st.booleans(),
)
def test_pages_are_sorted_with_nulls_last_and_ties_by_age(
    store: Store, accuracies: list[float | None], limit: int, descending: bool
) -> None:
    with store.transaction() as tx:
        job_id = tx.jobs.submit("sweep", {}).id
        assert tx.jobs.claim(job_id, "w", 30) is not None
        tx.results.add(job_id, 1, [row(accuracy=each) for each in accuracies])
        sort = "-accuracy" if descending else "accuracy"
        found = all_pages(tx, limit, sort=sort, job=job_id)

    sign = -1 if descending else 1
    ages = {each.id: age for age, each in enumerate(sorted(found, key=lambda each: each.id))}
    expected = sorted(
        found, key=lambda each: (each.accuracy is None, sign * (each.accuracy or 0), sign * ages[each.id])
    )
    assert found == expected
    assert sorted(accuracies, key=repr) == sorted((each.accuracy for each in found), key=repr)
