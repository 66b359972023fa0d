"""A field with a known effect: a coarse step of Euler's method makes the corners of a square separable."""

import torch
from torch import Tensor, nn


def growing_ellipses(t: Tensor, z: Tensor) -> Tensor:
    """``z' = [[a, 1], [-g |z|^d, b]] z``: ellipses that grow, run through ever faster; ``z`` is ``(batch, 2)``."""
    a, b, g, d = 0.09, 0.16, 9.3, 1.39
    x, y = z[:, 0], z[:, 1]
    return torch.stack([a * x + y, -g * z.norm(dim=1) ** d * x + b * y], dim=1)


class GrowingEllipses(nn.Module):
    """The same as a model's field."""

    def for_states(self, state_shape: tuple[int, ...]) -> "GrowingEllipses":
        return self

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return growing_ellipses(t, z)
