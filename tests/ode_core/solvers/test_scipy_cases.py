"""The initial value problems of SciPy's own tests, with its criterion: the error in units of the tolerances."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ode_core.solvers.solve import solve
from ode_core.specs import SolverSpec
from tests.ode_core.solvers.problems import ADAPTIVE

RTOL, ATOL = 1e-3, 1e-6


def rational(t: Tensor, z: Tensor) -> Tensor:
    x, y = z[:, :1], z[:, 1:]
    return torch.cat([y / t, y * (x + 2 * y - 1) / (t * (x - 1))], dim=1)


def rational_solution(t: Tensor) -> Tensor:
    return torch.stack([t / (t + 10), 10 * t / (t + 10) ** 2], dim=-1)


def decay(t: Tensor, z: Tensor) -> Tensor:
    return -z


def decay_solution(t: Tensor) -> Tensor:
    """From ``0.5 + 1j``, which SciPy takes as one complex number."""
    return torch.stack([0.5 * torch.exp(-t), torch.exp(-t)], dim=-1)


def in_tolerances(z: Tensor, exact: Tensor) -> Tensor:
    """Root mean square over the state of the error in units of ``atol + rtol |z|``."""
    return ((z - exact) / (ATOL + RTOL * exact.abs())).square().mean(dim=-1).sqrt()


@pytest.mark.parametrize(
    ("field", "solution", "t0", "t1"),
    [
        (rational, rational_solution, 5.0, 9.0),
        (rational, rational_solution, 5.0, 1.0),
        (decay, decay_solution, 0.0, 1.0),
    ],
    ids=["rational", "rational backwards", "complex"],
)
@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_error_is_a_few_tolerances_at_the_end_and_between(
    method: str,
    field: Callable[[Tensor, Tensor], Tensor],
    solution: Callable[[Tensor], Tensor],
    t0: float,
    t1: float,
    dtype: torch.dtype,
) -> None:
    times = torch.linspace(t0, t1, 20, dtype=dtype)
    z0 = solution(torch.tensor([t0], dtype=dtype))
    result = solve(field, z0, SolverSpec(method=method, rtol=RTOL, atol=ATOL), t0=t0, t1=t1, times=times)
    assert result.succeeded.all()
    errors = in_tolerances(result.trajectory[:, 0], solution(times))
    # SciPy asks for less than 5. fehlberg2's estimate h^2 z'' / 512 is far below its error, about h^2 z'' / 6.
    assert float(errors.max()) < 5 * (512 / 6 if method == "fehlberg2" else 1)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_field_of_zeros_takes_a_few_steps(method):
    result = solve(
        lambda t, z: torch.zeros_like(z), torch.ones(1, 3), SolverSpec(method=method, rtol=1e-3, atol=1e-6), t1=10.0
    )
    assert torch.equal(result.final, torch.ones(1, 3))
    # From a first step of 1e-6 tenfold ever after.
    assert int(result.accepted) <= 2 + math.log10(10.0 / 1e-6)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_state_without_components_is_carried_along(method):
    result = solve(lambda t, z: z, torch.ones(2, 0), SolverSpec(method=method, rtol=1e-3, atol=1e-6))
    assert result.final.shape == (2, 0)
