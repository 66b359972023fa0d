import pytest
import torch
import torchdiffeq
from hypothesis import given, settings
from hypothesis import strategies as st
from torchdiffeq._impl.solvers import FixedGridODESolver

from ode_core.solvers.solve import solve
from ode_core.solvers.status import SolveStatus
from ode_core.solvers.truncated_grid import precision_of, truncated_grid
from ode_core.specs import METHODS, SolverSpec
from ode_core.specs.budgets import solve_evaluations
from tests.ode_core.solvers.problems import Watched, bernoulli, bernoulli_solution, coupled

START = (1.1, 0.4)
DTYPES = [torch.float32, torch.float64]
SIZES = [0.3, 0.1, 1 / 3, 0.07, 1 / 49, 1 / 93, 0.6, 1.0, 7.0]
INTERVALS = [(0.0, 1.0), (1.0, 0.0), (0.1, 0.7), (-0.3, 0.1)]
# A step more than one over the size, by the type of the times: the quotient is rounded up, or the sum with 1 is.
SPURIOUS = {
    torch.float32: [
        n for n in range(1, 300) if SolverSpec(method="euler", step_size=1 / n, grid="truncate").fixed_steps() > n
    ],
    torch.float64: [
        n
        for n in range(1, 2001)
        if SolverSpec(method="euler", step_size=1 / n, grid="truncate").fixed_steps(precision="float64") > n
    ],
}


def spec(step_size: float, method: str = "euler") -> SolverSpec:
    return SolverSpec(method=method, step_size=step_size, grid="truncate")


def start(dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor([START, (0.3, -0.2)], dtype=dtype)


def torchdiffeqs_grid(step_size: float, t0: float, t1: float, dtype: torch.dtype) -> torch.Tensor:
    """The times torchdiffeq walks over, in its own direction: it turns time that runs backwards round."""
    times = torch.tensor([t0, t1], dtype=dtype)
    sign = 1.0 if t1 >= t0 else -1.0
    return sign * FixedGridODESolver._grid_constructor_from_step_size(step_size)(None, None, sign * times)


@settings(max_examples=300)
@given(
    n=st.integers(1, 5000),
    share=st.sampled_from([1.0, 0.5, 0.3, 1.7]),
    interval=st.sampled_from(INTERVALS),
    dtype=st.sampled_from(DTYPES),
)
def test_the_grid_is_torchdiffeqs_bit_for_bit(n, share, interval, dtype):
    step_size = share * abs(interval[1] - interval[0]) / n
    steps = spec(step_size).fixed_steps(*interval, precision_of(dtype))
    expected = torchdiffeqs_grid(step_size, *interval, dtype)
    assert torch.equal(truncated_grid(step_size, steps, *interval, dtype), expected)


def test_there_are_sizes_with_a_step_too_many_in_both_precisions():
    assert len(SPURIOUS[torch.float32]) > 10
    assert len(SPURIOUS[torch.float64]) == 140  # numerics.md, N1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("t0", "t1"), INTERVALS)
@pytest.mark.parametrize(
    ("ours", "theirs"), [("euler", "euler"), ("midpoint", "midpoint"), ("heun", "heun2"), ("rk4_38", "rk4")]
)
def test_states_are_torchdiffeqs_to_round_off(ours, theirs, t0, t1, dtype):
    sizes = SIZES + [1 / n for n in SPURIOUS[dtype] if n < 300][:4]
    for step_size in sizes:
        calls = []

        def counted(t, z, calls=calls):
            calls.append(t)
            return coupled(t, z)

        times = torch.tensor([t0, t1], dtype=dtype)
        options = {"step_size": step_size}
        expected = torchdiffeq.odeint(counted, start(dtype), times, method=theirs, options=options)[-1]
        field = Watched(coupled, t0, t1)
        solution = solve(field, start(dtype), spec(step_size, ours), t0=t0, t1=t1)
        # At most 300 steps of a system that does not stretch differences: each rounds a few times.
        assert torch.allclose(solution.final, expected, rtol=0, atol=64 * torch.finfo(dtype).eps)
        assert solution.evaluations.tolist() == [len(calls)] * 2 == [len(field.calls)] * 2
        grid = torchdiffeqs_grid(step_size, t0, t1, dtype).double()
        assert solution.accepted.tolist() == [len(grid) - 1] * 2
        assert solution.last_step.tolist() == [float((grid[-1] - grid[-2]).abs())] * 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_uniform_grid_is_the_default_and_differs(dtype):
    uniform = SolverSpec(method="euler", step_size=0.3, grid="uniform")
    assert torch.equal(
        solve(coupled, start(dtype), uniform).final,
        solve(coupled, start(dtype), SolverSpec(method="euler", step_size=0.3)).final,
    )
    cut = solve(coupled, start(dtype), spec(0.3))
    assert float((cut.final - solve(coupled, start(dtype), uniform).final).abs().max()) > 1e-3
    assert cut.last_step.tolist() == pytest.approx([0.1] * 2, rel=1e-5)
    assert solve(coupled, start(dtype), uniform).last_step.tolist() == [0.25] * 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_outputs_lie_on_the_grid_and_between_its_points(method, t0, t1, dtype):
    n = SPURIOUS[dtype][0]
    for step_size in (0.03, 1 / n):
        solver = spec(step_size, method)
        steps = solver.fixed_steps(t0, t1, precision_of(dtype))
        grid = truncated_grid(step_size, steps, t0, t1, dtype)
        z0 = bernoulli_solution(t0, torch.tensor([[1.5]], dtype=dtype))
        at_points = solve(bernoulli, z0, solver, t0=t0, t1=t1, times=grid[:-2])
        assert torch.equal(at_points.final, solve(bernoulli, z0, solver, t0=t0, t1=t1).final)
        assert torch.equal(at_points.trajectory[0], z0)
        times = torch.tensor([t0, t0, 0.41, t1], dtype=dtype)
        field = Watched(bernoulli, t0, t1)
        solution = solve(field, z0, solver, t0=t0, t1=t1, times=times)
        assert solution.evaluations.tolist() == [METHODS[method].evaluations(steps)] == [len(field.calls)]
        assert torch.equal(solution.trajectory[-1], solution.final)
        exact = bernoulli_solution(times.double(), torch.tensor(1.5, dtype=torch.float64))
        # euler is of order 1 with an error constant about 1; the interpolant and the others are of order 4:
        # 0.03^4 = 8e-7 times derivatives of a few dozen.
        allowed = step_size if method == "euler" else 3e-5
        assert float((solution.trajectory[:, 0, 0] - exact).abs().max()) < allowed


def test_an_output_in_the_last_step_costs_the_slope_at_the_end():
    times = torch.tensor([0.95, 1.0], dtype=torch.float64)
    field = Watched(bernoulli, 0.0, 1.0)
    solution = solve(field, torch.ones(1, 1, dtype=torch.float64), spec(0.3, "rk4"), times=times)
    assert solution.evaluations.tolist() == [17] == [len(field.calls)]
    # 0.3^4 times the fourth derivative of 1 / (1 + t^2), at most 24, over 384 for the interpolant; rk4 is better.
    assert float((solution.trajectory[0, 0, 0] - 1 / (1 + 0.95**2)).abs()) < 1e-3


def test_gradients_are_those_of_the_discrete_map():
    z0 = start(torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: solve(coupled, z, spec(0.3, "rk4")).final, (z0,))


def test_a_budget_counts_the_steps_of_the_grid():
    z0 = start(torch.float64)
    assert solve(coupled, z0, spec(0.3, "rk4"), max_evaluations=15).status.tolist() == [SolveStatus.BUDGET_EXCEEDED] * 2
    assert solve(coupled, z0, spec(0.3, "rk4"), max_evaluations=16).succeeded.all()
    n = SPURIOUS[torch.float32][0]
    assert solve_evaluations(SolverSpec(method="euler", step_size=1 / n), 1.0) == n
    assert solve_evaluations(spec(1 / n), 1.0) == n + 1  # whatever precision it will be run in


def test_an_interval_without_length_in_float32_is_refused():
    z0 = torch.ones(1, 1)
    with pytest.raises(ValueError, match=r"one number in torch\.float32: compute in float64"):
        solve(bernoulli, z0, spec(0.01), t0=1e6, t1=1e6 + 0.01)
