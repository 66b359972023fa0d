"""What the pictures of the phase plane are put together from."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.charts.figure import Row
from api.charts.phase_plane import around, around_most, clipped, line_across, within

SQUARE = {"x": [-1.0, 1.0], "y": [-1.0, 1.0]}
EDGE = 1.1  # up to here lines are kept
COORDINATES = st.floats(-1e4, 1e4, width=32)


def line(*points: tuple[float | None, float | None]) -> list[Row]:
    return [{"x": x, "y": y} for x, y in points]


def test_a_line_within_the_plane_stays_as_it_is() -> None:
    points = line((0.0, 0.0), (0.5, 0.5), (-0.9, 0.9))

    assert list(clipped(points, SQUARE)) == [point | {"part": 1} for point in points]


def test_a_line_that_leaves_and_comes_back_has_two_parts() -> None:
    kept = list(clipped(line((0, 0), (11, 0), (11, 0.5), (0, 0.5)), SQUARE))

    assert [(round(row["x"], 9), row["y"], row["part"]) for row in kept] == [
        (0, 0, 1),
        (EDGE, 0, 1),
        (EDGE, 0.5, 2),
        (0, 0.5, 2),
    ]


def test_a_line_across_the_plane_between_two_points_outside_is_kept() -> None:
    kept = list(clipped(line((-50, 0), (50, 0)), SQUARE))

    assert [row["x"] for row in kept] == pytest.approx([-EDGE, EDGE])


def test_a_missing_state_ends_a_part() -> None:
    kept = list(clipped(line((0, 0), (0.1, 0), (None, None), (0.3, 0), (0.4, 0)), SQUARE))

    assert [(row["x"], row["part"]) for row in kept] == [(0, 1), (0.1, 1), (0.3, 2), (0.4, 2)]


@given(points=st.lists(st.tuples(COORDINATES, COORDINATES), min_size=2, max_size=6))
def test_what_is_kept_lies_within_the_edges_and_on_the_line(points: list[tuple[float, float]]) -> None:
    kept = list(clipped(line(*points), SQUARE))

    for row in kept:
        assert abs(row["x"]) <= EDGE + 1e-9
        assert abs(row["y"]) <= EDGE + 1e-9
        distances = [_distance(row, a, b) for a, b in itertools.pairwise(points)]
        assert min(distances) < 1e-6
    inside = [point for point in points if max(map(abs, point)) <= 1]
    for x, y in inside:
        assert any(math.isclose(row["x"], x, abs_tol=1e-9) and math.isclose(row["y"], y, abs_tol=1e-9) for row in kept)


def _distance(row: Row, a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the distance of a point from a segment."""
    length = (b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2
    along = (row["x"] - a[0]) * (b[0] - a[0]) + (row["y"] - a[1]) * (b[1] - a[1])
    share = min(max(along / length, 0.0), 1.0) if length else 0.0
    return math.hypot(row["x"] - a[0] - share * (b[0] - a[0]), row["y"] - a[1] - share * (b[1] - a[1]))


@given(
    angle=st.floats(0, 2 * math.pi),
    offset=st.floats(-2, 2),
)
def test_a_decision_line_is_drawn_from_edge_to_edge_wherever_it_passes(angle: float, offset: float) -> None:
    normal = (math.cos(angle), math.sin(angle))

    ends = line_across({"normal": normal, "offset": offset}, SQUARE)

    # A line passes the square when the corners are on both sides of it.
    sides = [x * normal[0] + y * normal[1] + offset for x in (-1, 1) for y in (-1, 1)]
    if min(sides) < -1e-6 and max(sides) > 1e-6:
        assert len(ends) == 2
        for end in ends:
            assert abs(end["x"] * normal[0] + end["y"] * normal[1] + offset) < 1e-6
            assert max(abs(end["x"]), abs(end["y"])) == pytest.approx(1)
    elif min(sides) > 1e-6 or max(sides) < -1e-6:
        assert ends == []


def test_without_a_line_there_is_none_to_draw() -> None:
    assert line_across(None, SQUARE) == []


def test_a_far_point_is_left_beyond_the_edges_of_the_plane_around_the_others() -> None:
    near = line(*((x / 10, y / 10) for x in range(3) for y in range(3)))

    assert around_most([*near, *line((-222.0, -1951.0))]) == around(near)


@given(points=st.lists(st.tuples(st.floats(0.5, 1), st.floats(-1, 1)), min_size=1, max_size=20))
def test_the_plane_around_most_holds_most(points: list[tuple[float, float]]) -> None:
    rows = line(*points, (1e6, 0.0))

    assert len(within(rows, around_most(rows))) >= 0.7 * len(rows)


@given(points=st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=3))
def test_of_three_points_at_most_one_is_left_out(points: list[tuple[float, float]]) -> None:
    rows = line(*points)

    assert len(within(rows, around_most(rows))) >= len(rows) - 1


def test_points_at_similar_distances_are_all_shown() -> None:
    square = line((1, 1), (1, -1), (-1, 1), (-2, -2))

    assert around_most(square) == around(square)


def test_points_that_are_missing_or_outside_are_not_within() -> None:
    points = line((0, 0), (2, 0), (None, None), (1, 1))

    assert within(points, SQUARE) == line((0, 0), (1, 1))
