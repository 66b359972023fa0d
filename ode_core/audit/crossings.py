"""Where discrete trajectories in the plane cross.

Through each point of an autonomous field goes one orbit, so two orbits are the same or have no point in common. A
numerical solution joins its states by straight lines. Where the lines of two samples cross, neither follows an orbit.

Counted are segments of the same step, and proper crossings only: the two open segments have exactly one point in
common. Touching ends and segments on one line are no crossings. The straight lines have a share in it: between points
of exact orbits that are far apart they cross, too, which the same count over exact points tells. The test is exact: the
sign of a determinant is taken from floating point where its error bound allows, else from rational arithmetic.

Source of the error bound: Shewchuk, Adaptive Precision Floating-Point Arithmetic, 1997 (the filter of ``orient2d``).
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
SignArray = npt.NDArray[np.int8]

_ROUNDING = 2.0**-53
_DETERMINANT_ERROR = (3 + 16 * _ROUNDING) * _ROUNDING
_UNDERFLOW = 1e-280  # below this the bound, which knows no underflow, proves nothing
_PAIRS_AT_ONCE = 500_000


@dataclass(frozen=True)
class Crossings:
    """Crossings of trajectories, in the order of their steps.

    Attributes:
        steps: ``(crossings,)``, the step, from 0.
        samples: ``(crossings, 2)``, the two samples, the smaller number first.
        points: ``(crossings, 2)``, where they cross, to rounding.
    """

    steps: IntArray
    samples: IntArray
    points: FloatArray

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.steps)


def crossings_within_steps(states: FloatArray) -> Crossings:
    """Return where the segments of two samples cross that belong to the same step.

    Args:
        states: ``(steps + 1, samples, 2)``; segments with an end that is not finite cross nothing.
    """
    steps, samples = len(states) - 1, states.shape[1]
    first, second = np.triu_indices(samples, 1)
    at_once = max(1, _PAIRS_AT_ONCE // max(1, len(first)))
    empty = np.zeros(0, dtype=np.int64)
    found: list[tuple[IntArray, IntArray]] = [(empty, empty)]
    for start in range(0, steps, at_once):
        block = states[start : min(start + at_once, steps) + 1]
        k, pair = np.nonzero(_boxes_overlap(block, first, second))
        found.append(((k + start) * samples + first[pair], (k + start) * samples + second[pair]))
    return _among(states, *(np.concatenate(part) for part in zip(*found, strict=True)))


def cross_properly(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> npt.NDArray[np.bool_]:
    """Return ``(n,)`` of bool: whether the open segments ``ab`` and ``cd``, ends ``(n, 2)``, cross in one point."""
    apart = orientation(a, b, c) * orientation(a, b, d) < 0
    result = np.zeros(len(a), dtype=np.bool_)
    some = np.nonzero(apart)[0]
    result[some] = orientation(c[some], d[some], a[some]) * orientation(c[some], d[some], b[some]) < 0
    return result


def orientation(a: FloatArray, b: FloatArray, c: FloatArray) -> SignArray:
    """Return ``(n,)`` exact signs of the area of the triangles ``abc``, corners ``(n, 2)``: 1 counter-clockwise."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        left = (a[:, 0] - c[:, 0]) * (b[:, 1] - c[:, 1])
        right = (a[:, 1] - c[:, 1]) * (b[:, 0] - c[:, 0])
        determinant = left - right
        certain = np.abs(determinant) > _DETERMINANT_ERROR * (np.abs(left) + np.abs(right)) + _UNDERFLOW
        certain &= np.isfinite(determinant)
    signs = np.where(certain, np.sign(determinant), 0).astype(np.int8)
    for i in np.nonzero(~certain)[0]:
        signs[i] = _exact_orientation(a[i], b[i], c[i])
    return signs


def _exact_orientation(a: FloatArray, b: FloatArray, c: FloatArray) -> int:
    (ax, ay), (bx, by), (cx, cy) = ([Fraction(float(value)) for value in point] for point in (a, b, c))
    determinant = (ax - cx) * (by - cy) - (ay - cy) * (bx - cx)
    return (determinant > 0) - (determinant < 0)


def _boxes(states: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the corners of the segments' boxes, ``(steps, samples, 2)``; NaN where an end is not finite."""
    finite = np.isfinite(states).all(axis=2, keepdims=True)
    states = np.where(finite, states, np.nan)
    return np.minimum(states[:-1], states[1:]), np.maximum(states[:-1], states[1:])


def _boxes_overlap(states: FloatArray, first: IntArray, second: IntArray) -> npt.NDArray[np.bool_]:
    low, high = _boxes(states)
    return np.asarray((low[:, first] <= high[:, second]).all(axis=2) & (low[:, second] <= high[:, first]).all(axis=2))


def _among(states: FloatArray, first: IntArray, second: IntArray) -> Crossings:
    """Return which of the pairs of segments cross; a segment's number is ``step * samples + sample``."""
    samples = states.shape[1]
    starts, ends = states[:-1].reshape(-1, 2), states[1:].reshape(-1, 2)
    a, b, c, d = starts[first], ends[first], starts[second], ends[second]
    cross = cross_properly(a, b, c, d)
    first, second = first[cross], second[cross]
    return Crossings(
        steps=first // samples,
        samples=np.stack([first % samples, second % samples], axis=1),
        points=_meeting_points(starts[first], ends[first], starts[second], ends[second]),
    )


def _meeting_points(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> FloatArray:
    """Return where the lines meet, kept within both boxes, which rounding might leave."""
    along, other, between = b - a, d - c, c - a
    with np.errstate(all="ignore"):
        share = _cross(between, other) / _cross(along, other)
        # Two segments that are nearly on one line: any common point of their boxes is as good.
        points = a + np.clip(np.nan_to_num(share, nan=0.5), 0.0, 1.0)[:, None] * along
    low = np.maximum(np.minimum(a, b), np.minimum(c, d))
    high = np.minimum(np.maximum(a, b), np.maximum(c, d))
    return np.asarray(np.clip(points, low, high))


def _cross(u: FloatArray, v: FloatArray) -> FloatArray:
    return np.asarray(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
