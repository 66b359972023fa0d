"""The solution within a step as a polynomial of the share of the step."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ode_core.solvers.tableaus import ButcherTableau


class StepPolynomial(Protocol):
    """Makes the coefficients ``c_j`` of ``z(t + s h) = z(t) + c_1 s + c_2 s^2 + ...`` for ``s`` in ``[0, 1]``."""

    @property
    def needs_end_slope(self) -> bool:
        """Whether the field at the end of the step enters."""
        ...

    def coefficients(
        self, h: Tensor | float, z: Tensor, slopes: Sequence[Tensor], z_new: Tensor, slope_new: Tensor
    ) -> list[Tensor]:
        """Return the coefficients, each of the shape of ``z``.

        Args:
            h: signed length of the step, a number or broadcast against ``z``.
            z: ``(batch, *state)``, the state before it.
            slopes: of its stages, the interpolant's extra ones included.
            z_new: the state after it.
            slope_new: the field there; anything where it is not needed.
        """
        ...


class HermiteCubic:
    """The cubic through both ends with their slopes. Source: Hairer, Norsett, Wanner I, II.6, equation 6.7."""

    needs_end_slope = True

    def coefficients(
        self, h: Tensor | float, z: Tensor, slopes: Sequence[Tensor], z_new: Tensor, slope_new: Tensor
    ) -> list[Tensor]:
        """Return the three coefficients."""
        rise, start, end = z_new - z, h * slopes[0], h * slope_new
        return [start, 3 * rise - 2 * start - end, start + end - 2 * rise]


class ContinuousExtension:
    """The interpolant of a tableau that has one of its own."""

    def __init__(self, tableau: ButcherTableau) -> None:
        assert tableau.interpolant is not None
        # The last slope of a method whose last stage is the next first one is the field at the end.
        self.needs_end_slope = False
        self._powers = [[float(w) for w in power] for power in zip(*tableau.interpolant.weights, strict=True)]

    def coefficients(
        self, h: Tensor | float, z: Tensor, slopes: Sequence[Tensor], z_new: Tensor, slope_new: Tensor
    ) -> list[Tensor]:
        """Return as many coefficients as the interpolant has powers."""
        return [h * combine(slopes, weights) for weights in self._powers]


def step_polynomial(tableau: ButcherTableau) -> StepPolynomial:
    """Return a method's polynomial: its own where it has one, or the cubic Hermite one."""
    return HermiteCubic() if tableau.interpolant is None else ContinuousExtension(tableau)


def evaluate_polynomial(z: Tensor, coefficients: Sequence[Tensor], s: Tensor) -> Tensor:
    """Return ``z + s (c_1 + s (c_2 + ...))``; ``s`` is broadcast against ``z``."""
    total = coefficients[-1]
    for c in [*reversed(coefficients[:-1]), z]:
        total = torch.addcmul(c, s, total)
    return total


def combine(slopes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the sum of slopes times weights, zeros left out; slopes beyond the weights do not count."""
    total: Tensor | None = None
    for k, w in zip(slopes, weights, strict=False):
        if w != 0.0:
            total = k * w if total is None else torch.add(total, k, alpha=w)
    assert total is not None
    return total
