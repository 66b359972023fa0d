"""Linear systems known only by products with their matrix, one for each sample, by GMRES.

Source: Saad, Schultz, GMRES, SIAM J. Sci. Stat. Comput. 7, 1986; Saad, Iterative Methods for Sparse Linear Systems,
2003, algorithms 6.9 and 6.11 and section 6.5.3 (the rotations).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# A restart forgets what the directions before it had learnt, and every direction takes the memory of one state.
DIRECTIONS = 30
RESTARTS = 5


@dataclass(frozen=True)
class KrylovResult:
    """What GMRES found.

    Attributes:
        solution: ``(batch, n)``.
        products: ``(batch,)``, products with the matrix that each sample needed.
        left: ``(batch, n)``, what is left of the right side.
        residual: ``(batch,)`` in float64, its norm relative to that of the right side.
        stopped: ``(batch,)`` of bool, samples that would have gone on with a larger allowance.
    """

    solution: Tensor
    products: Tensor
    left: Tensor
    residual: Tensor
    stopped: Tensor


@torch.no_grad()
def gmres(
    multiply: Callable[[Tensor], Tensor],
    right: Tensor,
    *,
    tolerance: float,
    wanted: Tensor,
    allowance: Tensor | None = None,
    directions: int = DIRECTIONS,
) -> KrylovResult:
    """Solve ``A x = right`` for each sample by itself.

    A sample that is done, or was never wanted, gets no further direction, so its solution does not depend on how
    many its batch mates need.

    Args:
        multiply: from ``(batch, n)`` to the products with each sample's own matrix, ``(batch, n)``.
        right: ``(batch, n)``.
        tolerance: a sample is done when its residual is at most this share of its right side.
        wanted: ``(batch,)`` of bool, the samples to solve.
        allowance: ``(batch,)``, products a sample may take, or None.
        directions: between restarts.
    """
    solver = _Gmres(multiply, right, tolerance, wanted, allowance, directions)
    for _ in range(RESTARTS):
        if not solver.sweep():
            break
    return KrylovResult(solver.solution, solver.products, solver.left, solver.relative_residual(), solver.stopped)


class _Gmres:
    """The state between restarts."""

    def __init__(
        self,
        multiply: Callable[[Tensor], Tensor],
        right: Tensor,
        tolerance: float,
        wanted: Tensor,
        allowance: Tensor | None,
        directions: int,
    ) -> None:
        self.multiply, self.wanted, self.allowance = multiply, wanted, allowance
        self.solution = torch.zeros_like(right)
        self.products = torch.zeros_like(wanted, dtype=torch.int64)
        self.stopped = torch.zeros_like(wanted)
        self._right, self.left = right, right
        self._size = _norm(right)
        self._target = tolerance * self._size
        self._columns = min(directions, right.shape[1])

    def relative_residual(self) -> Tensor:
        """Return ``(batch,)``: the norm of what is left relative to the right side; 0 where that is 0."""
        return torch.where(self._size > 0, _norm(self.left) / self._size, 0.0).double()

    def sweep(self) -> bool:
        """Do the directions between two restarts; return False when there was nothing to do."""
        going = self._affordable(self.wanted & (_norm(self.left) > self._target))
        if not bool(going.any()):
            return False
        basis, triangle, coordinates, used = self._directions(going)
        weights = _back_substitution(triangle, coordinates, used)
        step = (basis * weights.unsqueeze(2)).sum(dim=1)
        self.solution = torch.where(going.unsqueeze(1), self.solution + step, self.solution)
        # Not by the rotations, whose estimate drifts away from what is left by round-off.
        left = self._right - self.multiply(self.solution)
        self.products += going
        self.left = torch.where(going.unsqueeze(1), left, self.left)
        return True

    def _affordable(self, going: Tensor) -> Tensor:
        if self.allowance is None:
            return going
        # One product is kept for what is left in the end.
        poor = going & (self.products + 1 >= self.allowance)
        self.stopped = self.stopped | poor
        return going & ~poor

    def _directions(self, going: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        """Return the basis ``(batch, m, n)``, the triangle ``(batch, m, m)`` and the rotated right side ``(batch, m)``.

        Last, how many columns any sample uses. Columns a sample has no use for are those of the identity, with 0 on
        the right.
        """
        batch, n = self.left.shape
        m = self._columns
        basis = self.left.new_zeros(batch, m, n)
        triangle = torch.eye(m, dtype=basis.dtype, device=basis.device).repeat(batch, 1, 1)
        coordinates, cosines, sines = (basis.new_zeros(batch, m) for _ in range(3))
        rest, size = self.left, _norm(self.left)
        residual = size
        used = 0
        for j in range(m):
            used = j + 1
            basis[:, j] = rest / _or_one(size).unsqueeze(1) * going.unsqueeze(1)
            product = self.multiply(basis[:, j])
            self.products += going
            column, rest = orthogonalised(product, basis[:, : j + 1])
            size = _norm(rest)
            _rotate(column, cosines, sines)
            length = torch.hypot(column[:, j], size)
            cosines[:, j], sines[:, j] = column[:, j] / _or_one(length), size / _or_one(length)
            column[:, j] = length
            triangle[:, : j + 1, j] = torch.where(going.unsqueeze(1), column, triangle[:, : j + 1, j])
            coordinates[:, j] = torch.where(going, cosines[:, j] * residual, 0.0)
            residual = -sines[:, j] * residual
            # False also where a product was not a number; the NaN is in the solution then.
            going = self._affordable(going & (residual.abs() > self._target))
            if not bool(going.any()):
                break
        return basis, triangle, coordinates, used


def _norm(values: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values, dim=1)
    return norm


def _or_one(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1.0)


def orthogonalised(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coordinates ``(batch, j)`` of a vector in a basis ``(batch, j, n)``, and the rest of it.

    Twice: after one pass of Gram and Schmidt round-off leaves a part in the span.
    """
    coordinates = (basis * vector.unsqueeze(1)).sum(dim=2)
    rest = vector - (basis * coordinates.unsqueeze(2)).sum(dim=1)
    correction = (basis * rest.unsqueeze(1)).sum(dim=2)
    return coordinates + correction, rest - (basis * correction.unsqueeze(2)).sum(dim=1)


def _rotate(column: Tensor, cosines: Tensor, sines: Tensor) -> None:
    """Apply the rotations that made the columns before triangular to a new one, ``(batch, j + 1)``, in place."""
    for i in range(column.shape[1] - 1):
        upper, lower = column[:, i].clone(), column[:, i + 1].clone()
        column[:, i] = cosines[:, i] * upper + sines[:, i] * lower
        column[:, i + 1] = cosines[:, i] * lower - sines[:, i] * upper


def _back_substitution(triangle: Tensor, right: Tensor, used: int) -> Tensor:
    """Solve upper triangular systems ``(batch, m, m)``, which are the identity from column ``used`` on.

    Operation by operation alike for every sample, whatever the others use.
    """
    solution = torch.zeros_like(right)
    for i in reversed(range(used)):
        known = (triangle[:, i] * solution).sum(dim=1)
        solution[:, i] = (right[:, i] - known) / triangle[:, i, i]
    return solution
