import math

import numpy as np
import pytest
import torch
import torchdiffeq
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import DOP853, RK23, RK45
from scipy.integrate._ivp.rk import rk_step

from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.solve import solve
from ode_core.solvers.status import SolveStatus
from ode_core.specs import METHODS, SolverSpec
from tests.ode_core.solvers.problems import (
    Watched,
    bernoulli,
    bernoulli_solution,
    coupled,
    coupled_solution,
)

METHOD_NAMES = [name for name, facts in METHODS.items() if facts.family == "explicit"]
START = (1.1, 0.4)


def start(batch: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor([START] * batch, dtype=dtype)


@pytest.mark.parametrize(("t0", "t1"), [(0.5, 1.5), (1.5, 0.5)])
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_the_error_falls_with_the_order_of_the_method(method, t0, t1):
    exact = coupled_solution(t0, t1, START)
    order = METHODS[method].order
    # Steps so many that errors lie between 1e-2 and 1e-14: above them the expansion in h does not hold yet, below
    # them rounding errors show, for order 5 from 128 steps on, for order 8 from 15.
    steps = {1: (64, 512), 2: (32, 256), 3: (32, 256), 4: (16, 128), 5: (32, 128), 8: (5, 15)}[order]
    counts = np.geomspace(*steps, 6).round().astype(int)
    errors = []
    for count in counts:
        final = solve(coupled, start(), SolverSpec(method=method, steps=int(count)), t0=t0, t1=t1).final
        errors.append(float((final[0] - exact).norm()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (0.1, 0.7), (0.7, 0.1), (-0.3, 0.1)])
@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("steps", [1, 3, 49, 100])
def test_the_field_is_asked_within_the_interval_and_exactly_as_often_as_stated(method, t0, t1, dtype, steps):
    field = Watched(coupled, t0, t1)
    solution = solve(field, start(3, dtype), SolverSpec(method=method, steps=steps), t0=t0, t1=t1)
    assert len(field.calls) == METHODS[method].evaluations(steps)
    assert solution.evaluations.tolist() == [METHODS[method].evaluations(steps)] * 3
    assert solution.accepted.tolist() == [steps] * 3
    assert solution.rejected.tolist() == [0] * 3
    assert all(t.ndim == 0 and t.dtype == dtype for t in field.calls)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_size_of_one_over_n_makes_n_steps(dtype):
    # Accumulating h makes a spurious step for 140 of these in another library.
    for n in range(1, 2001):
        assert SolverSpec(method="euler", step_size=1 / n).fixed_steps() == n
    for n in (1, 3, 49, 93, 187, 749, 1999):
        field = Watched(lambda t, z: -z, 0.0, 1.0)
        solution = solve(field, start(1, dtype), SolverSpec(method="euler", step_size=1 / n))
        assert solution.accepted.tolist() == [n]
        expected = torch.tensor([k / n for k in range(n)], dtype=torch.float64)
        # k/n in one division and one multiplication: at most two roundings of float64, then one to the dtype.
        assert torch.allclose(torch.stack(field.calls).double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-15)


@given(step_size=st.floats(1e-4, 5.0), length=st.floats(0.01, 5.0))
def test_a_step_size_gives_the_fewest_steps_that_are_not_longer(step_size, length):
    steps = SolverSpec(method="euler", step_size=step_size).fixed_steps(0.0, length)
    assert length / steps <= step_size * (1 + 2e-9)
    assert steps == 1 or length / (steps - 1) > step_size * (1 - 2e-9)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("euler", "euler"), ("midpoint", "midpoint"), ("heun", "heun2"), ("heun3", "heun3"), ("rk4_38", "rk4")],
)
def test_states_are_those_of_torchdiffeq_on_the_same_grid(ours, theirs):
    # A power of two, so that torchdiffeq's accumulated grid is exact. The sums differ in their order only:
    # 64 steps of a contracting system leave a few dozen roundings.
    steps = 64
    expected = torchdiffeq.odeint(
        coupled,
        start(2),
        torch.tensor([0.0, 1.0], dtype=torch.float64),
        method=theirs,
        options={"step_size": 1 / steps},
    )[-1]
    final = solve(coupled, start(2), SolverSpec(method=ours, steps=steps)).final
    assert torch.allclose(final, expected, rtol=0, atol=64 * torch.finfo(torch.float64).eps)


@pytest.mark.parametrize(
    ("method", "theirs", "steps"),
    # torchdiffeq carries a stale slope from step to step of fehlberg2 and adaptive_heun, so that only one is right.
    [
        ("bosh3", "bosh3", 16),
        ("dopri5", "dopri5", 16),
        ("fehlberg2", "fehlberg2", 1),
        ("heun_euler", "adaptive_heun", 1),
    ],
)
def test_states_are_those_of_torchdiffeqs_adaptive_methods_made_to_land_on_the_same_grid(method, theirs, steps):
    # Tolerances that any step passes, and a landing at every grid point that a step would cross: with steps that would
    # all be longer, torchdiffeq takes ours.
    grid = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    expected = torchdiffeq.odeint(
        coupled,
        start(2),
        torch.tensor([0.0, 1.0], dtype=torch.float64),
        method=theirs,
        rtol=1e6,
        atol=1e6,
        options={"step_t": grid, "first_step": 2 / steps},
    )[-1]
    final = solve(coupled, start(2), SolverSpec(method=method, steps=steps)).final
    assert torch.allclose(final, expected, rtol=0, atol=64 * torch.finfo(torch.float64).eps)


@pytest.mark.parametrize(("method", "scipy_method"), [("bosh3", RK23), ("dopri5", RK45), ("dopri8", DOP853)])
def test_states_are_those_of_scipys_step_function(method, scipy_method):
    steps, h = 32, 1 / 32

    def f(t: float, z: np.ndarray) -> np.ndarray:
        return coupled(torch.tensor(t, dtype=torch.float64), torch.from_numpy(z)[None])[0].numpy()

    y, slope = np.array(START), f(0.0, np.array(START))
    stages = np.empty((scipy_method.n_stages + 1, 2))
    for k in range(steps):
        y, slope = rk_step(f, k * h, y, slope, h, scipy_method.A, scipy_method.B, scipy_method.C, stages)
    final = solve(coupled, start(), SolverSpec(method=method, steps=steps)).final
    assert torch.allclose(final[0], torch.from_numpy(y), rtol=0, atol=64 * torch.finfo(torch.float64).eps)


@pytest.mark.parametrize("method", list(TABLEAUS))
def test_one_step_of_a_linear_equation_multiplies_by_the_stability_polynomial(method):
    rates = torch.linspace(-3, 1, 9, dtype=torch.float64)[:, None]
    final = solve(lambda t, z: rates * z, torch.ones_like(rates), SolverSpec(method=method, steps=1)).final
    expected = sum(float(c) * rates**j for j, c in enumerate(TABLEAUS[method].stability_polynomial))
    # The largest term is 3^4 / 24; a handful of roundings of numbers of that size.
    assert torch.allclose(final, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_sample_comes_out_the_same_bit_for_bit_whoever_its_batch_mates_are(method):
    generator = torch.Generator().manual_seed(0)
    z0 = torch.rand(1000, 3, generator=generator, dtype=torch.float64)
    solver = SolverSpec(method=method, steps=7)
    together = solve(bernoulli, z0, solver).final
    order = torch.randperm(1000, generator=generator)
    assert torch.equal(solve(bernoulli, z0[order], solver).final, together[order])
    for i in range(0, 1000, 83):
        assert torch.equal(solve(bernoulli, z0[i : i + 1], solver).final[0], together[i])


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_sample_that_leaves_the_numbers_is_marked_and_the_others_finish(method):
    z0 = torch.tensor([[0.5], [1e200], [torch.nan], [0.7]], dtype=torch.float64)
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    solution = solve(lambda t, z: z * z, z0, SolverSpec(method=method, steps=8), times=times)
    assert solution.status.tolist() == [SolveStatus.SUCCESS, SolveStatus.NON_FINITE, SolveStatus.NON_FINITE, 0]
    assert torch.isnan(solution.final).flatten().tolist() == [False, True, True, False]
    assert torch.isnan(solution.trajectory[:, :, 0]).tolist() == [
        [False, False, True, False],
        [False, True, True, False],
        [False, True, True, False],
    ]
    good = solve(lambda t, z: z * z, z0[[0, 3]], SolverSpec(method=method, steps=8)).final
    assert torch.equal(solution.final[[0, 3]], good)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_autograd_through_the_steps_is_the_derivative_of_the_discrete_map(method):
    rate = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    z0 = start(2).requires_grad_()
    times = torch.tensor([0.13, 0.5, 1.0], dtype=torch.float64)

    def end(z0: torch.Tensor, rate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        solution = solve(lambda t, z: rate * coupled(t, z), z0, SolverSpec(method=method, steps=4), times=times)
        return solution.final, solution.trajectory

    assert torch.autograd.gradcheck(end, (z0, rate))


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_outputs_at_grid_points_are_the_states_there(method):
    solver = SolverSpec(method=method, steps=10)
    for dtype in (torch.float32, torch.float64):
        times = torch.linspace(0, 3, 11, dtype=dtype)
        trajectory = solve(coupled, start(2), solver, t1=3.0, times=times).trajectory
        for k in range(11):
            if k == 0:
                assert torch.equal(trajectory[0], start(2))
                continue
            part = solve(coupled, start(2), solver.with_steps(k), t1=3.0 * k / 10).final
            # The shorter solve has the same steps, whose h and t are rounded a little differently.
            assert torch.allclose(trajectory[k], part, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize(
    ("method", "power", "counts"),
    # The cubic Hermite interpolant, as on a method of order 4, where both errors show; then those of order 4 and 7.
    [
        ("rk4", 4, (8, 16, 32, 64)),
        ("dopri5", 5, (8, 16, 32, 64)),
        ("tsit5", 5, (8, 16, 32, 64)),
        ("dopri8", 8, (2, 3, 4, 6, 8)),
    ],
)
def test_outputs_between_grid_points_have_an_error_of_the_interpolants_power_of_the_step(method, power, counts, t0, t1):
    errors = []
    z0 = bernoulli_solution(t0, torch.tensor([[1.5]], dtype=torch.float64))
    extra = 3 if method == "dopri8" else 0  # stages of DOP853 for its interpolant alone
    for steps in counts:
        shares = (torch.arange(steps, dtype=torch.float64) + 0.37) / steps
        times = t0 + (t1 - t0) * shares
        field = Watched(bernoulli, t0, t1)
        solution = solve(field, z0, SolverSpec(method=method, steps=steps), t0=t0, t1=t1, times=times)
        exact = bernoulli_solution(times, torch.tensor(1.5, dtype=torch.float64))
        errors.append(float((solution.trajectory[:, 0, 0] - exact).abs().max()))
        # One more than without outputs: the slope at the end, for the interpolant on the last step.
        expected = METHODS[method].evaluations(steps) + 1 + extra * steps
        assert solution.evaluations.tolist() == [expected] == [len(field.calls)]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    # The end's error is of a like size for dopri8 at so few steps, and its own power is 8 too.
    assert abs(slope - power) < (1 if method == "dopri8" else 0.3)


@settings(max_examples=50)
@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=12).map(sorted),
    method=st.sampled_from(METHOD_NAMES),
    steps=st.integers(1, 9),
)
def test_asking_for_outputs_does_not_change_the_end(shares, method, steps):
    solver = SolverSpec(method=method, steps=steps)
    times = torch.tensor(shares, dtype=torch.float64)
    solution = solve(coupled, start(), solver, times=times)
    assert torch.equal(solution.final, solve(coupled, start(), solver).final)
    assert solution.trajectory.shape == (len(shares), 1, 2)
    assert bool(torch.isfinite(solution.trajectory).all())


def test_a_budget_too_small_for_the_grid_is_refused_before_anything_is_evaluated():
    field = Watched(coupled, 0.0, 1.0)
    solution = solve(field, start(2), SolverSpec(method="rk4", steps=5), max_evaluations=19)
    assert field.calls == []
    assert solution.status.tolist() == [SolveStatus.BUDGET_EXCEEDED] * 2
    assert bool(torch.isnan(solution.final).all())
    assert solve(field, start(2), SolverSpec(method="rk4", steps=5), max_evaluations=20).succeeded.all()


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 3, 4), (1, 2, 3, 4)])
@pytest.mark.parametrize("solver", [{"steps": 20}, {"rtol": 1e-6, "atol": 1e-8}])
def test_states_may_have_any_shape(shape, solver):
    z0 = torch.rand((3, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    solution = solve(bernoulli, z0, SolverSpec(method="dopri5", **solver), times=times)
    assert solution.final.shape == z0.shape
    assert solution.trajectory.shape == (3, *z0.shape)
    assert torch.allclose(solution.final, bernoulli_solution(1.0, z0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("solver", [{"steps": 100_000}, {"step_size": 1e-5, "grid": "truncate"}])
def test_float32_times_a_little_before_the_start_are_the_start(solver):
    times = torch.linspace(1000.1, 1001.1, 3)
    assert float(times[0]) < 1000.1
    z0 = torch.ones(1, 1, dtype=torch.float64)
    solution = solve(lambda t, z: -z, z0, SolverSpec(method="rk4", **solver), t0=1000.1, t1=1001.1, times=times)
    # exp(-(t - t0)) at times that float32 rounds by 3e-5.
    assert solution.trajectory.flatten().tolist() == pytest.approx([1.0, math.exp(-0.5), math.exp(-1.0)], rel=1e-4)
    assert float(solution.trajectory[0]) == 1.0
