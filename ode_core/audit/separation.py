"""How far two classes of points of the plane are from being separable by a line."""

import torch
from torch import Tensor


@torch.no_grad()
def relative_margin(points: Tensor, labels: Tensor) -> float:
    """Return the gap between two classes along the direction in which it is widest, relative to the farthest point.

    Projected onto a direction, the classes have a gap (positive) or overlap (negative). The widest over all
    directions is positive exactly when a line separates the classes; it is then the width of the widest street between
    them, and else minus the shortest way by which one class must be moved until a line can touch both. Divided by the
    largest norm of the points, it does not depend on their unit.

    Exact: the gap is the least of ``u . (p - q)`` over all pairs of points of the two classes, so over unit vectors
    ``u`` it is widest towards a vertex or across an edge of the hull of those differences.

    Args:
        points: ``(n, 2)``, final states for instance; not all at the origin.
        labels: ``(n,)``, of two values. Takes memory and time with the fourth power of ``n``: for tens of points.

    Raises:
        ValueError: other shapes, or not two classes.
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(labels) != len(points):
        raise ValueError(f"points must have shape (n, 2) and labels (n,), not {list(points.shape)}")
    classes: Tensor = torch.unique(labels)
    if len(classes) != 2:
        raise ValueError(f"the labels must be of two classes, not {len(classes)}")
    points = points.double()
    one, other = points[labels == classes[0]], points[labels == classes[1]]
    differences = (one[:, None, :] - other[None, :, :]).reshape(-1, 2)
    first, second = torch.combinations(torch.arange(len(differences))).unbind(dim=1)
    edges = differences[first] - differences[second]
    across = torch.stack([-edges[:, 1], edges[:, 0]], dim=1)
    directions = torch.cat([differences, across])
    lengths = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    directions = (directions / lengths)[lengths.squeeze(1) > 0]
    directions = torch.cat([directions, -directions])
    gap = (differences @ directions.T).min(dim=0).values.max()
    return float(gap / torch.linalg.vector_norm(points, dim=1).max())
