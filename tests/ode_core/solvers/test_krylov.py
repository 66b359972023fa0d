import numpy as np
import pytest
import torch
from scipy.sparse.linalg import gmres as scipy_gmres

from ode_core.solvers.krylov import DIRECTIONS, gmres


def systems(batch: int = 6, n: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices near the identity and far from it, and right sides."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch, n, n, generator=generator, dtype=torch.float64) / n**0.5
    size = torch.linspace(0.05, 0.7, batch, dtype=torch.float64)[:, None, None]
    return torch.eye(n, dtype=torch.float64) + size * noise, torch.randn(batch, n, generator=generator).double()


def product(matrices: torch.Tensor):
    return lambda v: (matrices * v[:, None, :]).sum(dim=2)


def everyone(right: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(right), dtype=torch.bool)


def test_solutions_are_those_of_a_direct_solve():
    matrices, right = systems()
    result = gmres(product(matrices), right, tolerance=1e-12, wanted=everyone(right))
    expected = torch.linalg.solve(matrices, right)
    # The matrices' condition is below 20.
    assert torch.allclose(result.solution, expected, rtol=0, atol=20 * 1e-12 * float(right.norm(dim=1).max()))
    assert bool((result.residual <= 1e-12).all())


def test_directions_are_as_many_as_scipys():
    matrices, right = systems()
    result = gmres(product(matrices), right, tolerance=1e-6, wanted=everyone(right))
    for i in range(len(right)):
        norms: list[float] = []
        scipy_gmres(
            matrices[i].numpy(), right[i].numpy(), rtol=1e-6, restart=50, callback=norms.append, callback_type="pr_norm"
        )
        # One more product, for the residual at the end.
        assert int(result.products[i]) == len(norms) + 1
    assert len(set(result.products.tolist())) > 3


def test_a_restart_goes_on_where_the_directions_ended():
    matrices, right = systems(n=200)
    matrices = torch.eye(200, dtype=torch.float64) + 0.85 / 0.7 * (matrices - torch.eye(200, dtype=torch.float64))
    result = gmres(product(matrices), right, tolerance=1e-9, wanted=everyone(right))
    assert int(result.products.max()) > DIRECTIONS + 1
    assert bool((result.residual <= 1e-9).all())
    left = right - product(matrices)(result.solution)
    assert torch.allclose(left.norm(dim=1) / right.norm(dim=1), result.residual, rtol=1e-6)


def test_a_sample_comes_out_the_same_bit_for_bit_whoever_its_batch_mates_are():
    matrices, right = systems()
    together = gmres(product(matrices), right, tolerance=1e-9, wanted=everyone(right))
    for i in range(len(right)):
        alone = gmres(product(matrices[i : i + 1]), right[i : i + 1], tolerance=1e-9, wanted=everyone(right[:1]))
        assert torch.equal(alone.solution[0], together.solution[i])
        assert int(alone.products) == int(together.products[i])


def test_samples_that_are_not_wanted_or_have_nothing_to_solve_take_no_products():
    matrices, right = systems()
    right[1] = 0
    wanted = everyone(right)
    wanted[0] = False
    result = gmres(product(matrices), right, tolerance=1e-9, wanted=wanted)
    assert result.products[:2].tolist() == [0, 0]
    assert not bool(result.solution[:2].any())
    assert bool((result.products[2:] > 0).all())


@pytest.mark.parametrize("allowance", [0, 1, 2, 5])
def test_no_sample_takes_more_products_than_it_may(allowance):
    matrices, right = systems()
    result = gmres(
        product(matrices), right, tolerance=1e-9, wanted=everyone(right), allowance=torch.full((6,), allowance)
    )
    assert int(result.products.max()) <= allowance
    assert bool(result.stopped.all())


def test_the_products_that_are_needed_are_allowance_enough():
    matrices, right = systems()
    needed = gmres(product(matrices), right, tolerance=1e-9, wanted=everyone(right))
    for less, stopped in ((0, False), (1, True)):
        result = gmres(
            product(matrices), right, tolerance=1e-9, wanted=everyone(right), allowance=needed.products - less
        )
        assert result.stopped.tolist() == [stopped] * 6
        assert torch.equal(result.solution, needed.solution) != stopped


def test_the_identity_takes_one_direction():
    right = torch.from_numpy(np.arange(1.0, 11.0))[None]
    result = gmres(lambda v: v, right, tolerance=1e-14, wanted=everyone(right))
    assert torch.allclose(result.solution, right, rtol=1e-15, atol=0)
    assert result.products.tolist() == [2]
