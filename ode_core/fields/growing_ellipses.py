"""The field of Lady Windermere's fan: growing ellipses at increasing speed, in closed form.

Source: Ott et al., ResNet After All, ICLR 2021.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ode_core.solvers.functional_field import FunctionalField
from ode_core.specs.model import GrowingEllipsesField


class GrowingEllipses(nn.Module):
    """``z' = [[a, 1], [-g |z|^d, b]] z`` for states ``(batch, 2)``: a field without weights.

    Attributes:
        before_evaluation: called before every evaluation; see ``VectorField``.
    """

    before_evaluation: Callable[[], None] | None = None

    def __init__(self, spec: GrowingEllipsesField) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt``, of the shape and type of ``z``."""
        if self.before_evaluation is not None:
            self.before_evaluation()
        return _evaluate(self.spec, (), t, z)

    def for_states(self, state_shape: Sequence[int]) -> "GrowingEllipses":
        """Return the field itself: there is nothing to prepare."""
        return self

    def functional(self) -> FunctionalField:
        """Return the field as a function of no tensors; fields with the same constants share it."""
        key = ("growing ellipses", *self.spec.model_dump().values())
        return FunctionalField(partial(_evaluate, self.spec), (), key, self.before_evaluation, by_sample=True)


def _evaluate(spec: GrowingEllipsesField, tensors: tuple[Tensor, ...], t: Tensor, z: Tensor) -> Tensor:
    x, y = z.unbind(dim=1)
    # Not (x^2 + y^2)^(d/2): its derivative at the origin, which is a point of XOR, would not be a number.
    speed = spec.g * torch.linalg.vector_norm(z, dim=1) ** spec.d
    return torch.stack([spec.a * x + y, spec.b * y - speed * x], dim=1)
