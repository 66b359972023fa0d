import warnings

import pytest
import torch

from ode_core.solvers.gradients.reversible import ReconstructionWarning
from ode_core.solvers.solve import solve
from ode_core.solvers.status import SolveStatus
from ode_core.specs import SolverSpec
from tests.ode_core.solvers.gradients.losses import STARTS, TIMES, function_of, gradients, largest_difference
from tests.ode_core.solvers.gradients.saved_memory import peak_of_saved_bytes
from tests.ode_core.solvers.problems import Watched, coupled


def leapfrog(steps: int) -> SolverSpec:
    return SolverSpec(method="asynchronous_leapfrog", steps=steps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("times", [None, TIMES], ids=["end", "outputs"])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.3, 0.2)])
@pytest.mark.parametrize("steps", [1, 8, 100])
def test_the_gradient_is_that_of_backpropagation_to_round_off(steps, t0, t1, times, dtype):
    ours = gradients("reversible", leapfrog(steps), t0=t0, t1=t1, times=times, dtype=dtype)
    theirs = gradients("backprop", leapfrog(steps), t0=t0, t1=t1, times=times, dtype=dtype)
    # A rounding on the way back grows at most like the parasitic mode, (x + sqrt(1 + x^2))^N < exp(N x), where
    # N x = L |t1 - t0| and L, the field's Lipschitz constant along the solutions, is about 3: by less than 30. Of the
    # roundings of N steps, which are random, about sqrt(N) add up.
    assert ours[0].dtype == dtype
    assert largest_difference(ours, theirs) < 30 * (1 + steps) ** 0.5 * torch.finfo(dtype).eps


def test_the_gradient_is_that_of_the_discrete_map():
    z0 = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    factor = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    for gradient in ("backprop", "reversible"):
        assert torch.autograd.gradcheck(function_of(gradient, leapfrog(5)), (z0, factor))


def test_everything_but_the_gradient_is_as_with_backpropagation():
    z0 = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    times = torch.tensor(TIMES, dtype=torch.float64)
    plain = solve(coupled, z0, leapfrog(7), times=times)
    ours = solve(coupled, z0, leapfrog(7), times=times, gradient="reversible", parameters=[])
    for name in ("final", "trajectory", "status", "evaluations", "accepted", "rejected", "last_step", "times"):
        assert torch.equal(getattr(ours, name), getattr(plain, name))


def test_the_backward_pass_asks_once_a_step_and_once_at_the_start():
    field = Watched(coupled, 0.2, 0.9)
    z0 = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    solution = solve(field, z0, leapfrog(9), t0=0.2, t1=0.9, gradient="reversible", parameters=[])
    assert len(field.calls) == 10
    solution.final.sum().backward()
    assert len(field.calls) == 20


def test_memory_does_not_grow_with_the_steps():
    few, many = (peak_of_saved_bytes("reversible", leapfrog(steps)) for steps in (16, 256))
    assert few == many


def test_a_sample_that_fails_leaves_the_others_gradients_alone():
    results = []
    for starts in ([[0.2], [1e200], [torch.nan], [0.1]], [[0.2], [0.1]]):
        factor = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        z0 = torch.tensor(starts, dtype=torch.float64, requires_grad=True)
        solution = solve(
            lambda t, z, factor=factor: factor * z * z,
            z0,
            leapfrog(8),
            times=torch.tensor([0.0, 0.5], dtype=torch.float64),
            gradient="reversible",
            parameters=[factor],
        )
        good = solution.status == SolveStatus.SUCCESS
        assert int(good.sum()) == 2
        (solution.final[good].sum() + solution.trajectory[:, good].sum()).backward()
        assert bool((z0.grad[~good] == 0).all())
        results.append((factor.grad, z0.grad[good]))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-13, atol=0)


def test_a_batch_that_fails_altogether_has_no_gradient():
    factor = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    z0 = torch.full((2, 1), 1e200, dtype=torch.float64, requires_grad=True)
    solution = solve(lambda t, z: factor * z * z, z0, leapfrog(4), gradient="reversible", parameters=[factor])
    start, by_factor = torch.autograd.grad(solution.final.sum(), (z0, factor), allow_unused=True)
    assert bool((start == 0).all())
    assert by_factor is None


def test_a_walk_back_that_misses_the_start_is_told():
    # h lambda = 0.4: the parasitic mode grows by 1.477 a step, in 50 steps by 3e8, and 1e-16 becomes 3e-8 and more.
    z0 = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    solution = solve(lambda t, z: -20 * z, z0, leapfrog(50), gradient="reversible", parameters=[])
    with pytest.warns(ReconstructionWarning, match="missed the start by .*use gradient checkpoint"):
        solution.final.sum().backward()
    solution = solve(lambda t, z: -2 * z, z0, leapfrog(50), gradient="reversible", parameters=[])
    with warnings.catch_warnings(action="error"):
        solution.final.sum().backward()
