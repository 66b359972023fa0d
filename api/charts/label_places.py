"""Where labels beside marks stand, so that they cover as little as can be."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

GAP = 13.0  # from a mark's middle to its label
_HEIGHT, _CHARACTER = 17.0, 6.7  # of a line of bold text at 13 pixels
# Beside the mark first, and left of it: where less cost is left and more agreement above, nothing else is there.
_SIDES, _OFFSETS = (-1, 1), (0.0, -17.0, 16.0, -32.0, 31.0)
_BEYOND_EDGE = 100.0  # as many ordinary marks


@dataclass(frozen=True)
class Box:
    """A part of a panel, in pixels from its upper left corner, and how much it matters that it is not covered."""

    left: float
    top: float
    right: float
    bottom: float
    weight: float = 1.0

    def meets(self, other: "Box") -> bool:
        """Return whether they have a part in common."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def around(x: float, y: float, radius: float, weight: float = 1.0) -> Box:
    """Return the box around a mark."""
    return Box(x - radius, y - radius, x + radius, y + radius, weight)


@dataclass(frozen=True)
class Place:
    """Where a label stands: ``side`` -1 for left of its mark, 1 for right; ``dy`` pixels below its middle."""

    side: int
    dy: float


def label_places(
    labels: Sequence[tuple[str, float, float]], obstacles: Sequence[Box], width: float, height: float
) -> list[Place]:
    """Choose a place for each label, one after the other.

    Args:
        labels: texts, each with the pixel of its mark.
        obstacles: what is better not covered.
        width: of the panel.
        height: of the panel.
    """
    panel, taken, places = Box(0.0, -_HEIGHT / 2, width, height), list(obstacles), []
    for text, x, y in labels:

        def cost(place: Place, text: str = text, x: float = x, y: float = y) -> float:
            box = _box(text, x, y, place)
            inside = panel.left <= box.left and box.right <= panel.right and panel.top <= box.top <= panel.bottom
            covered = sum(one.weight for one in taken if one.meets(box))
            return covered + (0.0 if inside else _BEYOND_EDGE)

        best = min(itertools.starmap(Place, itertools.product(_SIDES, _OFFSETS)), key=cost)
        places.append(best)
        taken.append(_box(text, x, y, best))
    return places


def _box(text: str, x: float, y: float, place: Place) -> Box:
    near = x + place.side * GAP
    far = near + place.side * _CHARACTER * len(text)
    middle = y + place.dy
    return Box(min(near, far), middle - _HEIGHT / 2, max(near, far), middle + _HEIGHT / 2, weight=20.0)
