import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.linalg import solve as solve_exactly
from torch import Tensor, nn

from ode_core.audit.step_grid import fixed_grid, numerical_path
from ode_core.audit.step_spectrum import affordable_jacobians, left_spectrum, step_spectrum
from ode_core.solvers import linearisation
from ode_core.solvers import step_map as step_maps
from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.implicit_tableaus import IMPLICIT_TABLEAUS
from ode_core.solvers.step_map import step_map
from ode_core.specs import SolverSpec


def linear(matrix: Tensor):  # type: ignore[no-untyped-def]
    return lambda t, z: z @ matrix.T


def similar(values: Tensor, seed: int = 0) -> Tensor:
    """Return a matrix with a given real block-diagonal form, in other coordinates."""
    generator = torch.Generator().manual_seed(seed)
    change = torch.randn(len(values), len(values), dtype=torch.float64, generator=generator)
    return change @ values @ torch.linalg.inv(change)


def pair(real: float, imaginary: float) -> Tensor:
    return torch.tensor([[real, -imaginary], [imaginary, real]], dtype=torch.float64)


def diagonal(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values, dtype=torch.float64))


# h A of an Euler step, whether the step is flagged, and whether det(I + h A) is negative.
CASES = {
    "one real eigenvalue below -1": (diagonal(-1.5, 0.3, -0.2), True, True),
    "two different real ones below -1: the determinant is positive": (diagonal(-1.5, -1.2, -0.2), True, False),
    "three of them": (diagonal(-1.5, -1.2, -3.0), True, True),
    "a complex pair left of -1": (torch.block_diag(pair(-1.5, 0.4), diagonal(0.5)), False, False),
    "a complex pair left of -1, and a real one": (torch.block_diag(pair(-2.5, 0.4), diagonal(-1.1)), True, True),
    "all real ones above -1": (diagonal(-0.99, -0.5, 2.0), False, False),
    "a long step of a rotation": (torch.block_diag(pair(0.0, 30.0), diagonal(0.0)), False, False),
}


def spectrum_of_one_step(matrix: Tensor, method: str, kind=None):  # type: ignore[no-untyped-def]
    psi = step_map(linear(matrix), method)  # type: ignore[arg-type]
    grid = fixed_grid(SolverSpec(method="euler", steps=1), 5, 1.0)
    z0 = torch.randn(5, len(matrix), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return step_spectrum(psi, grid, numerical_path(psi, grid, z0), method=kind)


@pytest.mark.parametrize("kind", ["dense", "arnoldi"])
@pytest.mark.parametrize("name", CASES)
def test_euler_steps_of_linear_fields_are_flagged_exactly_by_their_real_eigenvalues(name: str, kind: str) -> None:
    matrix, flagged, certified = CASES[name]
    for seed in range(5):
        found = spectrum_of_one_step(similar(matrix, seed), "euler", kind)
        assert found.decided.all()
        assert (found.flagged == flagged).all()
        if kind == "dense":
            assert (found.certified == certified).all()


@pytest.mark.parametrize("method", ["midpoint", "heun3", "rk4", "dopri5"])
def test_steps_of_other_methods_are_flagged_where_their_stability_function_is_negative(method: str) -> None:
    polynomial = [float(c) for c in TABLEAUS[method].stability_polynomial]  # type: ignore[index]
    for value in (-4.5, -3.0, -2.0, -1.5, -0.5, 1.0):
        factor = sum(c * value**k for k, c in enumerate(polynomial))
        found = spectrum_of_one_step(similar(diagonal(value, 0.2, -0.1)), method)
        assert found.least_real[0, 0] == pytest.approx(min(factor, np.inf), rel=1e-9) or factor > 0
        assert (found.flagged == (factor < 0)).all()
        assert (found.certified == (factor < 0)).all()


EVEN, ODD = True, False
PAIRS = {  # a step's derivative, and whether its negative eigenvalues all come an even number of times
    "a half turn that doubles": (diagonal(-2.0, -2.0), EVEN),
    "two of them at different speeds": (diagonal(-2.0, -2.0, -0.5, -0.5, 1.0), EVEN),
    "four times": (diagonal(-0.5, -0.5, -0.5, -0.5), EVEN),
    "three times": (diagonal(-0.5, -0.5, -0.5, 1.0), ODD),
    "twice, beside a single one": (diagonal(-2.0, -2.0, -0.5, -0.1), ODD),
    "almost twice": (diagonal(-2.0, -2.00001, 1.0), ODD),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_negative_eigenvalue_is_flagged_unless_it_comes_an_even_number_of_times(name: str) -> None:
    matrix, even = PAIRS[name]
    # In other coordinates round-off parts it into a pair next to the axis, or into two on it.
    found = left_spectrum(torch.stack([matrix] + [similar(matrix, seed) for seed in range(20)]))
    assert found.decided.all()
    assert (found.paired == even).all()
    assert (found.flagged != even).all()
    assert (found.least_real < 0).all()


def test_what_is_paired_is_the_map_of_a_flow_or_lies_next_to_one() -> None:
    half_turn = np.array([[np.log(2), -np.pi], [np.pi, np.log(2)]])
    np.testing.assert_allclose(expm(half_turn), -2 * np.eye(2), atol=1e-14)
    # A single block of two has no real logarithm, but with one unit of rounding more it is exp(a + b K): K^2 = -1, so
    # that this is e^a (cos b + K sin b).
    rounding = 2.0**-52
    root = math.sqrt(rounding)
    a, b = math.log(4 + rounding) / 2, math.atan2(root, -2.0)
    k = np.array([[0, 1 / root], [-root, 0]])
    nearby = np.array([[-2, 1], [-rounding, -2]])
    np.testing.assert_allclose(math.exp(a) * (math.cos(b) * np.eye(2) + math.sin(b) * k), nearby, rtol=1e-6)
    block = torch.tensor([[-2.0, 1.0], [0.0, -2.0]], dtype=torch.float64)

    found = left_spectrum(torch.stack([diagonal(-2.0, -2.0), block, torch.from_numpy(nearby)]))

    assert found.paired.all()
    assert not found.flagged.any()


def test_a_long_step_of_decay_turns_an_even_number_of_directions_by_half_and_crosses_with_an_odd_one() -> None:
    for n, crosses in ((4, False), (5, True)):
        found = spectrum_of_one_step(-3.0 * torch.eye(n, dtype=torch.float64), "euler")
        assert (found.flagged == crosses).all()
        assert (found.certified == crosses).all()
        assert found.paired_share == float(not crosses)


def test_arnoldi_sees_a_multiple_eigenvalue_once_and_flags_what_all_eigenvalues_tell_apart() -> None:
    # A limit that docs/audit.md names.
    matrix = -3.0 * torch.eye(4, dtype=torch.float64)
    assert spectrum_of_one_step(matrix, "euler", "arnoldi").flagged.all()
    assert spectrum_of_one_step(matrix, "euler", "dense").paired.all()
    for n, paired in ((128, True), (130, False)):
        found = spectrum_of_one_step(-3.0 * torch.eye(n, dtype=torch.float64), "euler")
        assert (found.paired == paired).all()
        assert (found.flagged != paired).all()


def test_the_sign_of_the_determinant_is_not_certified_next_to_a_singular_matrix() -> None:
    exact = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    nearly = exact.clone()
    nearly[0, 0] -= 2**-52
    found = left_spectrum(torch.stack([exact, nearly, diagonal(-1e-6, 1.0)]))
    assert found.determinant_sign.tolist() == [0, 0, -1]


def test_a_step_that_is_not_finite_is_undecided() -> None:
    found = left_spectrum(torch.tensor([[[torch.nan, 0.0], [0.0, 1.0]]]))
    assert not found.decided.any()
    assert not found.flagged.any()


@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_full_jacobians_and_arnoldi_agree_on_a_network(method: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16)).double()
    for parameter in network.parameters():
        parameter.data *= 5
    psi = step_map(lambda t, z: network(z), method)  # type: ignore[arg-type]
    grid = fixed_grid(SolverSpec(method="euler", steps=3), 40, 1.0)
    states = numerical_path(psi, grid, torch.randn(40, 16, dtype=torch.float64))

    dense = step_spectrum(psi, grid, states)
    arnoldi = step_spectrum(psi, grid, states, method="arnoldi")

    assert 0.02 < dense.flagged_share < 0.98
    assert (dense.certified <= dense.flagged).all()
    assert torch.equal(dense.flagged, arnoldi.flagged)


def convolutions(gain: float, channels: int = 8) -> nn.Module:
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(1, channels, 1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, 1, 1),
    ).double()
    for parameter in network.parameters():
        parameter.data *= gain
    return network


@pytest.mark.parametrize(("side", "samples"), [(8, 12), (16, 5), (28, 1)])
def test_full_jacobians_and_arnoldi_agree_on_images_wherever_arnoldi_decides(side: int, samples: int) -> None:
    # Scaled so that some steps of Euler's method are flagged and some are not.
    network = convolutions(2.5)
    psi = step_map(lambda t, z: network(z), "euler")
    grid = fixed_grid(SolverSpec(method="euler", steps=2), samples, 1.0)
    states = numerical_path(psi, grid, torch.rand(samples, 1, side, side, dtype=torch.float64))

    dense = step_spectrum(psi, grid, states, method="dense")
    arnoldi = step_spectrum(psi, grid, states, full_jacobians=0, method="arnoldi")

    assert 0 < dense.flagged_share < 1
    assert arnoldi.undecided_share < 0.3
    assert torch.equal(dense.flagged[arnoldi.decided], arnoldi.flagged[arnoldi.decided])
    # Where Arnoldi's iteration does not decide, an eigenvalue lies next to 0.
    assert (dense.least_real[~arnoldi.decided].abs() < 0.01).all()


def test_steps_that_arnoldi_leaves_undecided_have_all_their_eigenvalues_computed_as_far_as_is_affordable() -> None:
    network = convolutions(2.5)
    psi = step_map(lambda t, z: network(z), "euler")
    grid = fixed_grid(SolverSpec(method="euler", steps=2), 4, 1.0)
    states = numerical_path(psi, grid, torch.rand(4, 1, 12, 12, dtype=torch.float64))
    blocks: list[int] = []

    dense = step_spectrum(psi, grid, states, method="dense")
    lost = step_spectrum(psi, grid, states, directions=3, full_jacobians=0)
    some = step_spectrum(psi, grid, states, directions=3, full_jacobians=5, on_block=blocks.append)
    whole = step_spectrum(psi, grid, states, directions=3)

    assert lost.method == some.method == whole.method == "arnoldi"
    assert lost.undecided_share == 1
    assert some.undecided_share == 3 / 8
    assert blocks == [8, 5]
    assert torch.equal(some.flagged, dense.flagged & some.decided)
    assert whole.undecided_share == 0
    assert torch.equal(whole.flagged, dense.flagged)
    torch.testing.assert_close(whole.least_real, dense.least_real)


def test_full_jacobians_of_undecided_steps_are_few_where_they_are_dear() -> None:
    explicit, implicit = (step_map(linear(diagonal(1.0)), m) for m in ("euler", "implicit_midpoint"))
    assert affordable_jacobians(explicit, 784) == 64
    assert affordable_jacobians(explicit, 129) > 10_000
    assert affordable_jacobians(explicit, 3072) == 0
    assert affordable_jacobians(implicit, 256) > 1_000
    assert affordable_jacobians(implicit, 257) == 0


@pytest.mark.parametrize(("n", "undecided"), [(200, 0.0), (260, 1.0)])
def test_implicit_steps_that_arnoldi_leaves_undecided_stay_so_only_where_their_jacobians_are_dear(
    n: int, undecided: float
) -> None:
    generator = torch.Generator().manual_seed(2)
    matrix = 0.5 / n**0.5 * torch.randn(n, n, dtype=torch.float64, generator=generator) - torch.eye(n).double()
    psi = step_map(linear(matrix), "implicit_midpoint")
    grid = fixed_grid(SolverSpec(method="implicit_midpoint", steps=1), 2, 1.0)
    states = numerical_path(psi, grid, torch.randn(2, n, dtype=torch.float64, generator=generator))
    assert step_spectrum(psi, grid, states, directions=2).undecided_share == undecided


IMPLICIT_CASES = {  # h lambda, and R of the implicit midpoint and the trapezoidal rule there: (1 + x/2) / (1 - x/2)
    "left of -2": (diagonal(-3.0, 0.5, -0.2), True, True),
    "two of them": (diagonal(-3.0, -2.5, -0.2), True, False),
    "right of -2": (diagonal(-1.9, 0.5, -0.2), False, False),
    "a complex pair left of -2": (torch.block_diag(pair(-5.0, 1.0), diagonal(0.5)), False, False),
    "beyond the pole at 2": (diagonal(3.0, 0.5, -0.2), True, True),
}


@pytest.mark.parametrize("kind", ["dense", "arnoldi"])
@pytest.mark.parametrize("method", ["implicit_midpoint", "trapezoid"])
@pytest.mark.parametrize("name", IMPLICIT_CASES)
def test_implicit_steps_are_flagged_where_their_rational_function_is_negative(
    name: str, method: str, kind: str
) -> None:
    matrix, flagged, certified = IMPLICIT_CASES[name]
    own = similar(matrix)
    found = spectrum_of_one_step(own, method, kind)
    exact = np.linalg.eigvals(solve_exactly(np.eye(3) - own.numpy() / 2, np.eye(3) + own.numpy() / 2))
    real = exact.real[np.abs(exact.imag) < 1e-12]
    assert found.decided.all()
    assert (found.flagged == flagged).all()
    assert bool((real < 0).any()) == flagged
    if flagged:
        np.testing.assert_allclose(found.least_real.numpy(), real.min(), rtol=1e-8)
    if kind == "dense":
        assert (found.certified == certified).all()


@pytest.mark.parametrize("value", [-30.0, -4.5, -2.0, -0.5, 1.0])
def test_kvaerno3_is_flagged_where_its_stability_function_is_negative(value: float) -> None:
    above, below = (
        np.polynomial.Polynomial([float(c) for c in row]) for row in IMPLICIT_TABLEAUS["kvaerno3"].stability_function
    )
    factor = above(value) / below(value)
    found = spectrum_of_one_step(similar(diagonal(value, 0.2, -0.1)), "kvaerno3")
    assert (found.flagged == (factor < 0)).all()
    assert (found.certified == (factor < 0)).all()


@pytest.mark.parametrize("by_products", [False, True])
def test_full_jacobians_and_arnoldi_agree_on_an_implicit_step_of_a_network(
    by_products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 48), nn.Tanh(), nn.Linear(48, 12)).double()
    for parameter in network.parameters():
        parameter.data *= 2
    # It contracts, so that a step's equation has one solution, whoever solves it.
    psi = step_map(lambda t, z: network(z) - 3.6 * z, "implicit_midpoint")
    grid = fixed_grid(SolverSpec(method="implicit_midpoint", steps=2), 30, 1.0)
    states = numerical_path(psi, grid, torch.randn(30, 12, dtype=torch.float64))

    dense = step_spectrum(psi, grid, states)
    if by_products:
        for module in (linearisation, step_maps):
            monkeypatch.setattr(module, "DENSE_JACOBIAN", 0)
    arnoldi = step_spectrum(psi, grid, states, method="arnoldi")

    assert arnoldi.undecided_share < 0.1
    assert 0.05 < dense.flagged_share < 0.95
    assert torch.equal(dense.flagged, arnoldi.flagged)
