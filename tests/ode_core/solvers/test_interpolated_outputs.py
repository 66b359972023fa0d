import pytest
import torch

from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.solve import solve
from ode_core.solvers.status import SolveStatus
from ode_core.specs import METHODS, SolverSpec
from tests.ode_core.solvers.problems import ADAPTIVE, Watched, accuracy, bernoulli, bernoulli_solution, coupled

STARTS = torch.tensor([[0.5], [2.0], [9.0]], dtype=torch.float64)


def usual(method: str) -> float:
    """A tolerance that takes some dozens of steps: heun_euler estimates h^2 and takes 1 / sqrt(tolerance) of them."""
    return 1e-4 if method == "heun_euler" else 1e-6


def spec(method: str, tolerance: float | None = None, **settings: object) -> SolverSpec:
    tolerance = usual(method) if tolerance is None else tolerance
    return SolverSpec(method=method, rtol=tolerance, atol=tolerance, **settings)


def uneven_batch(samples: int = 200) -> torch.Tensor:
    scale = torch.logspace(-2, 2, samples, dtype=torch.float64)[:, None]
    return scale * torch.rand(samples, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_outputs_between_steps_are_about_as_accurate_as_the_steps(method, backwards):
    t0, t1 = (1.5, 0.0) if backwards else (0.0, 1.5)
    z0 = bernoulli_solution(t0, STARTS)
    times = torch.linspace(t0, t1, 200, dtype=torch.float64)
    solution = solve(bernoulli, z0, spec(method), t0=t0, t1=t1, times=times, outputs="interpolate")
    error = (solution.trajectory - bernoulli_solution(times[:, None, None], STARTS)).abs().amax(dim=(0, 2))
    # An interpolant of the method's order is off by a small multiple of what a step is, and backwards the equation
    # magnifies a disturbance by up to (z(0) / z(1.5))^2; states go up to 9, and so do the relative tolerances.
    growth = (STARTS / bernoulli_solution(1.5, STARTS)).flatten().square() if backwards else 1.0
    assert bool((error <= 10 * growth * STARTS.flatten() * accuracy(method, usual(method))).all())


@pytest.mark.parametrize("method", ADAPTIVE)
def test_interpolated_outputs_change_neither_the_steps_nor_the_end(method):
    z0 = uneven_batch()
    free = solve(bernoulli, z0, spec(method), t1=2.0)
    times = torch.linspace(0, 2, 101, dtype=torch.float64)
    with_outputs = solve(bernoulli, z0, spec(method), t1=2.0, times=times, outputs="interpolate")
    for name in ("final", "accepted", "rejected", "last_step"):
        assert torch.equal(getattr(free, name), getattr(with_outputs, name))
    assert torch.equal(with_outputs.trajectory[0], z0)
    assert torch.equal(with_outputs.trajectory[-1], free.final)
    landed = solve(bernoulli, z0, spec(method), t1=2.0, times=times)
    assert int(landed.accepted.min()) >= 100


@pytest.mark.parametrize("method", ADAPTIVE)
def test_interpolation_costs_the_slope_at_the_end_and_the_interpolants_own_stages(method):
    field = Watched(coupled, 0.0, 2.0)
    z0 = torch.tensor([[1.1, 0.4]], dtype=torch.float64)
    times = torch.tensor([0.3, 1.9], dtype=torch.float64)
    solution = solve(field, z0, spec(method), t1=2.0, times=times, outputs="interpolate")
    tableau = TABLEAUS[method]
    attempts = solution.accepted + solution.rejected
    extra = 0 if tableau.interpolant is None else len(tableau.interpolant.extra)
    expected = 2 + (METHODS[method].stages - 1 + extra) * attempts
    if not tableau.first_same_as_last:
        expected = expected + solution.accepted
    assert solution.evaluations.tolist() == expected.tolist() == [len(field.calls)]


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_samples_outputs_are_the_same_bit_for_bit_whoever_its_batch_mates_are(method):
    z0 = uneven_batch()
    times = torch.linspace(0, 2, 33, dtype=torch.float64)

    def outputs(z: torch.Tensor) -> torch.Tensor:
        return solve(bernoulli, z, spec(method), t1=2.0, times=times, outputs="interpolate").trajectory

    together = outputs(z0)
    order = torch.randperm(len(z0), generator=torch.Generator().manual_seed(1))
    assert torch.equal(outputs(z0[order]), together[:, order])
    for i in range(0, len(z0), 50):
        assert torch.equal(outputs(z0[i : i + 1])[:, 0], together[:, i])


def test_more_steps_than_are_kept_at_once_give_the_same_outputs():
    # Some hundred steps of fehlberg2 against the dense steps of dopri8.
    z0, times = STARTS, torch.linspace(0, 3, 77, dtype=torch.float64)
    many = solve(bernoulli, z0, spec("fehlberg2", 1e-8), t1=3.0, times=times, outputs="interpolate")
    assert int(many.accepted.max()) > 3 * 64
    few = solve(bernoulli, z0, spec("dopri8", 1e-10), t1=3.0, times=times, outputs="interpolate")
    assert torch.allclose(many.trajectory, few.trajectory, rtol=0, atol=9 * accuracy("fehlberg2", 1e-8))


@pytest.mark.parametrize("method", ADAPTIVE)
def test_outputs_that_a_failing_sample_did_not_reach_are_nan_and_the_others_are_as_if_alone(method):
    # z' = z^2 from 2 grows without bound towards t = 1/2.
    z0 = torch.tensor([[2.0], [0.5]], dtype=torch.float64)
    times = torch.tensor([0.0, 0.25, 0.75, 1.0], dtype=torch.float64)

    def run(z: torch.Tensor) -> torch.Tensor:
        return solve(lambda t, y: y * y, z, spec(method), times=times, outputs="interpolate")

    solution = run(z0)
    assert solution.status[0] != SolveStatus.SUCCESS
    assert torch.isnan(solution.trajectory[:, 0, 0]).tolist() == [False, False, True, True]
    assert torch.equal(solution.trajectory[:, 1], run(z0[1:]).trajectory[:, 0])


@pytest.mark.parametrize("method", ADAPTIVE)
def test_gradients_flow_through_interpolated_outputs(method):
    rate = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    z0 = torch.tensor([[1.1, 0.4], [0.3, 2.0]], dtype=torch.float64, requires_grad=True)
    times, tolerance = torch.tensor([0.0, 0.13, 0.5, 1.0], dtype=torch.float64), usual(method)

    def outputs(z0: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        solver = spec(method, tolerance)
        return solve(lambda t, z: rate * coupled(t, z), z0, solver, times=times, outputs="interpolate").trajectory

    # Finite differences see the steps change with the start, autograd does not; see the test of landed outputs.
    allowed = 10 * METHODS[method].order * accuracy(method, tolerance)
    assert torch.autograd.gradcheck(outputs, (z0, rate), atol=allowed, rtol=0)


@pytest.mark.parametrize("controller", ["pi", "pid"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_error_follows_the_tolerance_under_every_controller(method, controller):
    exact = bernoulli_solution(1.5, STARTS)
    for tolerance in (1e-3, usual(method)):
        solution = solve(bernoulli, STARTS, spec(method, tolerance, controller=controller), t1=1.5)
        assert bool(((solution.final - exact).abs() <= 10 * accuracy(method, tolerance)).all())


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_sample_that_succeeds_has_its_outputs(method):
    z0 = torch.linspace(0.3, 0.99, 100, dtype=torch.float64)[:, None]
    times = torch.linspace(0, 0.5, 9, dtype=torch.float64)
    solution = solve(
        lambda t, z: z * torch.where(z < 1, 1.0, torch.nan),
        z0,
        spec(method, 1e-1),
        t1=0.5,
        times=times,
        outputs="interpolate",
    )
    good = solution.succeeded
    assert 0 < int(good.sum()) < 100
    assert bool(torch.isfinite(solution.trajectory[:, good]).all())


@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_budget_bounds_the_evaluations_with_those_of_the_interpolant(method):
    times = torch.tensor([0.3, 1.9], dtype=torch.float64)
    free = solve(bernoulli, STARTS, spec(method), t1=2.0, times=times, outputs="interpolate")
    for budget in (*range(3, 30), int(free.evaluations.min()), int(free.evaluations.max())):
        solution = solve(
            bernoulli, STARTS, spec(method), t1=2.0, times=times, outputs="interpolate", max_evaluations=budget
        )
        assert int(solution.evaluations.max()) <= budget
        assert torch.equal(solution.succeeded, free.evaluations <= budget)
