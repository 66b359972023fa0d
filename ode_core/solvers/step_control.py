"""From the error of a step to the length of the next, for each sample by itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core.solvers.solution import per_sample


def sample_rms(values: Tensor) -> Tensor:
    """Return the root mean square over each sample, ``(batch,)``."""
    return per_sample(values).square().mean(dim=1).sqrt()


@torch.no_grad()
def error_ratio(error: Tensor, z: Tensor, z_new: Tensor, rtol: float, atol: float) -> Tensor:
    """Return ``(batch,)`` in float64: the error estimate in units of what the tolerances allow.

    A step is good when it is at most 1; NaN where the estimate is not a number.
    """
    # An atol below the smallest number of the state's type must not make 0/0 of a component that stays 0.
    smallest = torch.finfo(z.dtype).tiny
    allowed = torch.maximum(z.abs(), z_new.abs()).mul_(rtol).add_(atol).clamp_(min=smallest)
    return sample_rms(error / allowed).double()


def combined_ratio(ratio: Tensor, low: Tensor) -> Tensor:
    """Return ``ratio^2 / sqrt(ratio^2 + 0.01 low^2)``: two error estimates as one, ``(batch,)``.

    DOP853's, of which one falls with ``h^6`` and the lower with ``h^4``, make one that falls with ``h^8``. 0 where
    both are 0.

    Source: Hairer, Norsett, Wanner I, II.10.
    """
    # Scaled, as the squares would overflow where the ratios do not. Not by hypot, which like pow need not be rounded
    # alike everywhere in a batch.
    scale = torch.maximum(ratio, 0.1 * low)
    share, low_share = ratio / scale, 0.1 * low / scale
    combined = ratio * (share / torch.sqrt(share.square() + low_share.square()))
    return torch.where(scale == 0, 0.0, combined)


def inverse_root(values: Tensor, order: int) -> Tensor:
    """Return ``values^(-1/order)`` for positive values, in float64 rounded to float32's digits.

    Not by ``pow``, and rounded: vectorised and scalar code may differ in the last bit of a transcendental
    function (``pow`` does on x86), so that a sample's steps would depend on its place in the batch. A step
    length needs no more than seven digits.
    """
    return torch.exp(torch.log(values) / -order).clamp(1e-37, 1e37).float().double()


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
        known = torch.nan_to_num(ratio, nan=torch.inf, posinf=torch.inf)
        raw = self.safety * inverse_root(known.clamp(min=1e-30), self.order)
        after_accept = torch.where(rejected_before, 1.0, raw.clamp(1.0, self.largest))
        return torch.where(accepted, after_accept, raw.clamp(self.smallest, 1.0))
