"""What a solve tells of its steps while it runs, for those who compute a gradient from them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AcceptedStep:
    """One accepted step of some samples. Nobody changes the tensors afterwards.

    Attributes:
        z: ``(n, *state)``, the states before the step.
        samples: ``(n,)`` which samples of the batch; like all that follows None on a uniform grid, where every
            sample takes every step.
        t: ``(n,)`` the time before the step, in float64.
        length: ``(n,)`` its length with the sign of the direction.
        end: ``(n,)`` the time after it, exactly an output time or the end where the step lands on one.
    """

    z: Tensor
    samples: Tensor | None = None
    t: Tensor | None = None
    length: Tensor | None = None
    end: Tensor | None = None


Record = Callable[[AcceptedStep], None]
