import pytest
import torch

from ode_core.solvers.solve import solve
from ode_core.specs import METHODS, SolverSpec


@pytest.mark.parametrize("method", [name for name, facts in METHODS.items() if facts.backends[0] == "odeness"])
def test_a_sample_that_fails_on_a_grid_leaves_the_others_gradients_alone(method):
    results = []
    for starts in ([[1e200], [0.2], [torch.nan], [0.1]], [[0.2], [0.1]]):
        factor = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        z0 = torch.tensor(starts, dtype=torch.float64, requires_grad=True)
        times = torch.tensor([0.0, 0.4], dtype=torch.float64)
        calls = []

        def field(t, z, factor=factor, calls=calls):
            calls.append(t)
            return factor * z * z

        solution = solve(field, z0, SolverSpec(method=method, steps=8), times=times)
        good = solution.succeeded
        assert int(good.sum()) == 2
        # The outputs that were reached are there all the same.
        assert bool(torch.isfinite(solution.trajectory[0, z0[:, 0] > 1]).all())
        assert bool(torch.isnan(solution.final[~good]).all())
        assert len(calls) == int(solution.evaluations[0]) * (1 if bool(good.all()) else 2)
        (solution.final[good].sum() + solution.trajectory[:, good].sum()).backward()
        assert bool((z0.grad[~good] == 0).all())
        results.append((factor.grad, z0.grad[good]))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-14, atol=0)


def test_a_batch_that_fails_altogether_has_no_gradient():
    factor = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    z0 = torch.full((2, 1), 1e200, dtype=torch.float64, requires_grad=True)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    solution = solve(lambda t, z: factor * z * z, z0, SolverSpec(method="euler", steps=4), times=times)
    assert bool(torch.isnan(solution.final).all())
    start, by_factor = torch.autograd.grad(solution.final.sum(), (z0, factor), allow_unused=True)
    assert bool((start == 0).all())
    assert by_factor is None
