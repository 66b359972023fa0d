import math

import pytest
import torch
from torch import Tensor

from ode_core.audit.arnoldi import DIRECTIONS, MISS_PROBABILITY, LeftEnd, left_end
from ode_core.audit.step_spectrum import left_spectrum


def starts(count: int, n: int, seed: int) -> Tensor:
    return torch.randn(count, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def look(matrices: Tensor, seed: int = 0, directions: int = DIRECTIONS) -> LeftEnd:
    """Look at the left ends of matrices ``(count, n, n)``, each from a direction of its own."""
    return left_end(
        lambda v, who: (matrices[who] @ v.unsqueeze(2)).squeeze(2),
        starts(len(matrices), matrices.shape[-1], seed),
        directions=directions,
    )


def with_spectrum(real: Tensor, turning: Tensor, seed: int, upper: float = 0.2) -> Tensor:
    """Return a matrix with eigenvalues ``real`` and pairs ``a +- ib``, rows of ``turning``, in no special coordinates.

    A block triangular matrix, whose part above the blocks makes it no normal one, reflected ten times.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = [torch.stack([torch.stack([a, -b]), torch.stack([b, a])]) for a, b in turning]
    blocks = torch.block_diag(torch.diag(real), *pairs)
    n = len(blocks)
    above = torch.randn(n, n, dtype=torch.float64, generator=generator).triu(2)
    matrix = blocks + upper / n**0.5 * above
    for _ in range(10):
        normal = torch.randn(n, dtype=torch.float64, generator=generator)
        normal /= normal.norm()
        matrix = matrix - 2 * torch.outer(normal, normal @ matrix)
        matrix = matrix - 2 * torch.outer(matrix @ normal, normal)
    return matrix


def crowd(n: int, low: float, seed: int) -> Tensor:
    """Return real eigenvalues, two thirds of them, that fill the axis from ``low`` to 2."""
    generator = torch.Generator().manual_seed(seed)
    return low + (2 - low) * torch.rand(n - 2 * (n // 6), dtype=torch.float64, generator=generator)


def around_one(n: int, radius: float, seed: int) -> Tensor:
    """Return ``n // 6`` pairs in a disc around 1."""
    generator = torch.Generator().manual_seed(seed)
    angle = math.pi * torch.rand(n // 6, dtype=torch.float64, generator=generator)
    length = radius * torch.rand(n // 6, dtype=torch.float64, generator=generator).sqrt()
    return torch.stack([1 + length * angle.cos(), length * angle.sin()], dim=1)


def test_arnoldi_finds_the_left_end_that_the_whole_spectrum_has() -> None:
    generator = torch.Generator().manual_seed(4)
    matrices = torch.eye(120, dtype=torch.float64) + 0.5 / 120**0.5 * torch.randn(
        30, 120, 120, dtype=torch.float64, generator=generator
    )
    # Every other one gets an eigenvalue outside of the disc that the others fill.
    left = torch.randn(30, 120, 1, dtype=torch.float64, generator=generator)
    left = left / left.norm(dim=1, keepdim=True)
    matrices[::2] -= (1.3 * left @ left.mT)[::2]
    values = torch.linalg.eigvals(matrices)
    real = torch.where(values.imag == 0, values.real, torch.inf).amin(dim=1)
    start = torch.randn(30, 120, dtype=torch.float64, generator=generator)

    found = left_end(lambda v, who: torch.einsum("bij,bj->bi", matrices[who], v), start, directions=50)

    assert (real[::2] < 0).all()
    assert (real[1::2] > 0).all()
    assert torch.equal(found.negative, real < 0)
    assert found.decided.all()
    assert torch.allclose(found.least_real[::2], real[::2], rtol=0.05)
    assert (found.products < 50).any()


def test_a_samples_arnoldi_result_does_not_depend_on_its_batch_mates() -> None:
    generator = torch.Generator().manual_seed(5)
    matrices = torch.randn(8, 40, 40, dtype=torch.float64, generator=generator) / 4
    start = torch.randn(8, 40, dtype=torch.float64, generator=generator)

    def run(samples: Tensor):  # type: ignore[no-untyped-def]
        own = matrices[samples]
        return left_end(lambda v, who: (own[who] * v.unsqueeze(1)).sum(dim=2), start[samples])

    together, alone = run(torch.arange(8)), [run(torch.tensor([i])) for i in range(8)]
    for i, one in enumerate(alone):
        assert one.negative[0] == together.negative[i]
        assert one.products[0] == together.products[i]
        torch.testing.assert_close(one.least_real[0], together.least_real[i], equal_nan=True)


def test_arnoldi_that_did_not_converge_says_that_it_does_not_know() -> None:
    # A small negative eigenvalue beside many small positive ones: 20 directions cannot tell.
    values = torch.cat([torch.tensor([-1e-3], dtype=torch.float64), torch.logspace(-3, 0, 399, dtype=torch.float64)])
    start = torch.randn(20, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(6))

    found = left_end(lambda v, who: v * values, start, directions=20)

    assert not found.negative.any()
    assert not found.decided.any()
    assert (found.products == 20).all()


@pytest.mark.parametrize("n", [128, 256, 784])
def test_matrices_with_a_known_spectrum_are_told_apart_by_products_and_by_all_eigenvalues(n: int) -> None:
    matrices, negative = [], []
    for seed in range(6):
        real, pairs = crowd(n, 0.3, seed), around_one(n, 0.6, seed)
        if seed % 2:
            real[0] = (-0.5, -0.02, -0.15)[seed // 2]
        else:
            # Pairs next to the negative axis are no real eigenvalues, and may not be taken for them.
            pairs[0] = torch.tensor([-0.3 * (seed + 1), 0.2])
        matrices.append(with_spectrum(real, pairs, seed))
        negative.append(bool(seed % 2))
    expected = torch.tensor(negative)

    products, whole = look(torch.stack(matrices)), left_spectrum(torch.stack(matrices))

    assert torch.equal(whole.flagged, expected)
    assert products.decided.all()
    assert torch.equal(products.negative, expected)
    torch.testing.assert_close(products.least_real[expected], whole.least_real[expected], rtol=0.02, atol=0)


@pytest.mark.parametrize("hidden", [-0.1, -0.01, -0.001])
def test_a_negative_eigenvalue_that_others_crowd_is_found_or_nothing_is_said(hidden: float) -> None:
    values = torch.cat([torch.tensor([hidden], dtype=torch.float64), torch.linspace(0.01, 1, 399, dtype=torch.float64)])
    for directions in (20, DIRECTIONS):
        found = left_end(lambda v, who: v * values, starts(50, 400, 1), directions=directions)
        assert not found.ruled_out.any()
    assert found.negative.all()


def test_a_crowd_without_a_negative_eigenvalue_is_cleared() -> None:
    values = torch.linspace(0.01, 1, 400, dtype=torch.float64)
    found = left_end(lambda v, who: v * values, starts(20, 400, 2))
    assert found.ruled_out.all()
    assert not found.negative.any()


@pytest.mark.parametrize("n", [40, 200])
def test_matrices_far_from_normal_are_never_cleared_wrongly(n: int) -> None:
    # Eigenvalues say little about how such a matrix acts: the part above the diagonal is up to twenty times their size.
    matrices = torch.stack(
        [
            with_spectrum(crowd(n, 0.05, k), around_one(n, 0.9, k), k, upper=(0.2, 1.0, 2.0, 5.0)[k % 4])
            for k in range(12)
        ]
    )
    values = torch.linalg.eigvals(matrices)
    least = torch.where(values.imag.abs() < 1e-9, values.real, torch.inf).amin(dim=1)
    shifted = matrices - (least + 0.02).reshape(-1, 1, 1) * torch.eye(n, dtype=torch.float64)
    for directions in (10, 30, DIRECTIONS):
        assert not look(shifted, directions, directions).ruled_out.any()


def test_a_direction_without_a_part_along_the_eigenvector_is_why_it_has_to_be_random() -> None:
    n = 100
    values = torch.cat([torch.tensor([-1.0], dtype=torch.float64), torch.linspace(0.5, 1, n - 1, dtype=torch.float64)])
    # A start with this part or less has the stated probability: that of a slice of the sphere around its equator.
    part = MISS_PROBABILITY / math.sqrt(2 * (n - 1) / math.pi)
    direction = starts(1, n, 3)[0]
    direction[0] = 0
    direction /= direction.norm()
    rows = direction.repeat(2, 1)
    rows[1, 0] = part
    found = left_end(lambda v, who: v * values, rows, directions=60)
    assert found.ruled_out.tolist() == [True, False]


def test_the_part_of_a_random_direction_along_a_vector_is_as_rarely_small_as_stated() -> None:
    n, count = 50, 200_000
    rows = starts(count, n, 4)
    parts = (rows[:, 0] / rows.norm(dim=1)).abs()
    for probability in (0.3, 0.03, 0.003):
        seen = int((parts < probability / math.sqrt(2 * (n - 1) / math.pi)).sum()) / count
        # Four standard deviations of a count.
        assert seen <= probability + 4 * math.sqrt(probability / count)


def test_a_singular_matrix_is_not_cleared() -> None:
    values = torch.cat([torch.zeros(1, dtype=torch.float64), torch.linspace(0.5, 1, 99, dtype=torch.float64)])
    found = left_end(lambda v, who: v * values, starts(5, 100, 5))
    assert not found.decided.any()


def test_a_matrix_that_is_not_finite_is_undecided() -> None:
    found = look(torch.full((2, 30, 30), torch.nan, dtype=torch.float64))
    assert not found.decided.any()
