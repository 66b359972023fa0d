"""The linear systems of Newton's iteration, ``I - s J`` with the field's Jacobian ``J``, for each sample by itself.

Samples are independent, so one product with a vector for every sample is one ``jvp`` of the field on the whole
batch, and ``n`` of them, with the unit vectors of the state, are the dense Jacobians of all samples.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeGuard

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from ode_core.solvers.krylov import gmres
from ode_core.solvers.solution import Field, SolveFailed, broadcast_to_state, finite_samples, is_plain, per_sample
from ode_core.specs.methods import DENSE_JACOBIAN

# Numbers in the states of a block of unit vectors: all at once would take n times the memory of an evaluation. Of
# images, whose convolutions unfold nine times the numbers in float64, a smaller block stays in the cache: with 28 x 28
# points and 16 channels a Jacobian took 0.15 to 0.2 s, with the larger one 0.55 s.
_NUMBERS_AT_ONCE, _OF_LARGE_STATES = 2**20, 2**14
_LARGE_STATE = 256

# What GMRES leaves of the right side in Newton's iteration, which then contracts by about this factor at best, with
# tolerances. It took 16 to 37 % more evaluations than 0.1 there (a convolution, a stiff reaction-diffusion equation).
# Grids go to round-off, and ask for more; see Newton's iteration.
FORCING = 0.01


# A derivative needs all its digits at once, for which restarts are useless where a system is stiff: a diffusion on 128
# points stagnates with 30 directions, and is solved with as many as it has points.
_DIRECTIONS_TO_ROUND_OFF = 200

# Roundings that a derivative may be off, relative to what comes in.
_ROUNDINGS = 1e3


class Solved(NamedTuple):
    """Solutions of linear systems, one a sample.

    Attributes:
        solution: in the state's shape.
        left: what is left of the right sides, in their shape; None where that is round-off.
        evaluations: ``(batch,)``, those that they took.
        stopped: ``(batch,)`` of bool, who lacked some.
    """

    solution: Tensor
    left: Tensor | None
    evaluations: Tensor
    stopped: Tensor


class Linearisation(Protocol):
    """``I - s J`` at a point, for each sample.

    Attributes:
        cost: evaluations of the field that a new point takes.
        follows: a new point costs nothing, so every iterate is one.
    """

    cost: int
    follows: bool

    def use_scale(self, scale: Tensor) -> None:
        """Use ``s``, ``(batch,)`` in the type of the state."""

    def renew(self, t: Tensor, z: Tensor, which: Tensor) -> None:
        """Take the Jacobians at ``(t, z)`` for some samples; the others keep theirs."""

    def solve(self, right: Tensor, which: Tensor, allowance: Tensor | None) -> Solved:
        """Return solutions for right sides of the state's shape; ``allowance`` is ``(batch,)``."""


def linearisation(field: Field, z: Tensor, forcing: float = FORCING) -> Linearisation:
    """Return the systems for states like ``z``: factorised up to ``DENSE_JACOBIAN`` numbers, by GMRES beyond.

    GMRES leaves ``forcing`` of a right side.
    """
    if math.prod(z.shape[1:]) <= DENSE_JACOBIAN:
        return DenseLinearisation(field, z)
    return KrylovLinearisation(field, z, forcing)


class FieldWithJacobian(Protocol):
    """A field that knows its derivative."""

    def jacobian(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``(batch, n, n)``, a row for each number of the result."""
        ...


def knows_jacobian(field: object) -> TypeGuard[FieldWithJacobian]:
    """Whether a field knows its derivative."""
    return hasattr(type(field), "jacobian")


def dense_jacobian(field: Field, t: Tensor, z: Tensor) -> Tensor:
    """Return ``(batch, n, n)``: the derivative of each sample's field, a row for each number of its result.

    A field that does not know it is called under ``torch.func``: it may not branch on values of the state, nor mix
    samples.
    """
    if knows_jacobian(field) and is_plain(z) and is_plain(t) and not torch.is_grad_enabled():
        return field.jacobian(t, z)
    batch, n = z.shape[0], math.prod(z.shape[1:])
    units = torch.eye(n, dtype=z.dtype, device=z.device).reshape(n, 1, *z.shape[1:]).expand(n, *z.shape)

    def product(v: Tensor) -> Tensor:
        return _jacobian_product(field, t, z, v)

    at_once = _OF_LARGE_STATES if n > _LARGE_STATE else _NUMBERS_AT_ONCE
    columns: Tensor = vmap(product, chunk_size=max(1, at_once // max(1, batch * n)))(units)
    return columns.reshape(n, batch, n).permute(1, 2, 0)


def _jacobian_product(field: Field, t: Tensor, z: Tensor, v: Tensor) -> Tensor:
    tangent: Tensor = jvp(lambda state: field(t, state), (z,), (v,))[1]
    return tangent


class DenseLinearisation:
    """Jacobians and the factors of ``I - s J``; both are kept until there are new ones."""

    follows = False

    def __init__(self, field: Field, z: Tensor) -> None:
        self.field = field
        self.cost = math.prod(z.shape[1:])
        self._jacobian = z.new_zeros(z.shape[0], self.cost, self.cost)
        self._scale = z.new_zeros(z.shape[0])
        self._factors: tuple[Tensor, Tensor] | None = None

    def use_scale(self, scale: Tensor) -> None:
        """Use ``s``; the factors are made anew when one is asked for."""
        if scale is not self._scale:
            self._scale, self._factors = scale, None

    def renew(self, t: Tensor, z: Tensor, which: Tensor) -> None:
        """Take the Jacobians at ``(t, z)`` for some samples."""
        fresh = dense_jacobian(self.field, t, z)
        self._jacobian = torch.where(which.reshape(-1, 1, 1), fresh, self._jacobian)
        self._factors = None

    def solve(self, right: Tensor, which: Tensor, allowance: Tensor | None) -> Solved:
        """Return the solutions; they take no evaluations."""
        nothing = torch.zeros_like(which)
        return Solved(self._solve(right, adjoint=False), None, nothing.long(), nothing)

    def solve_plain(self, right: Tensor) -> Tensor:
        """Return the solutions alone."""
        return self._solve(right, adjoint=False)

    def solve_transposed(self, right: Tensor) -> Tensor:
        """Return the solutions with the transposed matrices."""
        return self._solve(right, adjoint=True)

    def _solve(self, right: Tensor, *, adjoint: bool) -> Tensor:
        if self._factors is None:
            identity = torch.eye(self.cost, dtype=right.dtype, device=right.device)
            factors, pivots, _ = torch.linalg.lu_factor_ex(identity - self._scale.reshape(-1, 1, 1) * self._jacobian)
            self._factors = factors, pivots
        flat = per_sample(right).unsqueeze(2)
        solution: Tensor = torch.linalg.lu_solve(*self._factors, flat, adjoint=adjoint)
        return solution.reshape(right.shape)


class KrylovLinearisation:
    """``I - s J`` by products; the point is where ``renew`` was last called."""

    follows = True
    cost = 0

    def __init__(self, field: Field, z: Tensor, forcing: float) -> None:
        self.field, self.forcing = field, forcing
        self._t, self._z, self._scale = z.new_zeros(()), z, z.new_zeros(z.shape[0])

    def use_scale(self, scale: Tensor) -> None:
        """Use ``s``."""
        self._scale = scale

    def renew(self, t: Tensor, z: Tensor, which: Tensor) -> None:
        """Linearise at ``(t, z)``, all samples: the next solve is for those that want it."""
        self._t, self._z = t, z

    def solve(self, right: Tensor, which: Tensor, allowance: Tensor | None) -> Solved:
        """Return solutions that leave ``forcing`` of the right side; a direction takes a product."""
        scale = broadcast_to_state(self._scale, right)

        def multiply(v: Tensor) -> Tensor:
            v = v.reshape(right.shape)
            return per_sample(v - scale * _jacobian_product(self.field, self._t, self._z, v))

        result = gmres(multiply, per_sample(right), tolerance=self.forcing, wanted=which, allowance=allowance)
        solution, left = (values.reshape(right.shape) for values in (result.solution, result.left))
        return Solved(solution, left, result.products, result.stopped)


@torch.no_grad()
def solve_transposed(field: Field, t: Tensor, z: Tensor, scale: Tensor, right: Tensor) -> Tensor:
    """Solve ``(I - s J)^T x = right`` with the Jacobians at ``(t, z)``; ``right`` and the result are like ``z``.

    Raises:
        SolveFailed: where GMRES does not reach round-off: a gradient that is wrong must not pass as one.
    """
    if right.numel() == 0:
        return right
    if math.prod(z.shape[1:]) <= DENSE_JACOBIAN:
        return _dense_at(field, t, z, scale).solve_transposed(right)
    pull_back = vjp(lambda state: field(t, state), z)[1]
    solution, failed = _to_round_off(lambda v: pull_back(v)[0], scale, right)
    if bool(failed.any()):
        raise SolveFailed(
            f"the linear system of an implicit step's gradient was not solved for {int(failed.sum())} of "
            f"{failed.shape[0]} samples: use more steps or tighter tolerances, compute in float64, "
            f"or take an explicit method"
        )
    return solution


@torch.no_grad()
def solve_tangent(field: Field, t: Tensor, z: Tensor, scale: Tensor, right: Tensor) -> Tensor:
    """Solve ``(I - s J) x = right`` with the Jacobians at ``(t, z)``; ``right`` and the result are like ``z``.

    NaN for samples where GMRES does not reach round-off: a tangent is looked at sample by sample.
    """
    if right.numel() == 0:
        return right
    if math.prod(z.shape[1:]) <= DENSE_JACOBIAN:
        return _dense_at(field, t, z, scale).solve_plain(right)
    solution, failed = _to_round_off(lambda v: _jacobian_product(field, t, z, v), scale, right)
    return torch.where(broadcast_to_state(failed, z), torch.nan, solution)


def _dense_at(field: Field, t: Tensor, z: Tensor, scale: Tensor) -> DenseLinearisation:
    system = DenseLinearisation(field, z)
    system.use_scale(scale)
    system.renew(t, z, torch.ones_like(scale, dtype=torch.bool))
    return system


def _to_round_off(product: Callable[[Tensor], Tensor], scale: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Solve ``x - s product(x) = right`` by GMRES; return ``x`` and, ``(batch,)``, whose is not solved."""
    s = broadcast_to_state(scale, right)

    def multiply(v: Tensor) -> Tensor:
        v = v.reshape(right.shape)
        return per_sample(v - s * product(v))

    eps = torch.finfo(right.dtype).eps
    # A right side that is not a number from the start has no solution, and shows as what it is.
    finite = finite_samples(right)
    # A few roundings are what the sum of many products can be good for.
    result = gmres(multiply, per_sample(right), tolerance=10 * eps, wanted=finite, directions=_DIRECTIONS_TO_ROUND_OFF)
    solution = torch.where(broadcast_to_state(finite, right), result.solution.reshape(right.shape), torch.nan)
    return solution, finite & ~(result.residual <= _ROUNDINGS * eps)
