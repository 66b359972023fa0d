import numpy as np
import pytest
import torch
from torch import Tensor

from ode_core.solvers.solve import solve
from ode_core.solvers.status import SolveStatus
from ode_core.specs import METHODS, SolverSpec
from tests.ode_core.solvers.gradients.losses import (
    EXPLICIT,
    STARTS,
    TIMES,
    function_of,
    gradients,
    largest_difference,
    solvers,
)
from tests.ode_core.solvers.gradients.saved_memory import STATE_BYTES, peak_of_saved_bytes
from tests.ode_core.solvers.problems import Watched, accuracy, coupled


@pytest.mark.parametrize("times", [None, TIMES], ids=["end", "outputs"])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.3, 0.2)])
@pytest.mark.parametrize("solver", solvers(), ids=lambda solver: solver.label)
def test_the_gradient_is_that_of_backpropagation_to_round_off(solver, t0, t1, times):
    ours = gradients("checkpoint", solver, t0=t0, t1=t1, times=times)
    theirs = gradients("backprop", solver, t0=t0, t1=t1, times=times)
    # The same sums in another order, along a few dozen steps: a few dozen roundings.
    assert largest_difference(ours, theirs) < 100 * torch.finfo(torch.float64).eps


@pytest.mark.parametrize("solver", solvers(["euler", "dopri5", "fehlberg2"]), ids=lambda solver: solver.label)
def test_in_float32_it_is_that_of_backpropagation_to_round_off_too(solver):
    ours = gradients("checkpoint", solver, times=TIMES, dtype=torch.float32)
    theirs = gradients("backprop", solver, times=TIMES, dtype=torch.float32)
    assert ours[0].dtype == torch.float32
    assert largest_difference(ours, theirs) < 100 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("method", EXPLICIT)
def test_the_gradient_on_a_grid_is_that_of_the_discrete_map(method):
    z0 = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    factor = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function_of("checkpoint", SolverSpec(method=method, steps=4)), (z0, factor))


@pytest.mark.parametrize("method", ["bosh3", "dopri5"])
def test_the_gradient_with_tolerances_is_that_of_the_solution(method):
    z0 = torch.tensor(STARTS[:2], dtype=torch.float64, requires_grad=True)
    factor = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    tolerance = 1e-5
    ends = function_of("checkpoint", SolverSpec(method=method, rtol=tolerance, atol=tolerance))
    # Finite differences see the steps change with the start, the gradient does not: the two differ by the change
    # of the global error with the steps. That error goes with h^order, so it changes order times as fast as h.
    allowed = METHODS[method].order * accuracy(method, tolerance)
    assert torch.autograd.gradcheck(ends, (z0, factor), atol=allowed, rtol=0)


@pytest.mark.parametrize("rule", [{"steps": 10}, {"rtol": 1e-5, "atol": 1e-5}])
def test_everything_but_the_gradient_is_as_with_backpropagation(rule):
    solver = SolverSpec(method="bosh3", **rule)
    z0 = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    times = torch.tensor(TIMES, dtype=torch.float64)
    plain = solve(coupled, z0, solver, times=times)
    ours = solve(coupled, z0, solver, times=times, gradient="checkpoint", parameters=[])
    assert torch.equal(ours.final, plain.final)
    assert torch.equal(ours.trajectory, plain.trajectory)
    for name in ("status", "evaluations", "accepted", "rejected", "last_step", "times"):
        assert torch.equal(getattr(ours, name), getattr(plain, name))


@pytest.mark.parametrize(("t0", "t1"), [(0.1, 0.7), (0.7, 0.1)])
@pytest.mark.parametrize("rule", [{"steps": 7}, {"rtol": 1e-5, "atol": 1e-5}])
def test_the_backward_pass_asks_the_field_within_the_interval_only_and_as_often_as_the_steps_did(rule, t0, t1):
    solver = SolverSpec(method="dopri5", **rule)
    field = Watched(coupled, t0, t1)
    z0 = torch.tensor(STARTS[:1], dtype=torch.float64, requires_grad=True)
    solution = solve(field, z0, solver, t0=t0, t1=t1, gradient="checkpoint", parameters=[])
    forward = len(field.calls)
    solution.final.sum().backward()
    assert len(field.calls) - forward == METHODS["dopri5"].evaluations(int(solution.accepted))


# ---------------------------------------------------------------- memory


def test_one_step_of_the_graph_is_kept_at_a_time_and_one_state_for_each_step():
    peaks = {
        gradient: [peak_of_saved_bytes(gradient, SolverSpec(method="rk4", steps=n)) for n in (16, 64)]
        for gradient in ("backprop", "checkpoint")
    }
    growth = {gradient: (late - early) / 48 for gradient, (early, late) in peaks.items()}
    assert growth["checkpoint"] == STATE_BYTES
    # A step's graph holds four times the hidden layer at least, 50 numbers to the state's 2.
    assert growth["backprop"] > 4 * 25 * STATE_BYTES
    assert peaks["checkpoint"][0] < 16 * STATE_BYTES + 2 * growth["backprop"]


def test_with_tolerances_only_the_accepted_states_are_kept():
    growth = []
    for gradient in ("backprop", "checkpoint"):
        loose, tight = (
            peak_of_saved_bytes(gradient, SolverSpec(method="bosh3", rtol=tolerance, atol=tolerance))
            for tolerance in (1e-3, 1e-9)
        )
        growth.append(tight - loose)
    # A step's graph has three times the hidden layer, 50 numbers to the state's 2. A state comes with three times and
    # the sample's place, 32 bytes to its 16.
    assert growth[1] * 10 < growth[0]


# ---------------------------------------------------------------- failing samples


def circle(t: Tensor, z: Tensor, rate: Tensor) -> Tensor:
    """``z' = rate sqrt(1 - z^2)``, whose solution is ``sin(rate t)``; beyond 0.995 it is NaN, also backwards."""
    one = torch.sqrt(0.995 - z) / torch.sqrt(0.995 - z)
    return rate * torch.sqrt(1 - z * z) * one


@pytest.mark.parametrize("rule", [{"steps": 8}, {"rtol": 1e-6, "atol": 1e-6}])
@pytest.mark.parametrize("bad", [1.5, torch.nan, 0.9])
def test_a_sample_that_fails_leaves_the_others_gradients_alone(rule, bad):
    # 1.5 is NaN at once, 0.9 after a while.
    solver = SolverSpec(method="dopri5", **rule)
    results = []
    for starts in ([[0.2], [bad], [0.1]], [[0.2], [0.1]]):
        rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        z0 = torch.tensor(starts, dtype=torch.float64, requires_grad=True)
        solution = solve(
            lambda t, z, rate=rate: circle(t, z, rate),
            z0,
            solver,
            times=torch.tensor([0.0, 0.5], dtype=torch.float64),
            gradient="checkpoint",
            parameters=[rate],
        )
        good = solution.succeeded
        assert int(good.sum()) == 2
        (solution.final[good].sum() + solution.trajectory[:, good].sum()).backward()
        results.append((rate.grad, z0.grad[good]))
        assert bool((z0.grad[~good] == 0).all())
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=0)
    exact = sum(np.cos(np.arcsin(z) + 1.0) + 0.5 * np.cos(np.arcsin(z) + 0.5) for z in (0.2, 0.1))
    assert abs(float(results[0][0]) - exact) < 1e-4


@pytest.mark.parametrize("rule", [{"steps": 8}, {"rtol": 1e-6, "atol": 1e-6}])
def test_the_outputs_of_a_failing_sample_before_its_end_have_gradients(rule):
    # z' = z^2 from 1.5 is 1 / (2/3 - t): it ends at t = 2/3.
    z0 = torch.tensor([[1.5], [0.5]], dtype=torch.float64, requires_grad=True)
    times = torch.tensor([0.0, 0.25], dtype=torch.float64)
    solution = solve(
        lambda t, z: torch.where(z > 20, torch.nan, z * z),
        z0,
        SolverSpec(method="dopri5", **rule),
        times=times,
        gradient="checkpoint",
        parameters=[],
    )
    assert solution.status[1] == SolveStatus.SUCCESS != solution.status[0]
    solution.trajectory.sum().backward()
    # d/dz0 of z0 / (1 - t z0) is 1 / (1 - t z0)^2.
    expected = [1 + 1 / (1 - 0.25 * z) ** 2 for z in (1.5, 0.5)]
    assert torch.allclose(z0.grad.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4)


def test_outputs_off_an_interpolant_are_refused():
    z0 = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    times = torch.tensor([0.5], dtype=torch.float64)
    solver = SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="gradient checkpoint lands on the output times"):
        solve(coupled, z0, solver, times=times, outputs="interpolate", gradient="checkpoint", parameters=[])


def test_a_solve_beyond_its_budget_has_no_gradient():
    z0 = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    for solver in solvers(["dopri5"]):
        solution = solve(coupled, z0, solver, gradient="checkpoint", parameters=[], max_evaluations=3)
        (start,) = torch.autograd.grad(solution.final.sum(), z0)
        assert bool((start == 0).all())
