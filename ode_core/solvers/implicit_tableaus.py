"""Butcher tableaus of the diagonally implicit Runge-Kutta methods. Each checks itself when it is made.

Sources: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.7; Hairer, Wanner, Solving Ordinary
Differential Equations II, IV.3 and IV.6; Kvaerno, Singly diagonally implicit Runge-Kutta methods with an explicit
first stage, BIT 44, 2004, for 3(2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from ode_core.solvers.interpolants import Row
from ode_core.solvers.tableaus import ButcherTableau
from ode_core.specs.methods import MethodName


@dataclass(frozen=True)
class DiagonallyImplicitTableau(ButcherTableau):
    """A Runge-Kutta method whose stages depend on themselves and on those before, each with the same weight or none.

    Attributes:
        a: lower triangular; row ``i`` has ``i + 1`` entries, the last of them on the diagonal.

    Raises:
        ValueError: a row has the wrong length, the diagonal is neither 0 nor one positive number, or an order
            condition fails.
    """

    def _require_rows(self, rows: Sequence[Row]) -> None:
        if any(len(row) != i + 1 for i, row in enumerate(rows)):
            raise ValueError("row i of a diagonally implicit tableau has i + 1 entries")
        diagonal = {row[-1] for row in rows}
        if len(diagonal - {0}) != 1 or min(diagonal) < 0:
            raise ValueError("the diagonal has one positive number, and zeros for explicit stages")

    @property
    def gamma(self) -> Fraction:
        """The diagonal element of the implicit stages."""
        return max(row[-1] for row in self.a)

    @property
    def implicit(self) -> tuple[bool, ...]:
        """Which stages depend on themselves."""
        return tuple(row[-1] != 0 for row in self.a)

    @cached_property
    def first_same_as_last(self) -> bool:
        """Whether the first stage is explicit and is the last one of the step before."""
        return not self.implicit[0] and self.a[-1] == self.b and self.c[-1] == 1

    @cached_property
    def stability_function(self) -> tuple[Row, Row]:
        """Coefficients of numerator and denominator of ``R(z)``, constants first.

        Source: Hairer, Wanner II, IV.3: the denominator is ``(1 - gamma z)^s`` over the ``s`` implicit stages, and
        the numerator is of degree ``stages`` at most. So it is the product of the denominator with
        ``R(z) = 1 + sum_j z^j b A^(j-1) 1``, cut off there.
        """
        denominator: Row = (Fraction(1),)
        for _ in range(sum(self.implicit)):
            denominator = _product(denominator, (Fraction(1), -self.gamma))
        # The property of the explicit methods holds the first terms of the series.
        numerator = _product(denominator, self.stability_polynomial)[: self.stages + 1]
        return _without_zeros(numerator, self.coefficient_error), denominator


def _product(first: Sequence[Fraction], second: Sequence[Fraction]) -> Row:
    result = [Fraction(0)] * (len(first) + len(second) - 1)
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            result[i + j] += x * y
    return tuple(result)


def _without_zeros(coefficients: Row, rounding: Fraction) -> Row:
    """Return a polynomial without the highest powers whose coefficients are 0 up to ``rounding``."""
    while len(coefficients) > 1 and abs(coefficients[-1]) <= rounding:
        coefficients = coefficients[:-1]
    return coefficients


def _kvaerno3() -> DiagonallyImplicitTableau:
    """Return Kvaerno's 3(2): L-stable; the last stage is the new state, the one before it the embedded solution.

    With stages at 0, ``2 gamma``, 1 and 1 the conditions of order 2 determine the third row, and those of order 3
    but one determine the fourth. The last of them, which also makes ``R`` vanish at infinity, holds where ``gamma``
    is a root of ``x^3 - 3 x^2 + 3/2 x - 1/6``; of its three roots only this one gives an A-stable method.
    """
    gamma = Fraction("0.43586652150845899941601945119355684252929409")
    a32 = (1 - 2 * gamma) / (4 * gamma)
    b2 = 1 / (12 * gamma * (1 - 2 * gamma))
    b3 = Fraction(1, 2) - gamma - 2 * gamma * b2
    third = (1 - a32 - gamma, a32, gamma)
    b = (1 - b2 - b3 - gamma, b2, b3, gamma)
    return DiagonallyImplicitTableau(
        3,
        a=((Fraction(0),), (gamma, gamma), third, b),
        b=b,
        embedded=(*third, Fraction(0)),
        embedded_order=2,
        coefficient_error=Fraction(1, 10**39),  # gamma has 44 decimals
    )


_HALF = Fraction(1, 2)

IMPLICIT_TABLEAUS: dict[MethodName, DiagonallyImplicitTableau] = {
    "implicit_midpoint": DiagonallyImplicitTableau(2, a=((_HALF,),), b=(Fraction(1),)),
    "trapezoid": DiagonallyImplicitTableau(2, a=((Fraction(0),), (_HALF, _HALF)), b=(_HALF, _HALF)),
    "kvaerno3": _kvaerno3(),
}
