import pytest
import torch

from ode_core.solvers.solution import SolveFailed
from ode_core.solvers.solve import ToleranceWarning, solve
from ode_core.solvers.status import REMEDIES, SolveStatus
from ode_core.specs import SolverSpec
from tests.ode_core.solvers.problems import Watched, bernoulli

RK4 = SolverSpec(method="rk4", steps=8)
DOPRI5 = SolverSpec(method="dopri5", rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", [RK4, DOPRI5])
@pytest.mark.parametrize(
    "times",
    [[0.5, 0.2], [-0.1, 0.5], [0.5, 1.1], [0.5, float("nan")], []],
    ids=["unordered", "before", "beyond", "nan", "none"],
)
def test_output_times_must_lie_in_order_within_the_interval(solver, times):
    with pytest.raises(ValueError, match="times must"):
        solve(bernoulli, torch.ones(1, 1), solver, times=torch.tensor(times))


def test_output_times_run_with_the_walk():
    times = torch.tensor([1.0, 0.5, 0.0])
    assert solve(bernoulli, torch.ones(1, 1), DOPRI5, t0=1.0, t1=0.0, times=times).succeeded.all()
    with pytest.raises(ValueError, match="from 1 towards 0"):
        solve(bernoulli, torch.ones(1, 1), DOPRI5, t0=1.0, t1=0.0, times=times.flip(0))


@pytest.mark.parametrize("solver", [RK4, DOPRI5])
def test_an_end_rounded_to_float32_is_still_the_end(solver):
    # 0.1 in float32 lies above 0.1.
    times = torch.linspace(0, 0.1, 5)
    assert float(times[-1]) > 0.1
    solution = solve(bernoulli, torch.ones(2, 1), solver, t1=0.1, times=times)
    assert torch.equal(solution.trajectory[-1], solution.final)


@pytest.mark.parametrize("solver", [RK4, DOPRI5])
def test_whole_output_times_are_taken(solver):
    assert solve(bernoulli, torch.ones(2, 1), solver, t1=3.0, times=torch.arange(4)).trajectory.shape == (4, 2, 1)


@pytest.mark.parametrize("z0", [torch.ones(2, 1, dtype=torch.int64), torch.ones(2, 1).half(), torch.tensor(1.0)])
def test_a_start_of_the_wrong_kind_is_refused(z0):
    with pytest.raises(ValueError, match="z0 must be float32 or float64"):
        solve(bernoulli, z0, RK4)


@pytest.mark.parametrize("ends", [{"t1": float("nan")}, {"t0": float("inf")}])
def test_ends_that_are_no_numbers_are_refused(ends):
    with pytest.raises(ValueError, match="finite"):
        solve(bernoulli, torch.ones(1, 1), RK4, **ends)


@pytest.mark.parametrize("solver", [RK4, DOPRI5])
def test_an_interval_of_length_zero_returns_the_start_and_evaluates_nothing(solver):
    field = Watched(bernoulli, 0.5, 0.5)
    z0 = torch.tensor([[1.0], [torch.inf]])
    solution = solve(field, z0, solver, t0=0.5, t1=0.5, times=torch.tensor([0.5, 0.5]))
    assert field.calls == []
    assert solution.evaluations.tolist() == [0, 0]
    assert solution.status.tolist() == [SolveStatus.SUCCESS, SolveStatus.NON_FINITE]
    assert solution.trajectory[:, 0].flatten().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("solver", [RK4, DOPRI5])
def test_an_empty_batch_is_solved(solver):
    solution = solve(bernoulli, torch.ones(0, 3), solver, times=torch.tensor([0.5]))
    assert solution.final.shape == (0, 3)
    assert solution.status.shape == (0,)
    assert solution.trajectory.shape == (1, 0, 3)


def test_a_tolerance_below_what_the_precision_resolves_warns():
    tight = SolverSpec(method="dopri5", rtol=1e-6, atol=1e-6)
    with pytest.warns(ToleranceWarning, match="use at least 6e-06, or compute in float64"):
        solve(bernoulli, torch.ones(1, 1), tight)
    solve(bernoulli, torch.ones(1, 1, dtype=torch.float64), tight)
    solve(bernoulli, torch.ones(1, 1), tight, warn=False)


@pytest.mark.parametrize("solver", [RK4, DOPRI5])
def test_failure_raises_only_when_asked_and_names_the_remedy(solver):
    z0 = torch.tensor([[1.0], [torch.nan]])
    assert not solve(bernoulli, z0, solver).succeeded.all()
    with pytest.raises(
        SolveFailed, match="1 of 2 samples failed; the first, sample 1, with non_finite: the state left"
    ):
        solve(bernoulli, z0, solver, throw=True)


def test_every_status_has_a_text_and_every_failure_a_remedy():
    assert [status.text for status in SolveStatus] == [
        "success",
        "max_steps_reached",
        "step_underflow",
        "non_finite",
        "budget_exceeded",
        "newton_diverged",
    ]
    assert set(REMEDIES) == set(SolveStatus)
    assert all(bool(status.remedy) == (status != SolveStatus.SUCCESS) for status in SolveStatus)


@pytest.mark.parametrize("solver", [RK4, DOPRI5])
def test_the_start_is_left_as_it_was(solver):
    z0 = torch.ones(2, 3)
    solve(bernoulli, z0, solver)
    assert torch.equal(z0, torch.ones(2, 3))
