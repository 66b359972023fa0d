"""Continuous extensions of Runge-Kutta methods: the solution between the two ends of a step.

Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.6.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Row = tuple[Fraction, ...]


@dataclass(frozen=True)
class Interpolant:
    """A polynomial through a step, made of the slopes of its stages.

    ``z(t + theta h) = z + h sum_i k_i sum_j weights[i][j] theta^(j+1)`` for ``theta`` in ``[0, 1]``. The tableau
    it belongs to holds it against the continuous order conditions, as they need the stages.

    Attributes:
        order: the conditions of all rooted trees up to it hold for every ``theta``, so that the error within
            a step is ``O(h^(order + 1))``.
        weights: for each stage, the further ones included, the coefficients of ``theta``, ``theta^2``, ...
        extra: rows of ``a`` for further stages, which only the interpolant needs; row ``i`` of them has as many
            weights as there are stages before it.
        coefficient_error: what an order condition may miss, for coefficients published as decimals.

    Raises:
        ValueError: the rows of ``weights`` differ in length.
    """

    order: int
    weights: tuple[Row, ...]
    extra: tuple[Row, ...] = ()
    coefficient_error: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        if len({len(row) for row in self.weights}) != 1:
            raise ValueError("every stage has a weight for each power of theta")

    @property
    def degree(self) -> int:
        """Degree of the polynomial in ``theta``."""
        return len(self.weights[0])


def weights_from_corrections(b: Row, corrections: Sequence[Row]) -> tuple[Row, ...]:
    """Return the weights of the cubic Hermite interpolant with Hairer's corrections of higher degree.

    The corrections are multiplied by ``theta^2 (1-theta)^2``, ``theta^3 (1-theta)^2``,
    ``theta^3 (1-theta)^3``, ...: they leave both ends and their slopes as they are.

    Args:
        b: weights of a method whose last stage is the first of the next step.
        corrections: rows of weights, one for each stage, the further ones included.

    Source: Hairer, Norsett, Wanner I, II.6; the programs DOPRI5 and DOP853 in its appendix.
    """
    stages = len(corrections[0])
    end = (*b, *[Fraction(0)] * (stages - len(b)))
    first = [Fraction(i == 0) for i in range(stages)]
    last = [Fraction(i == len(b) - 1) for i in range(stages)]
    factors = [
        end,
        [k - e for k, e in zip(first, end, strict=True)],
        [2 * e - k0 - k1 for e, k0, k1 in zip(end, first, last, strict=True)],
        *corrections,
    ]
    degree = len(factors)
    bases = [_basis((n + 2) // 2, (n + 1) // 2, degree) for n in range(degree)]
    return tuple(
        tuple(sum((f[i] * p[j] for f, p in zip(factors, bases, strict=True)), Fraction(0)) for j in range(degree))
        for i in range(stages)
    )


def _basis(power: int, rest: int, degree: int) -> list[int]:
    """Return the coefficients of ``theta, ..., theta^degree`` in ``theta^power (1 - theta)^rest``."""
    coefficients = [0] * degree
    for k in range(rest + 1):
        coefficients[power + k - 1] = (-1) ** k * math.comb(rest, k)
    return coefficients
