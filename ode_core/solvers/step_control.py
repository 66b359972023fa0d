"""From the error of a step to the length of the next, for each sample by itself."""

from dataclasses import dataclass

import torch
from torch import Tensor


def inverse_root(values: Tensor, order: int) -> Tensor:
    """Return ``values^(-1/order)`` for positive values.

    Not by ``pow``: its vectorised and its scalar code differ in the last bit, so that an element's result
    would depend on where in the batch it stands; ``exp`` and ``log`` agree.
    """
    return torch.exp(torch.log(values) / -order)


@dataclass(frozen=True)
class IntegralControl:
    """The elementary controller: ``h <- h clip(safety ratio^(-1/order), smallest, largest)``.

    The step does not shrink at an accept and does not grow at the first accept after a reject, so that
    it does not oscillate around the limit.

    Source: Hairer, Norsett, Wanner I, II.4.
    """

    order: int
    safety: float = 0.9  # aim a little below the tolerance: a rejected step costs as much as an accepted one
    smallest: float = 0.2
    largest: float = 10.0

    def factor(self, ratio: Tensor, accepted: Tensor, rejected_before: Tensor) -> Tensor:
        """Return the factor for the step length, ``(batch,)``.

        Args:
            ratio: ``(batch,)``, estimated error over tolerance; not finite counts as far too large.
            accepted: ``(batch,)`` of bool, whether this step was accepted.
            rejected_before: ``(batch,)`` of bool, whether the step before was rejected.
        """
        finite = torch.nan_to_num(ratio, nan=torch.inf, posinf=torch.inf)
        raw = self.safety * inverse_root(finite.clamp(min=1e-10), self.order)
        growing = raw.clamp(1.0, self.largest)
        growing = torch.where(rejected_before, 1.0, growing)
        return torch.where(accepted, growing, raw.clamp(self.smallest, 1.0))
