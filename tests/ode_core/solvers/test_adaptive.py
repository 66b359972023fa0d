import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from ode_core.solvers.solve import solve
from ode_core.solvers.status import SolveStatus
from ode_core.specs import METHODS, SolverSpec
from tests.ode_core.solvers.problems import (
    ADAPTIVE,
    Watched,
    accuracy,
    bernoulli,
    bernoulli_solution,
    coupled,
    coupled_solution,
)

START = (1.1, 0.4)


def start(batch: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor([START] * batch, dtype=dtype)


def spec(method: str, tolerance: float = 1e-6, **settings: int) -> SolverSpec:
    return SolverSpec(method=method, rtol=tolerance, atol=tolerance, **settings)


def uneven_batch(samples: int = 1000) -> torch.Tensor:
    """States from tame to wild, so that samples need from a few to dozens of steps."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-2, 2, samples, dtype=torch.float64)[:, None]
    return scale * torch.rand(samples, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("t0", "t1"), [(0.2, 1.7), (1.7, 0.2)])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_error_follows_the_tolerance(method, t0, t1):
    exact = coupled_solution(t0, t1, START)
    for tolerance in (1e-4, 1e-5, 1e-6, 1e-7):
        final = solve(coupled, start(), spec(method, tolerance), t0=t0, t1=t1).final[0]
        assert float((final - exact).abs().max()) < accuracy(method, tolerance)


@pytest.mark.parametrize(("method", "scipy_method"), [("bosh3", "RK23"), ("dopri5", "RK45"), ("dopri8", "DOP853")])
@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_a_solve_takes_about_the_steps_and_evaluations_of_scipy(method, scipy_method, tolerance):
    def field(t: float, z: np.ndarray) -> list[float]:
        return [np.sin(3 * t) - z[0] * z[1], np.cos(t) * z[0] ** 2 - z[1]]

    theirs = solve_ivp(field, (0.0, 10.0), START, method=scipy_method, rtol=tolerance, atol=tolerance)
    ours = solve(coupled, start(), spec(method, tolerance), t1=10.0)
    # The same estimate, norm and root of it; SciPy lets a step shrink after an accept, which moves a few.
    assert int(ours.accepted) == pytest.approx(len(theirs.t) - 1, rel=0.05, abs=1)
    assert int(ours.evaluations) == pytest.approx(theirs.nfev, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (0.1, 0.7), (0.7, 0.1), (-0.3, 0.1)])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_field_is_never_asked_outside_the_interval_and_the_end_is_hit_exactly(method, t0, t1, dtype):
    field = Watched(coupled, t0, t1)
    times = torch.tensor([t0, t0 + 0.21 * (t1 - t0), t1], dtype=dtype)
    solution = solve(field, start(2, dtype), spec(method, 1e-5), t0=t0, t1=t1, times=times)
    assert solution.succeeded.all()
    assert torch.equal(solution.trajectory[0], start(2, dtype))
    assert torch.equal(solution.trajectory[-1], solution.final)
    asked = torch.stack([t.flatten() for t in field.calls])
    assert {t.shape for t in field.calls} == {(2, 1)}
    # Stages at both ends and, as steps land there, at the output between.
    for t in times:
        assert bool((asked == t).any())


@pytest.mark.parametrize("method", ADAPTIVE)
def test_evaluations_are_those_of_the_identity_for_every_sample(method):
    solution = solve(bernoulli, uneven_batch(200), spec(method), t1=2.0)
    attempts = solution.accepted + solution.rejected
    stages = METHODS[method].stages
    expected = 2 + (stages - 1) * attempts
    if not METHODS[method].first_same_as_last:
        expected = expected + solution.accepted - 1  # the slope at each new state but the last
    assert torch.equal(solution.evaluations, expected)
    assert int(solution.rejected.max()) > 0
    assert len(set(solution.accepted.tolist())) > 5


def test_a_single_samples_evaluations_are_the_calls_of_its_field():
    for method in ADAPTIVE:
        field = Watched(coupled, 0.0, 2.0)
        solution = solve(field, start(), spec(method), t1=2.0)
        assert solution.evaluations.tolist() == [len(field.calls)]


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_sample_comes_out_the_same_bit_for_bit_whoever_its_batch_mates_are(method):
    z0 = uneven_batch()
    solver = spec(method, 1e-5)
    times = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)

    def run(z: torch.Tensor) -> list[torch.Tensor]:
        s = solve(bernoulli, z, solver, t1=2.0, times=times)
        assert s.trajectory is not None
        return [s.final, s.status, s.evaluations, s.accepted, s.rejected, s.last_step, s.trajectory.transpose(0, 1)]

    together = run(z0)
    order = torch.randperm(len(z0), generator=torch.Generator().manual_seed(1))
    for permuted, original in zip(run(z0[order]), together, strict=True):
        assert torch.equal(permuted, original[order])
    for i in range(0, len(z0), 111):
        for alone, original in zip(run(z0[i : i + 1]), together, strict=True):
            assert torch.equal(alone[0], original[i])


def test_easy_batch_mates_do_not_spoil_a_hard_samples_accuracy():
    # With one norm for the whole batch, 999 easy samples hide the error of a hard one (1.6e-5 -> 1.8e-3 elsewhere).
    z0 = torch.cat([torch.full((1, 1), 50.0), torch.full((999, 1), 1e-3)]).double()
    alone, together = (solve(bernoulli, z, spec("dopri5", 1e-5), t1=1.0).final[0] for z in (z0[:1], z0))
    assert torch.equal(alone, together)
    assert torch.allclose(together, bernoulli_solution(1.0, z0[0]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_finished_sample_keeps_its_state_while_others_go_on(method):
    # The first sample is at rest and done after few steps; a slow drift would show in its last digits.
    z0 = torch.tensor([[0.0], [80.0]], dtype=torch.float64)
    solution = solve(bernoulli, z0, spec(method), t1=1.0)
    assert int(solution.accepted[0]) < int(solution.accepted[1])
    assert solution.final[0].item() == 0.0
    assert int(solution.evaluations[0]) < int(solution.evaluations[1])


def singular_from_half(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """NaN beyond t = 0.5 for samples whose second number is 1."""
    value = -z * torch.tensor([1.0, 0.0], dtype=z.dtype)
    return torch.where((t > 0.5) & (z[:, 1:] == 1), torch.nan, value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_failing_sample_is_marked_and_the_others_finish_as_if_alone(method, dtype):
    z0 = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [torch.nan, 0.0], [3.0, torch.inf]], dtype=dtype)
    times = torch.tensor([0.25, 0.75], dtype=dtype)
    solution = solve(singular_from_half, z0, spec(method, 1e-4), times=times)
    bad = int(SolveStatus.NON_FINITE)
    assert solution.status.tolist() == [0, bad, 0, bad, bad]
    assert torch.isnan(solution.final).all(dim=1).tolist() == [False, True, False, True, True]
    # What was reached before the failure stands.
    assert torch.isnan(solution.trajectory).all(dim=2).tolist() == [
        [False, False, False, True, True],
        [False, True, False, True, True],
    ]
    good = solve(singular_from_half, z0[[0, 2]], spec(method, 1e-4), times=times)
    assert torch.equal(solution.final[[0, 2]], good.final)
    assert torch.equal(solution.evaluations[[0, 2]], good.evaluations)
    assert torch.equal(solution.trajectory[:, [0, 2]], good.trajectory)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_step_that_becomes_too_small_is_an_underflow(method):
    # z' = z^2 from 2 grows without bound towards t = 1/2; from 0.5 it reaches 1 at t = 1.
    z0 = torch.tensor([[2.0], [0.5]], dtype=torch.float32)
    solution = solve(lambda t, z: z * z, z0, spec(method, 1e-4, max_steps=100_000))
    assert solution.status.tolist() == [SolveStatus.STEP_UNDERFLOW, SolveStatus.SUCCESS]
    assert torch.isnan(solution.final[0]).all()
    assert torch.allclose(solution.final[1], torch.tensor([1.0]), rtol=0, atol=accuracy(method, 1e-4))


@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_step_limit_ends_a_sample_with_its_status(method):
    z0 = torch.tensor([[50.0], [0.0]], dtype=torch.float64)
    solution = solve(bernoulli, z0, spec(method, 1e-8, max_steps=12))
    assert solution.status.tolist() == [SolveStatus.MAX_STEPS_REACHED, SolveStatus.SUCCESS]
    assert int(solution.accepted[0] + solution.rejected[0]) == 12


def test_a_limit_of_exactly_the_steps_needed_is_enough():
    needed = solve(coupled, start(), spec("dopri5"))
    steps = int(needed.accepted + needed.rejected)
    assert solve(coupled, start(), spec("dopri5", max_steps=steps)).succeeded.all()
    assert not solve(coupled, start(), spec("dopri5", max_steps=steps - 1)).succeeded.any()


@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_budget_bounds_the_evaluations_of_every_sample(method):
    z0 = uneven_batch(50)
    free = solve(bernoulli, z0, spec(method), t1=1.0)
    for budget in (0, 5, 8, 20, int(free.evaluations.median()), int(free.evaluations.max())):
        solution = solve(bernoulli, z0, spec(method), t1=1.0, max_evaluations=budget)
        assert int(solution.evaluations.max()) <= budget
        affordable = free.evaluations <= budget
        assert torch.equal(solution.succeeded, affordable)
        assert torch.equal(solution.final[affordable], free.final[affordable])
        assert set(solution.status[~affordable].tolist()) <= {int(SolveStatus.BUDGET_EXCEEDED)}


@settings(max_examples=25)
@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=8).map(sorted),
    method=st.sampled_from(ADAPTIVE),
    backwards=st.booleans(),
)
def test_outputs_anywhere_are_as_accurate_as_the_end(shares, method, backwards):
    t0, t1 = (1.5, 0.0) if backwards else (0.0, 1.5)
    z0 = bernoulli_solution(t0, torch.tensor([[0.5], [2.0]], dtype=torch.float64))
    times = t0 + (t1 - t0) * torch.tensor(shares, dtype=torch.float64)
    solution = solve(bernoulli, z0, spec(method, 1e-6), t0=t0, t1=t1, times=times)
    exact = bernoulli_solution(times[:, None, None], torch.tensor([[0.5], [2.0]], dtype=torch.float64))
    # Backwards the equation magnifies a disturbance by up to (z(0) / z(1.5))^2 = 5.5^2.
    assert torch.allclose(solution.trajectory, exact, rtol=0, atol=5.5**2 * accuracy(method, 1e-6))


def test_repeated_output_times_repeat_the_state():
    times = torch.tensor([0.0, 0.0, 0.4, 0.4, 1.0, 1.0], dtype=torch.float64)
    trajectory = solve(coupled, start(2), spec("dopri5"), times=times).trajectory
    for first in (0, 2, 4):
        assert torch.equal(trajectory[first], trajectory[first + 1])


def test_a_stop_next_to_a_steps_end_costs_no_extra_step():
    # The controller's third step ends a little before the stop; it is stretched instead of leaving a sliver.
    free = solve(coupled, start(), spec("dopri5", 1e-4), t1=1.0)
    almost = solve(coupled, start(), spec("dopri5", 1e-4), t1=1.0 + 1e-9)
    assert almost.accepted.tolist() == free.accepted.tolist()


def test_many_output_times_do_not_shrink_the_steps_that_follow():
    # 20 outputs within [0, 0.02], then free: the step must recover its length at once.
    crowded = torch.linspace(0.001, 0.02, 20, dtype=torch.float64)
    free = solve(coupled, start(), spec("dopri5", 1e-5), t1=2.0)
    many = solve(coupled, start(), spec("dopri5", 1e-5), t1=2.0, times=crowded)
    assert int(many.accepted) <= int(free.accepted) + len(crowded)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_autograd_through_accepted_steps_is_the_derivative_of_the_solution(method):
    rate = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    z0 = torch.tensor([[1.1, 0.4], [0.3, 2.0]], dtype=torch.float64, requires_grad=True)
    times = torch.tensor([0.13, 0.5, 1.0], dtype=torch.float64)
    # heun_euler takes steps of sqrt(tolerance); a thousand of them would take long.
    tolerance = 1e-4 if method == "heun_euler" else 1e-6

    def end(z0: torch.Tensor, rate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        solution = solve(lambda t, z: rate * coupled(t, z), z0, spec(method, tolerance), times=times)
        return solution.final, solution.trajectory

    # Finite differences see the steps change with the start, autograd does not: the two differ by the change
    # of the global error with the steps. That error goes with h^order, so it changes order times as fast as h.
    allowed = METHODS[method].order * accuracy(method, tolerance)
    assert torch.autograd.gradcheck(end, (z0, rate), atol=allowed, rtol=0)


def circle(t: torch.Tensor, z: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    """``z' = rate sqrt(1 - z^2)``, whose solution is ``sin(rate t)``; a stage beyond 1 is NaN."""
    return rate * torch.sqrt(1 - z * z)


def test_a_rejected_step_that_was_not_finite_leaves_no_nan_in_the_gradient():
    saw_nan = []
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def field(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        slope = circle(t, z, rate)
        saw_nan.append(bool(torch.isnan(slope).any()))
        return slope

    z0 = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    solution = solve(field, z0, spec("dopri5", 1e-3), t1=1.55)
    assert any(saw_nan)
    assert solution.succeeded.all()
    solution.final.sum().backward()
    exact = 2 * 1.55 * np.cos(1.55)
    # Near z = 1 the slope's derivative is large: a few tolerances.
    assert abs(float(rate.grad) - exact) < 0.02
    assert bool(torch.isfinite(z0.grad).all())


def test_a_sample_that_fails_at_the_start_leaves_the_others_gradients_alone():
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    z0 = torch.tensor([[0.2], [1.5]], dtype=torch.float64, requires_grad=True)
    solution = solve(lambda t, z: circle(t, z, rate), z0, spec("dopri5", 1e-6))
    assert solution.status.tolist() == [SolveStatus.SUCCESS, SolveStatus.NON_FINITE]
    solution.final[0].sum().backward()
    # z = sin(asin(0.2) + rate t): the derivative by the rate at t = 1 is cos of that.
    assert abs(float(rate.grad) - np.cos(np.arcsin(0.2) + 1.0)) < 1e-4
    assert z0.grad[1].item() == 0.0


def test_the_graph_is_not_kept_without_gradients():
    with torch.no_grad():
        assert not solve(coupled, start().requires_grad_(), spec("dopri5")).final.requires_grad


def test_a_tolerance_below_the_smallest_number_does_not_fail_a_component_that_stays_zero():
    z0 = torch.tensor([[1.0, 0.0]])
    solver = SolverSpec(method="dopri5", rtol=1e-4, atol=1e-50)
    solution = solve(lambda t, z: -z, z0, solver)
    assert solution.status.tolist() == [SolveStatus.SUCCESS]
    # The step control keeps the error of a step below 1e-4 of the state; a few steps cover the interval.
    assert solution.final[0, 0].item() == pytest.approx(math.exp(-1), rel=1e-3)


def only_below_two(t: torch.Tensor, z: torch.Tensor, rate: torch.Tensor | float = 1.0) -> torch.Tensor:
    """``z' = rate z``, which is no number from 2 on: some samples land where the field cannot be evaluated."""
    return rate * z * torch.where(z < 2, 1.0, torch.nan)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_failing_sample_leaves_the_gradients_of_the_others_alone_wherever_it_fails(method):
    z0 = torch.linspace(0.5, 1.9, 60, dtype=torch.float64)[:, None]
    tolerance = 1e-4 if method == "fehlberg2" else 1e-2  # whose steps are 20 times as long; see accuracy
    for start in (z0, torch.cat([torch.full((1, 1), 5.0, dtype=torch.float64), z0])):
        rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        solution = solve(lambda t, z, rate=rate: only_below_two(t, z, rate), start, spec(method, tolerance), t1=1.0)
        good = solution.succeeded
        assert 0 < int(good.sum()) < len(start)
        solution.final[good].sum().backward()
        # d/d rate of exp(rate) z0 at rate 1; the error of a step's derivative is of the tolerance's size.
        expected = float((torch.e * start[good]).sum())
        assert float(rate.grad) == pytest.approx(expected, rel=0.1)


def test_a_batch_without_a_slope_at_the_start_has_no_gradient_and_no_error():
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    z0 = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    solution = solve(lambda t, z: rate * torch.log(z), z0, spec("dopri5"))
    assert solution.status.tolist() == [SolveStatus.NON_FINITE, SolveStatus.SUCCESS]
    solution.final[1].sum().backward()
    assert bool(torch.isfinite(rate.grad))
    assert not solve(lambda t, z: rate * torch.log(z), z0[:1], spec("dopri5")).succeeded.any()
