"""What a solve, an audit and a modified field need of the vector field in a model."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from ode_core.solvers.solution import Field


class ModelField(Protocol):
    """``f(t, z)`` as a part of a model; ``VectorField``, ``GrowingEllipses``, ``ForeignField`` and ``ModifiedField``.

    Attributes:
        before_evaluation: called before every evaluation, also of a prepared field; an exception it raises ends
            the solve. None: nothing is called.
    """

    before_evaluation: Callable[[], None] | None

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt``; ``t`` is 0-d or ``(batch, 1, ..., 1)``."""

    def for_states(self, state_shape: tuple[int, ...]) -> Field:
        """Return the field prepared for many calls with states of one shape; it holds until the weights change."""
