import math
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from store.errors import LeaseLost
from store.metrics import CHUNK_POINTS, SeriesSummary, thin
from store.tables import metric_chunk
from store.unit_of_work import Store

Running = tuple[str, int]
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)


@pytest.fixture
def successor(store: Store) -> Running:
    with store.transaction() as tx:
        job = tx.jobs.submit("training", {})
        claimed = tx.jobs.claim(job.id, "another worker", 30)
    assert claimed is not None
    return job.id, claimed.attempt


def curve(first: int, last: int) -> list[tuple[int, float]]:
    return [(step, 1 / (1 + step)) for step in range(first, last + 1)]


def chunks(store: Store, job_id: str) -> int:
    with store.engine.connect() as connection:
        return connection.execute(
            select(func.count()).select_from(metric_chunk).where(metric_chunk.c.job_id == job_id)
        ).scalar_one()


def test_points_come_back_as_they_were_written(store: Store, running: Running) -> None:
    loss, accuracy = curve(1, 3), [(2, 0.1), (4, 1e-300)]
    with store.transaction() as tx:
        tx.metrics.append(*running, {"loss": loss, "accuracy": accuracy, "empty": []})
    with store.reading() as tx:
        assert tx.metrics.read(running[0]) == {"accuracy": accuracy, "loss": loss}
        assert tx.metrics.read(running[0], name="loss") == {"loss": loss}
        assert tx.metrics.read(running[0], name="none") == {}
        assert tx.metrics.read("no such job") == {}


def test_points_are_packed_in_chunks(store: Store, running: Running) -> None:
    points = curve(1, 1234)
    for start in range(0, len(points), 7):
        with store.transaction() as tx:
            tx.metrics.append(*running, {"loss": points[start : start + 7]})

    assert chunks(store, running[0]) == math.ceil(len(points) / CHUNK_POINTS)
    with store.reading() as tx:
        assert tx.metrics.read(running[0]) == {"loss": points}


def test_one_append_may_fill_many_chunks(store: Store, running: Running) -> None:
    points = curve(1, 2 * CHUNK_POINTS + 1)
    with store.transaction() as tx:
        tx.metrics.append(*running, {"loss": points[:1]})
        tx.metrics.append(*running, {"loss": points[1:]})

    assert chunks(store, running[0]) == 3
    with store.reading() as tx:
        assert tx.metrics.read(running[0]) == {"loss": points}


@pytest.mark.parametrize("again", [[(3, 0.0)], [(2, 0.0)], [(4, 0.0), (4, 0.0)], [(5, 0.0), (4, 0.0)]])
def test_steps_only_grow(store: Store, running: Running, again: list[tuple[int, float]]) -> None:
    with store.transaction() as tx:
        tx.metrics.append(*running, {"loss": curve(1, 3)})
    with pytest.raises(ValueError, match=r"'loss': step \d does not come after step"), store.transaction() as tx:
        tx.metrics.append(*running, {"accuracy": [(9, 1.0)], "loss": again})
    with store.reading() as tx:
        assert tx.metrics.read(running[0]) == {"loss": curve(1, 3)}


def test_after_a_resume_the_series_goes_on_without_gap_or_duplicate(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        tx.metrics.append(*running, {"loss": curve(1, 1300), "late": [(1250, 1.0)]})
    with store.transaction() as tx:
        tx.metrics.truncate_after(*running, 1200)
        tx.metrics.append(*running, {"loss": curve(1201, 1400)})
    with store.reading() as tx:
        assert tx.metrics.read(running[0]) == {"loss": curve(1, 1400)}
        assert tx.metrics.latest(running[0]) == {"loss": SeriesSummary(1400, 0, 1400, 1 / 1401, 1 / 1401, 1 / 2)}


def test_truncating_to_the_beginning_removes_the_series(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        tx.metrics.append(*running, {"loss": curve(1, 600)})
        tx.metrics.truncate_after(*running, 0)
        assert tx.metrics.latest(running[0]) == {}
        tx.metrics.append(*running, {"loss": curve(1, 2)})
        assert tx.metrics.read(running[0]) == {"loss": curve(1, 2)}


@pytest.mark.parametrize("step", [0, 1, 499, 500, 501, 1200])
def test_a_successor_takes_over_the_series_up_to_a_step_and_goes_on(
    store: Store, running: Running, successor: Running, step: int
) -> None:
    with store.transaction() as tx:
        tx.metrics.append(*running, {"loss": curve(1, 1200), "late": [(1250, math.nan)]})
        tx.metrics.append(*successor, {"loss": [(7, 9.0)], "of an attempt before": [(7, 9.0)]})
    for _ in range(2):  # the answer to the first may have been lost
        with store.transaction() as tx:
            tx.metrics.take_over(*successor, running[0], step)
    with store.transaction() as tx:
        tx.metrics.append(*successor, {"loss": curve(step + 1, 1300)})

    with store.reading() as tx:
        assert tx.metrics.read(successor[0]) == {"loss": curve(1, 1300)}
        assert tx.metrics.latest(successor[0]) == {"loss": SeriesSummary(1300, 0, 1300, 1 / 1301, 1 / 1301, 1 / 2)}
        assert tx.metrics.read(running[0]) == {"loss": curve(1, 1200), "late": [(1250, None)]}


def test_a_stale_attempt_takes_over_nothing(store: Store, running: Running, successor: Running) -> None:
    with store.transaction() as tx:
        tx.metrics.append(*running, {"loss": curve(1, 3)})
    with pytest.raises(LeaseLost), store.transaction() as tx:
        tx.metrics.take_over(successor[0], successor[1] + 1, running[0], 3)
    with store.reading() as tx:
        assert tx.metrics.read(successor[0]) == {}


def test_non_finite_values_are_kept_counted_and_read_as_none(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        tx.metrics.append(*running, {"loss": [(1, 0.5), (2, math.inf), (3, -2.0), (4, math.nan)]})
    with store.reading() as tx:
        assert tx.metrics.read(running[0]) == {"loss": [(1, 0.5), (2, None), (3, -2.0), (4, None)]}
        assert tx.metrics.latest(running[0]) == {"loss": SeriesSummary(4, 2, 4, None, -2.0, 0.5)}
    with store.engine.connect() as connection:
        stored = connection.execute(select(metric_chunk.c.packed_values)).scalar_one()
    assert [str(value) for value in struct.unpack("<4d", stored)] == ["0.5", "inf", "-2.0", "nan"]


def test_only_points_after_a_step_are_read(store: Store, running: Running) -> None:
    with store.transaction() as tx:
        tx.metrics.append(*running, {"loss": curve(1, 1200)})
    with store.reading() as tx:
        for after in (0, 1, 499, 500, 501, 1199, 1200, 5000):
            assert tx.metrics.read(running[0], after_step=after)["loss"] == curve(after + 1, 1200)


def test_a_thinned_series_keeps_its_spikes(store: Store, running: Running) -> None:
    points = [(step, 0.5) for step in range(1, 3001)]
    points[1234], points[2222], points[777] = (1235, 100.0), (2223, -100.0), (778, math.nan)
    with store.transaction() as tx:
        tx.metrics.append(*running, {"loss": points})
    with store.reading() as tx:
        thinned = tx.metrics.read(running[0], max_points=50)["loss"]

    assert len(thinned) <= 50
    assert {(1, 0.5), (1235, 100.0), (2223, -100.0), (778, None), (3000, 0.5)} <= set(thinned)


def test_max_points_has_a_least_value(store: Store) -> None:
    with store.reading() as tx, pytest.raises(ValueError, match="at least 2"):
        tx.metrics.read("any", max_points=1)


values = st.floats(allow_nan=True, allow_infinity=True)


@given(
    st.dictionaries(st.integers(-(2**40), 2**40), values, min_size=1, max_size=300),
    st.integers(2, 60),
    st.integers(0, 50),
)
def test_thinning_keeps_ends_extremes_and_order(points: dict[int, float], most: int, slack: int) -> None:
    series = sorted(points.items())
    thinned = thin(iter(series), len(series) + slack, most)

    assert len(thinned) <= most or len(series) <= len(thinned) <= most
    assert [step for step, _ in thinned] == sorted({step for step, _ in thinned})
    assert all(struct.pack("<d", points[step]) == struct.pack("<d", value) for step, value in thinned)
    assert thinned[0][0] == series[0][0]
    assert thinned[-1][0] == series[-1][0]
    finite = [value for _, value in series if math.isfinite(value)]
    if finite and most >= 5:
        kept = [value for _, value in thinned if math.isfinite(value)]
        assert (min(kept), max(kept)) == (min(finite), max(finite))
    if len(finite) < len(series) and most >= 5:
        assert any(not math.isfinite(value) for _, value in thinned)


@SHARED
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.lists(values, max_size=60).map(lambda some: some * 12)),
            st.tuples(st.just("truncate"), st.integers(0, 2000)),
        ),
        max_size=8,
    )
)
def test_whatever_is_appended_and_truncated_is_what_is_read(
    store: Store, operations: list[tuple[str, list[float] | int]]
) -> None:
    """The store against a list in memory."""
    with store.transaction() as tx:
        job_id = tx.jobs.submit("training", {}).id
        tx.jobs.claim(job_id, "w", 30)
    expected: list[tuple[int, float]] = []
    for _, argument in operations:
        with store.transaction() as tx:
            if isinstance(argument, list):
                first = expected[-1][0] + 1 if expected else 0
                new = [(first + 2 * offset, value) for offset, value in enumerate(argument)]
                tx.metrics.append(job_id, 1, {"m": new})
                expected += new
            else:
                tx.metrics.truncate_after(job_id, 1, argument)
                expected = [point for point in expected if point[0] <= argument]

    with store.reading() as tx:
        read = tx.metrics.read(job_id).get("m", [])
        latest = tx.metrics.latest(job_id).get("m")
    assert read == [(step, value if math.isfinite(value) else None) for step, value in expected]
    finite = [value for _, value in expected if math.isfinite(value)]
    if not expected:
        assert latest is None
    else:
        assert latest == SeriesSummary(
            points=len(expected),
            non_finite=len(expected) - len(finite),
            last_step=expected[-1][0],
            last_value=expected[-1][1] if math.isfinite(expected[-1][1]) else None,
            minimum=min(finite, default=None),
            maximum=max(finite, default=None),
        )
