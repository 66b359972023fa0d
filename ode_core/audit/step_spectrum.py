"""Steps that no flow can make: where the derivative of a step has a negative real eigenvalue.

The derivative ``P`` of the time-h map of a flow solves ``P' = J P`` from the identity, so its determinant stays
positive. A step's derivative ``D`` with ``det D < 0`` is therefore that of no flow: the certificate. More generally, a
real matrix with a negative eigenvalue has no real logarithm, hence is not the time-h map of any linear field, unless
each Jordan block of that eigenvalue comes an even number of times, which no two different eigenvalues satisfy. For
Euler's method, ``D = I + h J``, it is an eigenvalue of ``h J`` below -1.

One-sided: a step without such an eigenvalue may be no flow's either.

Source: Culver, On the existence and uniqueness of the real logarithm of a matrix, Proc. AMS 17, 1966.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ode_core.audit.arnoldi import DIRECTIONS, left_end
from ode_core.audit.step_grid import StepGrid
from ode_core.solvers.solution import per_sample
from ode_core.solvers.step_map import StepMap, TimeStep

SpectrumMethod = Literal["dense", "arnoldi"]

DENSE_STATE = 128
_NUMBERS_AT_ONCE, _MOST_ROWS = 2**21, 2**14  # of Jacobians, or of Krylov bases
# Roundings by which a computed eigenvalue, or a singular matrix, may seem to be on the other side.
_ROUNDINGS = 16


@dataclass(frozen=True)
class LeftSpectrum:
    """The left end of the spectrum of real matrices, ``(batch,)`` each.

    Attributes:
        least_real: smallest real eigenvalue, NaN where none is known.
        flagged: it is below 0.
        determinant_sign: int8, -1 or 1 where the sign is certain, else 0.
        decided: whether the answer is one; not flagged and not decided means not known.
    """

    least_real: Tensor
    flagged: Tensor
    determinant_sign: Tensor
    decided: Tensor


@dataclass(frozen=True)
class StepSpectrum:
    """The same for the derivative of every step, ``(steps, n)`` each; no step is neither flagged nor certified.

    Attributes:
        method: ``dense``: all eigenvalues of the Jacobian; ``arnoldi``: from products with it.
        least_real: smallest real eigenvalue, NaN where none is known.
        flagged: it is below 0.
        certified: the determinant is negative for sure; only where Jacobians are dense.
        decided: whether the answer is one.
        taken: which steps are steps.
    """

    method: SpectrumMethod
    least_real: Tensor
    flagged: Tensor
    certified: Tensor
    decided: Tensor
    taken: Tensor

    @property
    def flagged_share(self) -> float:
        """Share of the steps that are flagged."""
        return float(self.flagged.sum()) / max(1, int(self.taken.sum()))

    @property
    def certified_share(self) -> float:
        """Share of the steps whose determinant is negative."""
        return float(self.certified.sum()) / max(1, int(self.taken.sum()))

    @property
    def undecided_share(self) -> float:
        """Share of the steps for which nothing is known."""
        return float((self.taken & ~self.decided).sum()) / max(1, int(self.taken.sum()))


def left_spectrum(matrices: Tensor) -> LeftSpectrum:
    """Return the left ends of the spectra of real matrices ``(batch, n, n)``, from all their eigenvalues.

    In float64. Where a matrix is not finite nothing is known.
    """
    matrices = matrices.double()
    n = matrices.shape[-1]
    finite = torch.isfinite(matrices).all(dim=(1, 2))
    matrices = torch.where(finite.reshape(-1, 1, 1), matrices, torch.eye(n, dtype=torch.float64))
    rounding = _ROUNDINGS * n * torch.finfo(torch.float64).eps * torch.linalg.matrix_norm(matrices)
    values = torch.linalg.eigvals(matrices)
    # Round-off may part a double real eigenvalue into a pair next to the axis.
    real = values.imag.abs() <= rounding.unsqueeze(1)
    least = torch.where(real, values.real, torch.inf).amin(dim=1)
    sign = _determinant_sign(matrices, rounding)
    # A negative determinant has a negative eigenvalue, however round-off placed it.
    flagged = (least < -rounding) | (sign < 0)
    least = torch.where(torch.isfinite(least) & finite, least, torch.nan)
    return LeftSpectrum(least, flagged & finite, torch.where(finite, sign, 0).to(torch.int8), finite)


def _determinant_sign(matrices: Tensor, rounding: Tensor) -> Tensor:
    """Return the signs of the determinants, 0 where the matrix is singular up to ``rounding``.

    The factors found are those of a matrix within rounding; if that of all such matrices none is singular, the sign is
    that of the matrix itself.
    """
    sign: Tensor = torch.linalg.slogdet(matrices).sign
    negative = torch.nonzero(sign < 0).flatten()
    # The smallest singular value is the distance to the next singular matrix. Only a negative sign is a certificate.
    distance = torch.linalg.svdvals(matrices[negative]).amin(dim=1)
    return sign.index_put((negative,), torch.where(distance > rounding[negative], -1.0, 0.0).to(sign.dtype))


@torch.no_grad()
def step_spectrum(
    psi: StepMap,
    grid: StepGrid,
    states: Tensor,
    *,
    method: SpectrumMethod | None = None,
    directions: int = DIRECTIONS,
    on_block: Callable[[int], None] | None = None,
) -> StepSpectrum:
    """Return what is known of the derivative of every step along a numerical solution.

    Args:
        psi: the step; its field is evaluated in the type of the states, which should be float64.
        grid: the steps.
        states: ``(steps + 1, n, *state)``, the numerical solution.
        method: None takes ``dense`` up to ``DENSE_STATE`` numbers in a state.
        directions: of Arnoldi's iteration, at most.
        on_block: called before each block with the number of steps left to look at.
    """
    size = states[0, 0].numel()
    if method is None:
        method = "dense" if size <= DENSE_STATE else "arnoldi"
    taken = grid.taken
    number, sample = torch.nonzero(taken, as_tuple=True)
    width = size * size if method == "dense" else size * (directions + 1)
    rows = max(1, min(_MOST_ROWS, _NUMBERS_AT_ONCE // width))
    found = []
    for first in range(0, len(number), rows):
        if on_block is not None:
            on_block(len(number) - first)
        block = slice(first, first + rows)
        k, i = number[block], sample[block]
        z = states[k.to(states.device), i.to(states.device)]
        step = _steps(grid, k, i, z)
        found.append(_dense(psi, z, step) if method == "dense" else _arnoldi(psi, z, step, directions))

    def spread(values: list[Tensor], nothing: float | bool) -> Tensor:
        table = torch.full(taken.shape, nothing, dtype=values[0].dtype if values else torch.bool)
        if values:
            table[number, sample] = torch.cat(values).cpu()
        return table

    return StepSpectrum(
        method=method,
        least_real=spread([part.least_real for part in found], torch.nan),
        flagged=spread([part.flagged for part in found], False),
        certified=spread([part.determinant_sign < 0 for part in found], False),
        decided=spread([part.decided for part in found], True),
        taken=taken,
    )


def _steps(grid: StepGrid, number: Tensor, sample: Tensor, like: Tensor) -> TimeStep:
    shape = (-1, *(1 for _ in like.shape[1:]))
    columns = (
        values[number, sample].reshape(shape).to(like.device) for values in (grid.starts, grid.lengths, grid.ends)
    )
    return TimeStep(*columns)


def _dense(psi: StepMap, z: Tensor, step: TimeStep) -> LeftSpectrum:
    return left_spectrum(psi.jacobian(z, step).cpu())


def _arnoldi(psi: StepMap, z: Tensor, step: TimeStep, directions: int) -> LeftSpectrum:
    product = psi.products(z, step)

    def multiply(v: Tensor, samples: Tensor) -> Tensor:
        return per_sample(product(v.reshape(-1, *z.shape[1:]), samples))

    # The same direction for every sample, and whoever else is in the batch.
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(z[0].numel(), dtype=torch.float64, generator=generator).to(z)
    found = left_end(multiply, direction.expand(len(z), -1), directions=directions)
    nothing = torch.zeros_like(found.negative, dtype=torch.int8)
    return LeftSpectrum(found.least_real, found.negative, nothing, found.decided)
