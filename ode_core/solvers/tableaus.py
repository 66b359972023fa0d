"""What a Butcher tableau is, and the algebra by which each checks itself when it is made.

Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.2 for the order conditions,
II.6 for those of an interpolant. The tableaus are in ``ode_core.solvers.explicit_methods``.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property

from ode_core.solvers.interpolants import Interpolant, Row

Tree = tuple["Tree", ...]  # a rooted tree is the multiset of the subtrees at its root


@dataclass(frozen=True, eq=False)  # each is made once; by its fractions a hash takes up to half a millisecond
class ButcherTableau:
    """An explicit Runge-Kutta method in exact fractions; decimals count as the fractions they are.

    Attributes:
        order: stated order of ``b``; the conditions of all rooted trees up to it must hold.
        a: strictly lower triangular; row ``i`` has the ``i`` weights of stage ``i``.
        b: weights of the solution that is propagated.
        embedded: weights of the solution the error estimate compares with, or None.
        embedded_order: its stated order, or None.
        embedded_low: weights of a second embedded solution of lower order, or None. The two estimates ``E`` and
            ``E_low`` make the error ``|E|^2 / sqrt(|E|^2 + 0.01 |E_low|^2)``, as in DOP853.
        embedded_low_order: its stated order, or None.
        interpolant: the solution within a step; None stands for the cubic Hermite interpolant of both ends.
        coefficient_error: what an order condition may miss: 0, but for coefficients published as decimals.

    Raises:
        ValueError: a row has the wrong length, or an order condition fails.
    """

    order: int
    a: tuple[Row, ...]
    b: Row
    embedded: Row | None = None
    embedded_order: int | None = None
    embedded_low: Row | None = None
    embedded_low_order: int | None = None
    interpolant: Interpolant | None = None
    coefficient_error: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        further = () if self.interpolant is None else self.interpolant.extra
        rows = (*self.a, *further)
        self._require_rows(rows)
        elementary = _ElementaryWeights(rows)
        _require_order(self, elementary, self.b, self.order)
        for weights, order in (
            (self.embedded, self.embedded_order),
            (self.embedded_low, self.embedded_low_order),
        ):
            if (weights is None) != (order is None):
                raise ValueError("embedded weights and their order belong together")
            if weights is not None and order is not None:
                _require_order(self, elementary, weights, order)
        if self.embedded is None and self.embedded_low is not None:
            raise ValueError("a second embedded solution needs a first")
        if self.interpolant is not None:
            _require_continuous_order(elementary, self.b, self.interpolant)

    def _require_rows(self, rows: Sequence[Row]) -> None:
        if any(len(row) != i for i, row in enumerate(rows)):
            raise ValueError("row i of an explicit tableau has i entries")

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
        return _difference(self.b, self.embedded)

    @cached_property
    def error_low(self) -> Row | None:
        """Weights of the second error estimate, ``b`` minus ``embedded_low``, or None."""
        return None if self.embedded_low is None else _difference(self.b, self.embedded_low)

    @property
    def error_order(self) -> int:
        """Power of ``h`` that the error estimate of a step falls with; the step control takes its root.

        Raises:
            ValueError: there is no error estimate.
        """
        if self.embedded_order is None:
            raise ValueError("this method has no embedded solution")
        power = min(self.order, self.embedded_order) + 1
        if self.embedded_low_order is None:
            return power
        return 2 * power - (self.embedded_low_order + 1)  # |E|^2 / |E_low|: at short steps E_low is far the larger

    @cached_property
    def first_same_as_last(self) -> bool:
        """Whether the last stage is the first of the next step; read off the coefficients."""
        at_end = abs(self.c[-1] - 1) <= self.coefficient_error
        return self.stages > 1 and at_end and (*self.a[-1], Fraction(0)) == self.b

    @property
    def grid_rows(self) -> tuple[Row, ...]:
        """Rows of ``a`` of the stages that a step on a grid evaluates.

        A last stage that is the first of the next step has no weight in ``b``; it is left out, as the next step
        evaluates it anyway and the last step has no use for it.
        """
        return self.a[:-1] if self.first_same_as_last else self.a

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


def row(*entries: str) -> Row:
    """Return a row of a tableau as it is published: fractions such as ``1/3``, or decimals."""
    return tuple(Fraction(entry) for entry in entries)


def _dot(weights: Row, values: Sequence[Fraction]) -> Fraction:
    """Return the sum of products; values beyond the weights do not count (rows of ``a`` end at the diagonal)."""
    return sum((w * x for w, x in zip(weights, values, strict=False) if w), Fraction(0))


def _difference(first: Row, second: Row) -> Row:
    return tuple(x - y for x, y in zip(first, second, strict=True))


def _require_order(tableau: ButcherTableau, elementary: "_ElementaryWeights", weights: Row, order: int) -> None:
    if len(weights) != tableau.stages:
        raise ValueError("one weight for each stage")
    for tree in rooted_trees(order):
        value = _dot(weights, elementary(tree))
        if abs(value - Fraction(1, _density(tree))) > tableau.coefficient_error:
            raise ValueError(f"order condition of the tree {tree} fails: {value} instead of 1/{_density(tree)}")


def _require_continuous_order(elementary: "_ElementaryWeights", b: Row, interpolant: Interpolant) -> None:
    """Raise unless the interpolant ends in ``b`` and is of its order for every ``theta``: power by power."""
    weights, allowed = interpolant.weights, interpolant.coefficient_error
    if len(weights) != elementary.stages:
        raise ValueError("an interpolant has one row of weights for each stage")
    for row_, at_end in zip(weights, (*b, *[Fraction(0)] * len(interpolant.extra)), strict=True):
        if abs(sum(row_) - at_end) > allowed:
            raise ValueError(f"the interpolant does not end in b: {sum(row_)} instead of {at_end}")
    columns = list(zip(*weights, strict=True))
    for tree in rooted_trees(interpolant.order):
        for power, column in enumerate(columns, start=1):
            expected = Fraction(power == _nodes(tree), _density(tree))
            if abs(_dot(column, elementary(tree)) - expected) > allowed:
                raise ValueError(f"continuous order condition of the tree {tree} fails at theta^{power}")


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


class _ElementaryWeights:
    """For a tree, each stage's product over the root's subtrees of their weights seen through ``a``.

    What is seen of a subtree is kept, as it comes back in many larger trees.
    """

    def __init__(self, a: tuple[Row, ...]) -> None:
        self.stages = len(a)
        self._a = a
        self._seen: dict[Tree, Row] = {}

    def __call__(self, tree: Tree) -> Row:
        product = (Fraction(1),) * self.stages
        for child in tree:
            product = tuple(x * y for x, y in zip(product, self._through(child), strict=True))
        return product

    def _through(self, tree: Tree) -> Row:
        if tree not in self._seen:
            inner = self(tree)
            self._seen[tree] = tuple(_dot(row_, inner) for row_ in self._a)
        return self._seen[tree]
