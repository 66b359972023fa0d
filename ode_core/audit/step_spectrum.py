"""Steps that no flow can make: where the derivative of a step has a negative real eigenvalue.

The derivative ``P`` of the time-h map of a flow solves ``P' = J P`` from the identity, so its determinant stays
positive. A step's derivative ``D`` with ``det D < 0`` is therefore that of no flow: the certificate. More generally, a
real matrix without the eigenvalue 0 has a real logarithm, hence is the time-h map of a linear field, if and only if
each Jordan block of a negative eigenvalue comes an even number of times. For Euler's method, ``D = I + h J``, these
are eigenvalues of ``h J`` below -1.

A negative eigenvalue that comes an odd number of times stays real however round-off moves it, and is flagged. One
that comes an even number of times, like that of ``-2 I`` in the plane, a half turn that doubles, may leave the axis in
pairs: next to the matrix lie others that are flows. It is ``paired`` and no flag.

One-sided: a step without such an eigenvalue may be no flow's either.

Source: Culver, On the existence and uniqueness of the real logarithm of a matrix, Proc. AMS 17, 1966.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from ode_core.audit.arnoldi import DIRECTIONS, left_end
from ode_core.audit.step_grid import StepGrid
from ode_core.solvers.solution import per_sample
from ode_core.solvers.step_map import ImplicitStepMap, StepMap, TimeStep
from ode_core.specs.methods import DENSE_JACOBIAN

SpectrumMethod = Literal["dense", "arnoldi"]

DENSE_STATE = 128
LARGEST_DENSE_STATE = 1024
_EIGENVALUE_OPERATIONS = 64 * 784**3
_NUMBERS_AT_ONCE, _MOST_ROWS = 2**21, 2**14  # of Jacobians, or of Krylov bases
# Roundings by which a computed eigenvalue, or a singular matrix, may seem to be on the other side.
_ROUNDINGS = 16
# Round-off parts a double eigenvalue by about the root of it. Eigenvalues this close, relative to the matrix, are one.
_ONE = 4 * math.sqrt(torch.finfo(torch.float64).eps)


@dataclass(frozen=True)
class LeftSpectrum:
    """The left end of the spectrum of real matrices, ``(batch,)`` each.

    Attributes:
        least_real: smallest real eigenvalue, NaN where none is known.
        flagged: there is one below 0 that comes an odd number of times.
        paired: there are some below 0, and all come an even number of times, to round-off.
        determinant_sign: int8, -1 or 1 where the sign is certain, else 0.
        decided: whether the answer is one; not flagged and not decided means not known.
    """

    least_real: Tensor
    flagged: Tensor
    paired: Tensor
    determinant_sign: Tensor
    decided: Tensor


@dataclass(frozen=True)
class StepSpectrum:
    """The same for the derivative of every step, ``(steps, n)`` each; no step is neither flagged nor certified.

    Attributes:
        method: ``dense``: all eigenvalues of the Jacobian; ``arnoldi``: from products with it, and all eigenvalues of
            some steps that these leave undecided.
        least_real: smallest real eigenvalue, NaN where none is known.
        flagged: there is one below 0 that comes an odd number of times; by ``arnoldi`` one that comes any number of
            times, as products from one direction show each once: whether that is odd or even is not known.
        paired: there are some below 0, and all come an even number of times; only where Jacobians are dense.
        certified: the determinant is negative for sure; only where Jacobians are dense.
        decided: whether the answer is one; what is decided and neither flagged nor paired has no negative eigenvalue.
        taken: which steps are steps.
    """

    method: SpectrumMethod
    least_real: Tensor
    flagged: Tensor
    paired: Tensor
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
    def paired_share(self) -> float:
        """Share of the steps whose negative eigenvalues all come an even number of times."""
        return float(self.paired.sum()) / max(1, int(self.taken.sum()))

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
    sign = _determinant_sign(matrices, rounding)
    values = torch.linalg.eigvals(matrices)
    near = (_ONE * torch.linalg.matrix_norm(matrices)).unsqueeze(1)
    # Round-off may part a double real eigenvalue into a pair next to the axis.
    real = values.imag.abs() <= near / 2
    least = torch.where(real, values.real, torch.inf).amin(dim=1)
    negative = real & (values.real < -rounding.unsqueeze(1)) & finite.unsqueeze(1)
    odd = torch.zeros_like(negative)
    which, place = torch.nonzero(negative, as_tuple=True)
    together = ((values[which] - values.real[which, place].unsqueeze(1)).abs() <= near[which]).sum(dim=1)
    odd[which, place] = together % 2 == 1
    # A negative determinant has an odd number of negative eigenvalues, however round-off placed them.
    flagged = (odd.any(dim=1) | (sign < 0)) & finite
    least = torch.where(torch.isfinite(least) & finite, least, torch.nan)
    sign = torch.where(finite, sign, 0).to(torch.int8)
    return LeftSpectrum(least, flagged, negative.any(dim=1) & ~flagged, sign, finite)


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
    full_jacobians: int | None = None,
    on_block: Callable[[int], None] | None = None,
) -> StepSpectrum:
    """Return what is known of the derivative of every step along a numerical solution.

    Args:
        psi: the step; its field is evaluated in the type of the states, which should be float64.
        grid: the steps.
        states: ``(steps + 1, n, *state)``, the numerical solution.
        method: None takes ``dense`` up to ``DENSE_STATE`` numbers in a state.
        directions: of Arnoldi's iteration, at most.
        full_jacobians: at most so many steps that Arnoldi's iteration leaves undecided have all their eigenvalues
            computed; None: as many as take about a minute.
        on_block: called before each block with the number of steps left to look at.
    """
    size = states[0, 0].numel()
    if method is None:
        method = "dense" if size <= DENSE_STATE else "arnoldi"
    taken = grid.taken
    number, sample = torch.nonzero(taken, as_tuple=True)

    def look(which: Tensor, by: SpectrumMethod) -> LeftSpectrum:
        width = size * size if by == "dense" else size * (directions + 1)
        rows = max(1, min(_MOST_ROWS, _NUMBERS_AT_ONCE // width))
        found = []
        for first in range(0, len(which), rows):
            if on_block is not None:
                on_block(len(which) - first)
            block = which[first : first + rows]
            k, i = number[block], sample[block]
            z = states[k.to(states.device), i.to(states.device)]
            step = _steps(grid, k, i, z)
            found.append(_dense(psi, z, step) if by == "dense" else _arnoldi(psi, z, step, directions))
        return _joined(found)

    found = look(torch.arange(len(number)), method)
    open_steps = torch.nonzero(~found.decided).flatten()
    if method == "arnoldi" and len(open_steps):
        most = affordable_jacobians(psi, size) if full_jacobians is None else full_jacobians
        again = _spread(open_steps, most)
        if len(again):
            found = _replaced(found, again, look(again, "dense"))

    def table(values: Tensor, nothing: float | bool) -> Tensor:
        filled = torch.full(taken.shape, nothing, dtype=values.dtype)
        filled[number, sample] = values
        return filled

    return StepSpectrum(
        method=method,
        least_real=table(found.least_real, torch.nan),
        flagged=table(found.flagged, False),
        paired=table(found.paired, False),
        certified=table(found.determinant_sign < 0, False),
        decided=table(found.decided, True),
        taken=taken,
    )


def affordable_jacobians(psi: StepMap, size: int) -> int:
    """Return of how many steps all eigenvalues take about a minute: of 64 with 784 numbers, of none above 1,024."""
    # Beyond that each column of an implicit step's Jacobian is the solution of linear systems by products.
    largest = DENSE_JACOBIAN if isinstance(psi, ImplicitStepMap) else LARGEST_DENSE_STATE
    return 0 if size > largest else _EIGENVALUE_OPERATIONS // size**3


def _joined(found: list[LeftSpectrum]) -> LeftSpectrum:
    if not found:
        nothing, none = torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.bool)
        return LeftSpectrum(nothing, none, none, torch.empty(0, dtype=torch.int8), none)
    return LeftSpectrum(
        *(torch.cat([getattr(part, field.name) for part in found]).cpu() for field in fields(LeftSpectrum))
    )


def _spread(steps: Tensor, most: int) -> Tensor:
    """Return at most so many of the steps, from beginning to end."""
    if len(steps) <= most:
        return steps
    return steps[torch.arange(most) * len(steps) // max(1, most)]


def _replaced(found: LeftSpectrum, which: Tensor, known: LeftSpectrum) -> LeftSpectrum:
    return LeftSpectrum(
        *(getattr(found, field.name).index_put((which,), getattr(known, field.name)) for field in fields(LeftSpectrum))
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
    unseen = torch.zeros_like(found.negative)
    return LeftSpectrum(found.least_real, found.negative, unseen, unseen.to(torch.int8), found.decided)
