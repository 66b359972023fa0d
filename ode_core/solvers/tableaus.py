"""Butcher tableaus of the explicit Runge-Kutta methods. Each checks itself when it is made.

Sources: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, chapters II.1, II.4
and II.5; Fehlberg 1969 (NASA TR R-315) for 2(1); Bogacki & Shampine 1989; Dormand & Prince 1980.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property

from ode_core.specs.methods import MethodName

Row = tuple[Fraction, ...]
Tree = tuple["Tree", ...]  # a rooted tree is the multiset of the subtrees at its root


@dataclass(frozen=True)
class ButcherTableau:
    """An explicit Runge-Kutta method in exact fractions.

    Attributes:
        order: stated order of ``b``; the conditions of all rooted trees up to it must hold.
        a: strictly lower triangular; row ``i`` has the ``i`` weights of stage ``i``.
        b: weights of the solution that is propagated.
        embedded: weights of the solution the error estimate compares with, or None.
        embedded_order: its stated order, or None.

    Raises:
        ValueError: a row has the wrong length, or an order condition fails.
    """

    order: int
    a: tuple[Row, ...]
    b: Row
    embedded: Row | None = None
    embedded_order: int | None = None

    def __post_init__(self) -> None:
        self._require_rows()
        require_order(self, self.b, self.order)
        if (self.embedded is None) != (self.embedded_order is None):
            raise ValueError("embedded weights and their order belong together")
        if self.embedded is not None and self.embedded_order is not None:
            require_order(self, self.embedded, self.embedded_order)

    def _require_rows(self) -> None:
        if any(len(row) != i for i, row in enumerate(self.a)):
            raise ValueError("row i of an explicit tableau has i entries")

    @property
    def rounding(self) -> Fraction:
        """What an order condition may be off by: nothing, as the coefficients are exact."""
        return Fraction(0)

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.b)

    @cached_property
    def c(self) -> Row:
        """Times of the stages within the step: the row sums of ``a``."""
        return tuple(sum(row, Fraction(0)) for row in self.a)

    @cached_property
    def error(self) -> Row:
        """Weights of the error estimate, ``b`` minus the embedded weights; only with an embedded solution."""
        if self.embedded is None:
            raise ValueError("this method has no embedded solution")
        return tuple(b - e for b, e in zip(self.b, self.embedded, strict=True))

    @cached_property
    def first_same_as_last(self) -> bool:
        """Whether the last stage is the first of the next step; read off the coefficients."""
        return self.stages > 1 and (*self.a[-1], Fraction(0)) == self.b and self.c[-1] == 1

    @cached_property
    def stability_polynomial(self) -> Row:
        """Coefficients of ``R(z)``, constant first: one step of ``y' = lambda y`` multiplies by ``R(h lambda)``.

        Source: Hairer, Wanner, Solving Ordinary Differential Equations II, IV.2: ``R(z) = 1 + sum_j z^j b A^(j-1) 1``.
        """
        coefficients, power = [Fraction(1)], [Fraction(1)] * self.stages
        for _ in range(self.stages):
            coefficients.append(_dot(self.b, power))
            power = [_dot(row, power) for row in self.a]
        return tuple(coefficients)


def _dot(weights: Row, values: Sequence[Fraction]) -> Fraction:
    """Return the sum of products; values beyond the weights do not count (rows of ``a`` end at the diagonal)."""
    return sum((w * x for w, x in zip(weights, values, strict=False)), Fraction(0))


def require_order(tableau: ButcherTableau, weights: Row, order: int) -> None:
    """Raise ``ValueError`` unless the conditions of all rooted trees up to ``order`` hold for ``weights``."""
    if len(weights) != tableau.stages:
        raise ValueError("one weight for each stage")
    for tree in rooted_trees(order):
        value = _dot(weights, _elementary_weights(tableau, tree))
        if abs(value - Fraction(1, _density(tree))) > tableau.rounding:
            raise ValueError(f"order condition of the tree {tree} fails: {value} instead of 1/{_density(tree)}")


@cache
def rooted_trees(order: int) -> tuple[Tree, ...]:
    """Return all rooted trees with at most ``order`` nodes (1, 2, 4, 8, 17, ... of them)."""
    return tuple(tree for size in range(1, order + 1) for tree in _trees_of_size(size))


@cache
def _trees_of_size(size: int) -> tuple[Tree, ...]:
    return tuple(sorted(set(_forests(size - 1))))


def _forests(size: int, largest: int | None = None) -> Iterator[Tree]:
    """Yield the multisets of trees with ``size`` nodes together, as sorted tuples."""
    if size == 0:
        yield ()
        return
    for first in range(min(size, largest or size), 0, -1):
        for tree, rest in itertools.product(_trees_of_size(first), list(_forests(size - first, first))):
            yield tuple(sorted((tree, *rest)))


def _nodes(tree: Tree) -> int:
    return 1 + sum(_nodes(child) for child in tree)


def _density(tree: Tree) -> int:
    return _nodes(tree) * math.prod(_density(child) for child in tree)


def _elementary_weights(tableau: ButcherTableau, tree: Tree) -> Row:
    """Return for each stage the product over the root's subtrees of their weights seen through ``a``."""
    product = [Fraction(1)] * tableau.stages
    for child in tree:
        inner = _elementary_weights(tableau, child)
        for i, row in enumerate(tableau.a):
            product[i] *= _dot(row, inner)
    return tuple(product)


def _row(*entries: str) -> Row:
    return tuple(Fraction(entry) for entry in entries)


TABLEAUS: dict[MethodName, ButcherTableau] = {
    "euler": ButcherTableau(1, a=(_row(),), b=_row("1")),
    "midpoint": ButcherTableau(2, a=(_row(), _row("1/2")), b=_row("0", "1")),
    "heun": ButcherTableau(2, a=(_row(), _row("1")), b=_row("1/2", "1/2")),
    "rk4": ButcherTableau(
        4,
        a=(_row(), _row("1/2"), _row("0", "1/2"), _row("0", "0", "1")),
        b=_row("1/6", "1/3", "1/3", "1/6"),
    ),
    "rk4_38": ButcherTableau(
        4,
        a=(_row(), _row("1/3"), _row("-1/3", "1"), _row("1", "-1", "1")),
        b=_row("1/8", "3/8", "3/8", "1/8"),
    ),
    "fehlberg2": ButcherTableau(
        2,
        a=(_row(), _row("1/2"), _row("1/256", "255/256")),
        b=_row("1/512", "255/256", "1/512"),
        embedded=_row("1/256", "255/256", "0"),
        embedded_order=1,
    ),
    "bosh3": ButcherTableau(
        3,
        a=(_row(), _row("1/2"), _row("0", "3/4"), _row("2/9", "1/3", "4/9")),
        b=_row("2/9", "1/3", "4/9", "0"),
        embedded=_row("7/24", "1/4", "1/3", "1/8"),
        embedded_order=2,
    ),
    "dopri5": ButcherTableau(
        5,
        a=(
            _row(),
            _row("1/5"),
            _row("3/40", "9/40"),
            _row("44/45", "-56/15", "32/9"),
            _row("19372/6561", "-25360/2187", "64448/6561", "-212/729"),
            _row("9017/3168", "-355/33", "46732/5247", "49/176", "-5103/18656"),
            _row("35/384", "0", "500/1113", "125/192", "-2187/6784", "11/84"),
        ),
        b=_row("35/384", "0", "500/1113", "125/192", "-2187/6784", "11/84", "0"),
        embedded=_row("5179/57600", "0", "7571/16695", "393/640", "-92097/339200", "187/2100", "1/40"),
        embedded_order=4,
    ),
}
