"""The left end of a spectrum known only by products with its matrix, one matrix a sample, by Arnoldi's iteration.

A Ritz value ``theta`` with the residual ``r`` is an eigenvalue of a matrix that differs by ``r`` in norm; an eigenvalue
of the matrix itself lies within about ``kappa r`` of it, ``kappa`` being its condition number, which is taken from the
projected matrix. What counts as found is only what stays true within that distance.

Source: Saad, Numerical Methods for Large Eigenvalue Problems, 2011, algorithm 6.2 and section 3.3.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core.solvers.krylov import orthogonalised

DIRECTIONS = 50
_CHECK_EVERY = 5
# A direction this small beside its product is round-off: the space is invariant.
_INVARIANT = 1e-12
# Of the distance to what would change the answer. With 0.1 one in a thousand eigenvalues of random networks was none.
_SURE = 0.01

Multiply = Callable[[Tensor, Tensor], Tensor]
"""From vectors ``(m, n)`` and the samples ``(m,)`` they belong to, to the products with those samples' matrices."""


@dataclass(frozen=True)
class LeftEnd:
    """What is known of the smallest real eigenvalue of each matrix, ``(batch,)`` each.

    Attributes:
        least_real: the smallest real Ritz value that is an eigenvalue for sure, NaN where none is.
        residual: of its Ritz vector.
        negative: it is an eigenvalue below 0, for sure. One-sided: False proves nothing.
        decided: a negative one was found, or all Ritz values lie right of 0 by more than their distance to eigenvalues,
            or all eigenvalues are known.
        products: products with the matrix.
    """

    least_real: Tensor
    residual: Tensor
    negative: Tensor
    decided: Tensor
    products: Tensor


@torch.no_grad()
def left_end(multiply: Multiply, start: Tensor, *, directions: int = DIRECTIONS) -> LeftEnd:
    """Return the left ends of the spectra of real matrices.

    A sample that is decided gets no further product, so its result does not depend on its batch mates.

    Args:
        multiply: the products.
        start: ``(batch, n)``, the first direction of each sample.
        directions: at most; 20 to 50.
    """
    batch, n = start.shape
    most = min(directions, n)
    nothing = start.new_full((batch,), torch.nan)
    found = LeftEnd(
        nothing,
        nothing.clone(),
        torch.zeros(batch, dtype=torch.bool, device=start.device),
        torch.zeros(batch, dtype=torch.bool, device=start.device),
        torch.zeros(batch, dtype=torch.int64, device=start.device),
    )
    samples = torch.arange(batch, device=start.device)
    basis = start.new_zeros(batch, most + 1, n)
    basis[:, 0] = start / torch.linalg.vector_norm(start, dim=1, keepdim=True)
    projected = start.new_zeros(batch, most + 1, most)
    for j in range(most):
        product = multiply(basis[:, j], samples)
        found.products[samples] += 1
        column, rest = orthogonalised(product, basis[:, : j + 1])
        size = torch.linalg.vector_norm(rest, dim=1)
        invariant = size <= _INVARIANT * torch.linalg.vector_norm(product, dim=1)
        projected[:, : j + 1, j] = column
        projected[:, j + 1, j] = torch.where(invariant, 0.0, size)
        basis[:, j + 1] = rest / torch.where(invariant, 1.0, size).unsqueeze(1)
        last = j + 1 == most
        due = torch.full_like(invariant, last or (j + 1) % _CHECK_EVERY == 0) | invariant
        if not bool(due.any()):
            continue
        rows = torch.nonzero(due).flatten()
        done = _look(found, samples[rows], projected[rows, : j + 1, : j + 1], projected[rows, j + 1, j])
        ended = torch.zeros_like(invariant).index_put((rows,), done) | invariant | last
        if bool(ended.all()):
            break
        going = ~ended
        samples, basis, projected = samples[going], basis[going], projected[going]
    return found


def _look(found: LeftEnd, samples: Tensor, projected: Tensor, beyond: Tensor) -> Tensor:
    """Write what the projected matrices ``(m, j, j)`` tell to ``found``; return which samples are decided."""
    finite = torch.isfinite(projected).all(dim=(1, 2)) & torch.isfinite(beyond)
    projected = torch.where(finite.reshape(-1, 1, 1), projected, 0.0)
    values, vectors = torch.linalg.eig(projected)
    residuals = torch.where(finite, beyond, torch.inf).unsqueeze(1) * vectors[:, -1].abs()
    inverse, failed = torch.linalg.inv_ex(vectors)
    conditions = torch.linalg.vector_norm(inverse, dim=2)
    conditions = torch.where((failed != 0).unsqueeze(1) | ~torch.isfinite(conditions), torch.inf, conditions)
    size = torch.linalg.matrix_norm(projected)
    rounding = projected.shape[1] * torch.finfo(projected.dtype).eps * size
    distances = conditions * (residuals + rounding.unsqueeze(1))
    gaps = (values.unsqueeze(2) - values.unsqueeze(1)).abs()
    gaps = gaps + torch.diag_embed(torch.full_like(distances, torch.inf))
    # Two real eigenvalues that may meet may also leave the axis as a pair.
    alone = distances <= _SURE * gaps.amin(dim=2)
    real = (values.imag == 0) & alone
    sure = real & (distances <= _SURE * values.real.abs())
    candidates = torch.where(sure, values.real, torch.inf)
    least, which = candidates.min(dim=1)
    known = torch.isfinite(least)
    found.least_real[samples] = torch.where(known, least, torch.nan)
    found.residual[samples] = torch.where(known, residuals.gather(1, which.unsqueeze(1)).squeeze(1), torch.nan)
    found.negative[samples] = negative = known & (least < 0)
    right = values.real > distances
    # In an invariant space no eigenvalue is hidden behind a pair that lies further to the left.
    elsewhere = right | ((beyond == 0).unsqueeze(1) & (values.imag.abs() > distances))
    decided: Tensor = (negative | elsewhere.all(dim=1)) & finite
    found.decided[samples] = decided
    return decided
