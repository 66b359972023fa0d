"""How well a straight line separates two sets of points in the plane."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ode_core.audit.crossings import FloatArray


@dataclass(frozen=True)
class Separation:
    """The direction in which the sets lie apart the furthest, or overlap the least.

    Attributes:
        gap: width of the empty strip between the sets, their distance; if no line separates them, minus the width of
            the strip in which they overlap.
        relative_margin: the gap over the largest norm of a point; 0 where all points are the origin.
        normal: unit vector across the strip, from the first set to the second.
        offset: the strip's middle line is ``normal . z + offset = 0``.
    """

    gap: float
    relative_margin: float
    normal: tuple[float, float]
    offset: float

    def to_json(self) -> dict[str, Any]:
        """Return the separation as JSON values."""
        return {
            "gap": self.gap,
            "relative_margin": self.relative_margin,
            "normal": list(self.normal),
            "offset": self.offset,
        }


def separate(first: FloatArray, second: FloatArray) -> Separation:
    """Return the best separation of two sets ``(n, 2)`` and ``(m, 2)`` of finite points.

    The gap in direction ``w`` is the least ``w . (b - a)``, so the best direction belongs to the difference of the two
    convex hulls: towards its nearest corner or across one of its sides.

    Raises:
        ValueError: a set is empty.
    """
    if len(first) == 0 or len(second) == 0:
        raise ValueError("two sets of points are needed, each with at least one")
    unit = float(max(np.abs(first).max(), np.abs(second).max())) or 1.0  # products of large numbers would overflow
    first, second = first / unit, second / unit
    corners = convex_hull((convex_hull(second)[:, None] - convex_hull(first)[None]).reshape(-1, 2))
    sides = np.roll(corners, -1, axis=0) - corners
    across = np.stack([-sides[:, 1], sides[:, 0]], axis=1)
    directions = np.concatenate([corners, across, -across, [[1.0, 0.0]]])
    lengths = np.hypot(directions[:, 0], directions[:, 1])
    directions = directions[lengths > 0] / lengths[lengths > 0, None]
    gaps = (directions @ corners.T).min(axis=1)
    normal = directions[int(gaps.argmax())]
    low, high = (first @ normal).max(), (second @ normal).min()
    gap = float(high - low)
    size = float(np.hypot(*np.concatenate([first, second]).T).max())
    return Separation(
        gap=gap * unit,
        relative_margin=gap / size if size > 0 else 0.0,
        normal=(float(normal[0]), float(normal[1])),
        offset=-float(low + high) / 2 * unit,
    )


def convex_hull(points: FloatArray) -> FloatArray:
    """Return the corners of the convex hull of ``(n, 2)`` points, counter-clockwise (Andrew's monotone chain)."""
    ordered = np.unique(points, axis=0)
    if len(ordered) <= 2:
        return ordered

    def chain(rows: FloatArray) -> list[FloatArray]:
        kept: list[FloatArray] = []
        for point in rows:
            while len(kept) >= 2 and _turn(kept[-2], kept[-1], point) <= 0:
                kept.pop()
            kept.append(point)
        return kept[:-1]

    return np.array([*chain(ordered), *chain(ordered[::-1])])


def _turn(a: FloatArray, b: FloatArray, c: FloatArray) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
