"""From the error of a step to the length of the next, for each sample by itself."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ode_core.solvers.solution import per_sample
from ode_core.specs.solver import ControllerName


def sample_rms(values: Tensor) -> Tensor:
    """Return the root mean square over each sample, ``(batch,)``; 0 for samples without numbers."""
    flat = per_sample(values)
    return flat.square().mean(dim=1).sqrt() if flat.shape[1] else flat.new_zeros(flat.shape[0])


@torch.no_grad()
def error_ratio(error: Tensor, z: Tensor, z_new: Tensor, rtol: float | Tensor, atol: float | Tensor) -> Tensor:
    """Return ``(batch,)`` in float64: the error estimate in units of what the tolerances allow.

    A step is good when it is at most 1; NaN where the estimate is not a number.
    """
    return sample_rms(error / _allowed(z, z_new, rtol, atol)).double()


def _allowed(z: Tensor, z_new: Tensor, rtol: float | Tensor, atol: float | Tensor) -> Tensor:
    # An atol below the smallest number of the state's type must not make 0/0 of a component that stays 0.
    smallest = torch.finfo(z.dtype).tiny
    return torch.maximum(z.abs(), z_new.abs()).mul(rtol).add(atol).clamp(min=smallest)


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
    return _rounded(torch.exp(torch.log(values) / -order))


def _rounded(values: Tensor) -> Tensor:
    return values.clamp(1e-37, 1e37).float().double()


class ErrorHistory(NamedTuple):
    """Error ratios of the last two accepted steps of each sample, ``(batch,)``; 1 before there were any."""

    last: Tensor
    before: Tensor

    @classmethod
    def none_yet(cls, like: Tensor) -> "ErrorHistory":
        """Return the history of a solve that begins; ``like`` is ``(batch,)`` in float64."""
        return cls(torch.ones_like(like), torch.ones_like(like))

    def after(self, ratio: Tensor, accepted: Tensor) -> "ErrorHistory":
        """Return the history with the accepted samples' ratios on top."""
        known = ratio.clamp(min=_SMALLEST_RATIO)
        return ErrorHistory(torch.where(accepted, known, self.last), torch.where(accepted, self.last, self.before))


_SMALLEST_RATIO = 1e-30

# Exponents of this, the last and the last but one accepted step's ratio, times the order.
_COEFFICIENTS: dict[ControllerName, tuple[float, float, float]] = {
    "i": (1.0, 0.0, 0.0),
    "pi": (0.6, -0.2, 0.0),
    "pid": (0.49, -0.34, 0.10),
}


@dataclass(frozen=True)
class StepControl:
    """Proposes ``h <- h clip(safety r_n^(-b1/k) r_(n-1)^(-b2/k) r_(n-2)^(-b3/k), smallest, largest)``.

    The ``r`` are error ratios of accepted steps and ``k`` is the order of the error estimate. ``i`` is the
    elementary controller (b = 1, 0, 0); ``pi`` and ``pid`` look back one and two steps, which smooths the steps
    where stability limits them. Rejected steps are always shortened by the elementary rule.

    The step does not shrink at an accept and does not grow at the first accept after a reject, so that it does
    not oscillate around the limit.

    Sources: Hairer, Norsett, Wanner I, II.4; Soederlind, Numerical Algorithms 31, 2002 (PI.4.2); Kennedy &
    Carpenter, Applied Numerical Mathematics 44, 2003 (PID).
    """

    order: int
    name: ControllerName = "i"
    safety: float = 0.9  # aim a little below the tolerance: a rejected step costs as much as an accepted one
    smallest: float = 0.2
    largest: float = 10.0

    def factor(self, ratio: Tensor, history: ErrorHistory, accepted: Tensor, rejected_before: Tensor) -> Tensor:
        """Return the factor for the step length, ``(batch,)``.

        Args:
            ratio: ``(batch,)``, estimated error over tolerance; not finite counts as far too large.
            history: the ratios of the accepted steps before.
            accepted: ``(batch,)`` of bool, whether this step was accepted.
            rejected_before: ``(batch,)`` of bool, whether the step before was rejected.
        """
        known = torch.where(ratio < torch.inf, ratio, torch.inf).clamp(min=_SMALLEST_RATIO)  # infinite for NaN
        elementary = self.safety * inverse_root(known, self.order)
        grown = elementary if self.name == "i" else self._with_memory(known, history)
        after_accept = torch.where(rejected_before, 1.0, grown.clamp(1.0, self.largest))
        return torch.where(accepted, after_accept, elementary.clamp(self.smallest, 1.0))

    def _with_memory(self, ratio: Tensor, history: ErrorHistory) -> Tensor:
        now, last, before = (-b / self.order for b in _COEFFICIENTS[self.name])
        exponent = now * torch.log(ratio) + last * torch.log(history.last)
        if before:
            exponent = exponent + before * torch.log(history.before)
        return self.safety * _rounded(torch.exp(exponent))
