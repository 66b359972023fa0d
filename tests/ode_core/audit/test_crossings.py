"""Crossings against polylines whose crossings are known, and against rational arithmetic."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ode_core.audit.crossings import cross_properly, crossings_within_steps, orientation

Point = tuple[float, float]


def polylines(*lines: list[Point]) -> np.ndarray:
    """Return polylines of equally many points as ``(points, lines, 2)``."""
    return np.array(lines, dtype=np.float64).swapaxes(0, 1)


def test_two_diagonals_cross_in_the_middle() -> None:
    found = crossings_within_steps(polylines([(0, 0), (2, 2)], [(0, 2), (2, 0)]))

    assert found.steps.tolist() == [0]
    assert found.samples.tolist() == [[0, 1]]
    assert found.points.tolist() == [[1.0, 1.0]]


def test_only_segments_of_the_same_step_count() -> None:
    # The second runs over the first one's path, one step later.
    first = [(0.0, 0.0), (2.0, 2.0), (10.0, 2.0)]
    second = [(0.0, 5.0), (0.0, 2.0), (2.0, 0.0)]

    assert len(crossings_within_steps(polylines(first, second))) == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([(0, 0), (2, 2)], [(1, 1), (2, 0)]),  # one ends on the other
        ([(0, 0), (2, 2)], [(2, 2), (3, 0)]),  # ends meet
        ([(0, 0), (2, 2)], [(1, 1), (3, 3)]),  # on one line, overlapping
        ([(0, 0), (2, 2)], [(0, 0), (2, 2)]),  # the same
        ([(0, 0), (2, 2)], [(0, 1), (2, 3)]),  # parallel
        ([(1, 1), (1, 1)], [(0, 0), (2, 2)]),  # a point that stays, on the other's way
        ([(0, 0), (1, 1)], [(0, 3), (3, 0)]),  # would cross if it were longer
        ([(0, 0), (2, 2)], [(0, 2), (np.nan, 0)]),  # a state that is not a number
        ([(0, 0), (2, 2)], [(0, 2), (np.inf, -np.inf)]),
    ],
)
def test_what_only_touches_overlaps_or_is_not_finite_does_not_cross(first: list[Point], second: list[Point]) -> None:
    assert len(crossings_within_steps(polylines(first, second))) == 0


def test_crossings_are_listed_by_step_with_the_samples_that_cross() -> None:
    up, down, away = [(0, 0), (2, 2), (4, 0)], [(0, 2), (2, 0), (4, 2)], [(0, 9), (2, 9), (4, 9)]

    found = crossings_within_steps(polylines(away, up, down))

    assert found.steps.tolist() == [0, 1]
    assert found.samples.tolist() == [[1, 2], [1, 2]]
    assert found.points.tolist() == [[1.0, 1.0], [3.0, 1.0]]


def test_more_pairs_than_are_looked_at_in_one_go_are_all_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    angles = np.linspace(0.1, 3.0, 9)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    states = np.stack([rays, -rays, rays, -rays])
    monkeypatch.setattr("ode_core.audit.crossings._PAIRS_AT_ONCE", 50)

    found = crossings_within_steps(states)

    # All diameters cross in the centre, in each of the three steps.
    assert len(found) == 3 * 36
    np.testing.assert_allclose(found.points, 0, atol=1e-15)


def test_a_step_beyond_the_fixed_point_makes_all_trajectories_cross_there_and_a_shorter_one_none() -> None:
    # Euler's method for z' = -z: one step leads to (1 - h) z.
    starts = np.array([(1.0, 0.5), (-0.3, 1.0), (0.4, -0.9), (-1.0, -1.0)])

    def euler(step: float, steps: int) -> np.ndarray:
        return np.stack([(1 - step) ** k * starts for k in range(steps + 1)])

    assert len(crossings_within_steps(euler(1.5, 2))) == 2 * 6
    assert len(crossings_within_steps(euler(0.5, 6))) == 0


# Against rational arithmetic

COORDINATES = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(-1e3, 1e3, width=32),
    st.tuples(st.integers(-3, 3), st.integers(-2, 2)).map(lambda pair: pair[0] + pair[1] * 2.0**-50),
    st.floats(allow_nan=False, allow_infinity=False),
)
POINTS = st.tuples(COORDINATES, COORDINATES)


def cross_by_solving(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Solve ``a + s (b - a) = c + t (d - c)`` in rational numbers; a proper crossing has 0 < s, t < 1."""
    ax, ay, bx, by, cx, cy, dx, dy = (Fraction(value) for point in (a, b, c, d) for value in point)
    determinant = (bx - ax) * -(dy - cy) + (dx - cx) * (by - ay)
    if determinant == 0:
        return False
    s = ((cx - ax) * -(dy - cy) + (dx - cx) * (cy - ay)) / determinant
    t = ((bx - ax) * (cy - ay) - (by - ay) * (cx - ax)) / determinant
    return 0 < s < 1 and 0 < t < 1


@given(a=POINTS, b=POINTS, c=POINTS, d=POINTS)
def test_the_test_for_a_crossing_is_exact(a: Point, b: Point, c: Point, d: Point) -> None:
    found = cross_properly(*(np.array([point]) for point in (a, b, c, d)))

    assert bool(found[0]) == cross_by_solving(a, b, c, d)


@given(points=st.lists(POINTS, min_size=3, max_size=3))
def test_orientation_changes_its_sign_with_every_exchange_of_two_points(points: list[Point]) -> None:
    a, b, c = (np.array([point]) for point in points)
    sign = orientation(a, b, c)[0]

    assert [orientation(*order)[0] for order in ((b, c, a), (b, a, c), (a, c, b))] == [sign, -sign, -sign]


@given(states=st.lists(st.lists(POINTS, min_size=3, max_size=3), min_size=2, max_size=4))
def test_all_pairs_of_all_steps_are_looked_at(states: list[list[Point]]) -> None:
    found = crossings_within_steps(np.array(states))

    expected = [
        (step, i, j)
        for step in range(len(states) - 1)
        for i, j in itertools.combinations(range(3), 2)
        if cross_by_solving(states[step][i], states[step + 1][i], states[step][j], states[step + 1][j])
    ]
    assert [(int(step), *pair) for step, pair in zip(found.steps, found.samples.tolist(), strict=True)] == expected
