import pytest
import torch

from ode_core.solvers.newton import LONG, SHORT, StageSolver, round_off

EVERYONE = torch.tensor([True])


def at(t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=torch.float64)


def one(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


@pytest.mark.parametrize("patience", [SHORT, LONG])
def test_a_kept_jacobian_that_is_far_too_large_does_not_pass_for_convergence(patience):
    # Stiff at t = 0 and not at t = 1: with the Jacobian of the first stage the second's first update is a
    # hundred-millionth of what it should be, far below what is allowed.
    def field(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return torch.where(t < 0.5, -1e9, -1.0) * z

    newton = StageSolver(field, one(0), patience, None)
    scale = torch.tensor([0.1], dtype=torch.float64)

    def allowed(base: torch.Tensor, increment: torch.Tensor) -> torch.Tensor:
        return one(1e-3)

    newton.solve(at(0.0), one(1.0), scale, one(0.0), EVERYONE, allowed)
    k = newton.solve(at(1.0), one(1.0), scale, one(0.0), EVERYONE, allowed)
    assert not bool(newton.failed.any())
    assert abs(0.1 * float(k) + 0.1 / 1.1) <= 1e-3


def test_a_kept_jacobian_that_is_far_too_small_is_replaced_and_the_iteration_begins_again():
    def field(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return torch.where(t < 0.5, -1.0, -1e9) * z

    newton = StageSolver(field, one(0), LONG, None)
    scale = torch.tensor([0.1], dtype=torch.float64)
    newton.solve(at(0.0), one(1.0), scale, one(0.0), EVERYONE, round_off)
    k = newton.solve(at(1.0), one(1.0), scale, one(0.0), EVERYONE, round_off)
    assert not bool(newton.failed.any())
    assert float(k) == pytest.approx(-1e9 / (1 + 1e8), rel=1e-12)


def test_a_kept_jacobian_that_still_fits_is_used_again():
    newton = StageSolver(lambda t, z: -z * z, one(0), LONG, None)
    scale = torch.tensor([0.1], dtype=torch.float64)
    newton.solve(at(0.0), one(1.0), scale, one(-1.0), EVERYONE, lambda base, increment: one(1e-3))
    first = int(newton.evaluations)
    newton.solve(at(0.0), one(1.01), scale, one(-1.0), EVERYONE, lambda base, increment: one(1e-3))
    # A Jacobian and an update that with it proves small, or two updates without one.
    assert first == 3
    assert int(newton.evaluations) - first == 2


def test_samples_that_are_not_wanted_keep_their_guess_and_take_no_evaluations():
    newton = StageSolver(lambda t, z: -z, torch.ones(2, 1), LONG, None)
    guess = torch.tensor([[5.0], [5.0]])
    k = newton.solve(
        at(0.0).float(), torch.ones(2, 1), torch.full((2,), 0.5), guess, torch.tensor([True, False]), round_off
    )
    assert k[1].item() == 5.0
    assert k[0].item() == pytest.approx(-1 / 1.5, rel=1e-6)
    assert int(newton.evaluations[1]) == 0


def test_an_update_whose_square_is_no_float32_does_not_pass_for_none():
    # As above, with a first update of 1e-30: its square underflows, and 0 is no sign of a solution.
    def field(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return torch.where(t < 0.5, -1e30, -1.0) * z

    one, scale = torch.ones(1, 1), torch.ones(1)
    newton = StageSolver(field, one, SHORT, None)

    def allowed(base: torch.Tensor, increment: torch.Tensor) -> torch.Tensor:
        return torch.full((1, 1), 1e-3)

    newton.solve(torch.tensor(0.0), one, scale, 0 * one, EVERYONE, allowed)
    k = newton.solve(torch.tensor(1.0), one, scale, 0 * one, EVERYONE, allowed)
    assert not bool(newton.failed.any())
    assert abs(float(k) + 0.5) <= 1e-3
