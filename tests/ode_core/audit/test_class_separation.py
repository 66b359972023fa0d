"""How far two sets of points are apart, against turning a line around in small steps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ode_core.audit.class_separation import convex_hull, separate
from ode_core.solvers.solve import solve
from ode_core.specs import SolverSpec
from tests.ode_core.audit.growing_ellipses import growing_ellipses

POINTS = st.lists(st.tuples(st.floats(-10, 10, width=32), st.floats(-10, 10, width=32)), min_size=1, max_size=8).map(
    lambda points: np.array(points, dtype=np.float64)
)


def gaps_by_turning(first: np.ndarray, second: np.ndarray, directions: int = 2000) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, directions, endpoint=False)
    normals = np.stack([np.cos(angles), np.sin(angles)])
    return np.asarray((second @ normals).min(axis=0) - (first @ normals).max(axis=0))


def test_two_squares_are_as_far_apart_as_their_sides() -> None:
    square = np.array([(0, 0), (1, 0), (0, 1), (1, 1)], dtype=np.float64)

    apart = separate(square, square + np.array([3, 0.2]))

    assert apart.gap == pytest.approx(2)
    assert apart.normal == pytest.approx((1, 0))
    assert apart.offset == pytest.approx(-2)  # the middle line is x = 2
    assert apart.relative_margin == pytest.approx(2 / math.hypot(4, 1.2))


def test_overlapping_squares_have_a_negative_gap() -> None:
    square = np.array([(0, 0), (1, 0), (0, 1), (1, 1)], dtype=np.float64)

    assert separate(square, square + np.array([0.25, 0.5])).gap == pytest.approx(-0.5)


def test_corners_face_each_other_along_their_connection() -> None:
    apart = separate(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]))

    assert apart.gap == pytest.approx(5)
    assert apart.normal == pytest.approx((0.6, 0.8))


def test_equal_sets_of_one_point_have_no_gap() -> None:
    assert separate(np.zeros((1, 2)), np.zeros((2, 2))).relative_margin == 0


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        separate(np.zeros((0, 2)), np.zeros((1, 2)))


@given(first=POINTS, second=POINTS)
def test_no_direction_has_a_larger_gap_and_some_direction_has_nearly_this_one(
    first: np.ndarray, second: np.ndarray
) -> None:
    apart = separate(first, second)

    gaps = gaps_by_turning(first, second)
    # From one of the directions to the next a projection moves by at most the points' distances times the angle.
    slack = 30 * 2 * np.pi / len(gaps)
    assert gaps.max() <= apart.gap + 1e-6
    assert gaps.max() >= apart.gap - slack


@given(points=POINTS)
def test_all_points_are_on_the_inner_side_of_the_hull(points: np.ndarray) -> None:
    hull = convex_hull(points)

    for a, b in zip(hull, np.roll(hull, -1, axis=0), strict=True):
        side = (b[0] - a[0]) * (points[:, 1] - a[1]) - (b[1] - a[1]) * (points[:, 0] - a[0])
        assert side.min() >= -1e-9 * 400


@pytest.mark.parametrize(
    ("solver", "margin"),
    [
        (SolverSpec(method="euler", step_size=10**-2.5), 0.42),
        (SolverSpec(method="euler", step_size=10**-3.5), -0.32),
        (SolverSpec(method="rk4", steps=2000), -0.38),
    ],
    ids=lambda value: value.label if isinstance(value, SolverSpec) else "",
)
def test_the_corners_of_a_square_become_separable_by_a_coarse_step_alone(solver: SolverSpec, margin: float) -> None:
    corners = torch.tensor([[0, 0], [1, 1], [0, 1], [1, 0]], dtype=torch.float64)
    ends = solve(growing_ellipses, corners, solver, t1=4.0).final.numpy()

    # Margins of an independent computation, to two digits.
    assert separate(ends[:2], ends[2:]).relative_margin == pytest.approx(margin, abs=0.005)
