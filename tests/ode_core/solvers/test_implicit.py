import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.integrate import solve_ivp
from scipy.optimize import root

from ode_core.fields.vector_fields import build_field
from ode_core.solvers import linearisation
from ode_core.solvers.implicit_tableaus import IMPLICIT_TABLEAUS
from ode_core.solvers.solution import Field
from ode_core.solvers.solve import solve
from ode_core.solvers.status import SolveStatus
from ode_core.specs import METHODS, MlpField, SolverSpec
from tests.ode_core.solvers.problems import Watched, bernoulli, bernoulli_solution, coupled, coupled_solution

METHOD_NAMES = [name for name, facts in METHODS.items() if facts.family == "implicit"]
START = (1.1, 0.4)
KVAERNO = SolverSpec(method="kvaerno3", rtol=1e-5, atol=1e-5)
SOLVERS = [*(SolverSpec(method=name, steps=6) for name in METHOD_NAMES), KVAERNO]


def start(batch: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor([START] * batch, dtype=dtype)


def uneven_batch(samples: int) -> torch.Tensor:
    """States from tame to wild, so that samples need from a few to dozens of steps."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-2, 2, samples, dtype=torch.float64)[:, None]
    return scale * torch.rand(samples, 3, generator=generator, dtype=torch.float64)


@pytest.fixture(params=["dense", "matrix-free"])
def either_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with dense Jacobians, and with products only."""
    if request.param == "matrix-free":
        monkeypatch.setattr(linearisation, "DENSE_JACOBIAN", 0)
    return request.param


def label(solver: SolverSpec) -> str:
    return solver.label


# ---------------------------------------------------------------- accuracy


@pytest.mark.parametrize(("t0", "t1"), [(0.2, 1.7), (1.7, 0.2)])
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_the_error_falls_with_the_order_of_the_method(method, t0, t1):
    exact = coupled_solution(t0, t1, START)
    counts = np.array([16, 32, 64, 128])
    errors = []
    for count in counts:
        solution = solve(coupled, start(), SolverSpec(method=method, steps=int(count)), t0=t0, t1=t1)
        errors.append(float((solution.final[0] - exact).norm()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - METHODS[method].order) < 0.3


@pytest.mark.parametrize(("t0", "t1"), [(0.2, 1.7), (1.7, 0.2)])
def test_the_error_follows_the_tolerance(t0, t1):
    exact = coupled_solution(t0, t1, START)
    for tolerance in (1e-3, 1e-5, 1e-7):
        solver = SolverSpec(method="kvaerno3", rtol=tolerance, atol=tolerance)
        final = solve(coupled, start(), solver, t0=t0, t1=t1).final[0]
        # Local errors add up to a few tolerances; the third-order solution is what is propagated.
        assert float((final - exact).abs().max()) < 3 * tolerance


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_one_step_is_the_solution_of_the_stage_equations_by_scipy(method):
    tableau, h, t0 = IMPLICIT_TABLEAUS[method], 0.7, 0.3
    a = np.zeros((tableau.stages, tableau.stages))
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = [float(w) for w in row]
    b, c = (np.array([float(w) for w in row]) for row in (tableau.b, tableau.c))

    def field(t: float, z: np.ndarray) -> np.ndarray:
        return coupled(torch.tensor(t, dtype=torch.float64), torch.from_numpy(z)[None])[0].numpy()

    def defect(flat: np.ndarray) -> np.ndarray:
        k = flat.reshape(tableau.stages, 2)
        stages = np.array(START) + h * a @ k
        return (k - np.array([field(t0 + h * t, z) for t, z in zip(c, stages, strict=True)])).ravel()

    # All stages at once, where the solver does one after another.
    k = root(defect, np.tile(field(t0, np.array(START)), tableau.stages), tol=1e-15).x.reshape(-1, 2)
    final = solve(coupled, start(), SolverSpec(method=method, steps=1), t0=t0, t1=t0 + h).final[0]
    # SciPy's hybrid method stops at about 1e-15 of the slopes.
    np.testing.assert_allclose(final.numpy(), np.array(START) + h * b @ k, rtol=0, atol=2e-14)


def test_the_implicit_midpoint_rule_keeps_the_energy_of_an_oscillator_to_round_off():
    # A quadratic invariant: Hairer, Lubich, Wanner, Geometric Numerical Integration, IV.2. Explicit methods lose or
    # gain energy: heun doubles it here.
    def oscillator(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return torch.cat([z[:, 1:], -z[:, :1]], dim=1)

    z0 = torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)
    energies = {}
    for method in ("implicit_midpoint", "trapezoid", "kvaerno3", "heun"):
        final = solve(oscillator, z0, SolverSpec(method=method, steps=500), t1=250.0).final
        energies[method] = float((final.square().sum(dim=1) / z0.square().sum(dim=1) - 1).abs().max())
    # 500 steps with a few roundings each, of either sign.
    assert energies["implicit_midpoint"] < 500 * torch.finfo(torch.float64).eps
    assert energies["kvaerno3"] > 0.5
    assert energies["heun"] > 1


def test_anti_damping_that_an_explicit_method_hides_shows_with_the_implicit_midpoint_rule():
    # z' = i omega z + delta z with small negative delta: damped, and so is every solution of a method that keeps
    # quadratic invariants. Euler's method turns it into growth.
    def damped(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return torch.cat([z[:, 1:], -z[:, :1]], dim=1) - 0.01 * z

    z0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    size = {
        method: float(solve(damped, z0, SolverSpec(method=method, steps=400), t1=40.0).final.norm())
        for method in ("implicit_midpoint", "euler")
    }
    assert size["implicit_midpoint"] == pytest.approx(math.exp(-0.4), rel=1e-3)
    assert size["euler"] > 1


# ---------------------------------------------------------------- stiff problems


def prothero_robinson(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return -1e6 * (z - torch.sin(t)) + torch.cos(t)


def van_der_pol(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return torch.stack([z[:, 1], 1000 * (1 - z[:, 0] ** 2) * z[:, 1] - z[:, 0]], dim=1)


def robertson(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    a, b, c = z.unbind(dim=1)
    slow, fast, middle = 0.04 * a, 3e7 * b * b, 1e4 * b * c
    return torch.stack([middle - slow, slow - middle - fast, fast], dim=1)


def by_radau(field: Field, z0: list[float], t1: float) -> np.ndarray:
    """The end by SciPy's Radau, to about 1e-9."""
    solution = solve_ivp(
        lambda t, z: field(torch.tensor(t), torch.from_numpy(z)[None])[0].numpy(),
        (0.0, t1),
        z0,
        method="Radau",
        rtol=1e-9,
        atol=1e-13,
    )
    return solution.y[:, -1]


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_a_stiff_equation_is_solved_with_steps_far_beyond_its_fastest_rate(solver):
    # Prothero and Robinson's: h lambda = 2e5 on the grid, 700 times what explicit methods stand in all steps.
    z0 = torch.zeros(2, 1, dtype=torch.float64)
    solution = solve(prothero_robinson, z0, solver, t1=1.2)
    assert solution.succeeded.all()
    # The slow solution sin t has derivatives of at most 1; a method of order 2 is off by h^2 / 8 a step at most.
    allowed = 10 * 1e-5 if solver.adaptive else 6 * 0.2**2 / 8
    assert float((solution.final - math.sin(1.2)).abs().max()) < allowed


def test_only_the_l_stable_method_forgets_a_start_off_the_slow_solution():
    z0 = torch.ones(1, 1, dtype=torch.float64)
    off = {
        method: float(solve(prothero_robinson, z0, SolverSpec(method=method, steps=5)).final) - math.sin(1.0)
        for method in METHOD_NAMES
    }
    # R at infinity is -1 for the other two: after five steps the start's error is still there, with its sign changed.
    assert off["implicit_midpoint"] == pytest.approx(-1, abs=0.05)
    assert off["trapezoid"] == pytest.approx(-1, abs=0.05)
    assert abs(off["kvaerno3"]) < 1e-3


def test_van_der_pols_equation_with_mu_1000_is_followed_through_its_jumps():
    # At this tolerance a large step follows each jump: the place where Jacobians of the jump must not be trusted.
    exact = by_radau(van_der_pol, [2.0, 0.0], 2000.0)
    solver = SolverSpec(method="kvaerno3", rtol=1e-3, atol=1e-7)
    solution = solve(van_der_pol, torch.tensor([[2.0, 0.0]], dtype=torch.float64), solver, t1=2000.0)
    assert solution.succeeded.all()
    assert int(solution.accepted) < 1000
    # The times of the jumps depend on the errors before them: a few tolerances become a shift of the phase.
    np.testing.assert_allclose(solution.final[0].numpy(), exact, rtol=10 * 1e-3)


def test_robertsons_problem_is_solved_with_steps_that_grow_with_time():
    exact = by_radau(robertson, [1.0, 0.0, 0.0], 1e5)
    solver = SolverSpec(method="kvaerno3", rtol=1e-4, atol=1e-9)
    solution = solve(robertson, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), solver, t1=1e5)
    assert solution.succeeded.all()
    # Explicit methods need h < 2 / 2e3 at the end of it, a hundred million steps.
    assert int(solution.accepted) < 500
    np.testing.assert_allclose(solution.final[0].numpy(), exact, rtol=10 * 1e-4)
    assert float(solution.final.sum()) == pytest.approx(1.0, abs=1e-9)  # no mass is lost: a linear invariant


def test_a_stiff_problem_is_solved_in_float32():
    solver = SolverSpec(method="kvaerno3", rtol=1e-3, atol=1e-6)
    solution = solve(van_der_pol, torch.tensor([[2.0, 0.0]]), solver, t1=500.0)
    assert solution.final.dtype == torch.float32
    exact = by_radau(van_der_pol, [2.0, 0.0], 500.0)
    assert float(solution.final[0, 0]) == pytest.approx(exact[0], rel=1e-2)


# ---------------------------------------------------------------- how the field is asked


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("t0", "t1"), [(0.1, 0.7), (0.7, 0.1)])
@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_the_field_is_never_asked_outside_the_interval_and_outputs_are_hit(solver, t0, t1, dtype):
    field = Watched(coupled, t0, t1)
    times = torch.tensor([t0, t0 + 0.21 * (t1 - t0), t1], dtype=dtype)
    solution = solve(field, start(2, dtype), solver, t0=t0, t1=t1, times=times)
    assert solution.succeeded.all()
    assert torch.equal(solution.trajectory[0], start(2, dtype))
    assert torch.equal(solution.trajectory[-1], solution.final)
    assert {t.shape for t in field.calls} == ({(2, 1)} if solver.adaptive else {()})
    if solver.adaptive:
        asked = torch.stack([t.flatten() for t in field.calls])
        for t in times:
            assert bool((asked == t).any())


@pytest.mark.parametrize("wants_gradient", [False, True])
@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_evaluations_are_the_calls_of_the_field_and_a_product_with_the_jacobian_is_one(
    solver, wants_gradient, either_path
):
    # One number: its dense Jacobian is one product, which is one call.
    field = Watched(bernoulli, 0.0, 2.0)
    z0 = torch.tensor([[1.3]], dtype=torch.float64, requires_grad=wants_gradient)
    times = torch.tensor([0.1, 0.9], dtype=torch.float64)
    solution = solve(field, z0, solver, t1=2.0, times=times)
    assert solution.evaluations.tolist() == [len(field.calls)]


def test_a_dense_jacobian_counts_as_many_evaluations_as_the_state_has_numbers():
    # Linear: one iteration solves a stage, the second finds nothing to add.
    rates = torch.linspace(-1, -20, 30, dtype=torch.float64)
    z0 = torch.ones(1, 30, dtype=torch.float64)
    solution = solve(lambda t, z: rates * z, z0, SolverSpec(method="implicit_midpoint", steps=10))
    assert solution.evaluations.tolist() == [1 + 30 + 2 * 10]


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_a_budget_bounds_every_samples_evaluations_and_changes_nothing_for_those_it_suffices(solver, either_path):
    z0 = 0.1 * uneven_batch(12)
    free = solve(bernoulli, z0, solver)
    assert free.succeeded.all()
    for budget in (0, 3, 7, int(free.evaluations.median()), int(free.evaluations.max()) - 1):
        solution = solve(bernoulli, z0, solver, max_evaluations=budget)
        assert int(solution.evaluations.max()) <= budget
        affordable = free.evaluations <= budget
        assert torch.equal(solution.succeeded, affordable)
        assert torch.equal(solution.final[affordable], free.final[affordable])
        assert set(solution.status[~affordable].tolist()) <= {int(SolveStatus.BUDGET_EXCEEDED)}


def test_the_step_limit_ends_a_sample_with_its_status():
    z0 = torch.tensor([[50.0], [0.0]], dtype=torch.float64)
    solver = SolverSpec(method="kvaerno3", rtol=1e-8, atol=1e-8, max_steps=12)
    solution = solve(bernoulli, z0, solver)
    assert solution.status.tolist() == [SolveStatus.MAX_STEPS_REACHED, SolveStatus.SUCCESS]
    assert int(solution.accepted[0] + solution.rejected[0]) == 12


def test_a_hook_of_the_field_is_called_and_its_exception_ends_the_solve():
    class Stop(Exception):
        pass

    calls = []

    def hook() -> None:
        calls.append(None)
        if len(calls) == 9:
            raise Stop

    field = build_field(MlpField(hidden=(5,)), (3,))
    field.before_evaluation = hook
    with pytest.raises(Stop):
        solve(field, torch.ones(2, 3), SolverSpec(method="kvaerno3", steps=4))
    assert len(calls) == 9


# ---------------------------------------------------------------- samples by themselves


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_a_sample_comes_out_the_same_bit_for_bit_whoever_its_batch_mates_are(solver, either_path):
    z0 = uneven_batch(60)
    times = torch.tensor([0.3, 0.5, 2.0], dtype=torch.float64)

    def run(z: torch.Tensor) -> list[torch.Tensor]:
        s = solve(bernoulli, z, solver, t1=2.0, times=times)
        assert s.trajectory is not None
        parts = [s.final, s.status, s.evaluations, s.accepted, s.rejected, s.last_step, s.trajectory.transpose(0, 1)]
        return [part.nan_to_num(nan=-1.0) for part in parts]  # the wildest need shorter steps than those of the grid

    together = run(z0)
    assert len(set(together[2].tolist())) > 3
    order = torch.randperm(len(z0), generator=torch.Generator().manual_seed(1))
    for permuted, original in zip(run(z0[order]), together, strict=True):
        assert torch.equal(permuted, original[order])
    for i in (0, 23, 59):
        for alone, original in zip(run(z0[i : i + 1]), together, strict=True):
            assert torch.equal(alone[0], original[i])


def singular_from_half(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """NaN beyond t = 0.5 for samples whose second number is 1."""
    value = -z * torch.tensor([1.0, 0.0], dtype=z.dtype)
    return torch.where((t > 0.5) & (z[:, 1:] == 1), torch.nan, value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_a_failing_sample_is_marked_and_the_others_finish_as_if_alone(solver, dtype, either_path):
    z0 = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [torch.nan, 0.0], [3.0, torch.inf]], dtype=dtype)
    times = torch.tensor([0.25, 0.75], dtype=dtype)
    if solver.adaptive:
        solver = SolverSpec(method=solver.method, rtol=1e-4, atol=1e-4)
    solution = solve(singular_from_half, z0, solver, times=times)
    bad = int(SolveStatus.NON_FINITE)
    assert solution.status.tolist() == [0, bad, 0, bad, bad]
    assert torch.isnan(solution.final).all(dim=1).tolist() == [False, True, False, True, True]
    # What was reached before the failure stands.
    assert torch.isnan(solution.trajectory).all(dim=2).tolist() == [
        [False, False, False, True, True],
        [False, True, False, True, True],
    ]
    good = solve(singular_from_half, z0[[0, 2]], solver, times=times)
    assert torch.equal(solution.final[[0, 2]], good.final)
    assert torch.equal(solution.evaluations[[0, 2]], good.evaluations)
    assert torch.equal(solution.trajectory[:, [0, 2]], good.trajectory)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_step_without_a_solution_fails_with_its_own_status_and_remedy(method, either_path):
    # z' = z^2 with h = 1: the stage equation is quadratic, and from 3 it has no real solution.
    z0 = torch.tensor([[0.1], [3.0], [0.2]], dtype=torch.float64)
    solution = solve(lambda t, z: z * z, z0, SolverSpec(method=method, steps=1))
    assert solution.status.tolist() == [SolveStatus.SUCCESS, SolveStatus.NEWTON_DIVERGED, SolveStatus.SUCCESS]
    assert solution.accepted.tolist() == [1, 0, 1]
    assert solution.last_step.tolist() == [1.0, 0.0, 1.0]
    assert "kvaerno3 with rtol and atol" in SolveStatus.NEWTON_DIVERGED.remedy
    alone = solve(lambda t, z: z * z, z0[::2], SolverSpec(method=method, steps=1))
    assert torch.equal(solution.final[::2], alone.final)


def test_a_step_that_newton_cannot_do_is_shortened_until_it_can():
    # From 3 on the same equation has no solution beyond 1/3; until 0.3 it is 3 / (1 - 3t).
    z0 = torch.tensor([[3.0]], dtype=torch.float64)
    solution = solve(lambda t, z: z * z, z0, KVAERNO, t1=0.3)
    assert solution.succeeded.all()
    # Near the pole a tolerance is magnified by the square of the growth: 10^2.
    assert float(solution.final) == pytest.approx(30.0, rel=1e2 * 1e-5)
    beyond = solve(lambda t, z: z * z, z0, KVAERNO)
    assert beyond.status.tolist() == [SolveStatus.STEP_UNDERFLOW]


# ---------------------------------------------------------------- outputs and shapes


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_outputs_at_grid_points_are_the_states_there(method):
    solver = SolverSpec(method=method, steps=5)
    times = torch.linspace(0, 1.5, 6, dtype=torch.float64)
    trajectory = solve(coupled, start(2), solver, t1=1.5, times=times).trajectory
    assert torch.equal(trajectory[0], start(2))
    for k in range(1, 6):
        part = solve(coupled, start(2), solver.with_steps(k), t1=0.3 * k).final
        # Newton's iteration ends within a few roundings of the solution, from one guess or another.
        assert torch.allclose(trajectory[k], part, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_outputs_between_grid_points_have_at_least_the_order_of_the_method(t0, t1):
    z0 = bernoulli_solution(t0, torch.tensor([[1.5]], dtype=torch.float64))
    for method in METHOD_NAMES:
        errors, counts = [], (8, 16, 32)
        for steps in counts:
            times = t0 + (t1 - t0) * (torch.arange(steps, dtype=torch.float64) + 0.37) / steps
            solver = SolverSpec(method=method, steps=steps)
            trajectory = solve(bernoulli, z0, solver, t0=t0, t1=t1, times=times).trajectory
            exact = bernoulli_solution(times, torch.tensor(1.5, dtype=torch.float64))
            errors.append(float((trajectory[:, 0, 0] - exact).abs().max()))
        assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] > METHODS[method].order - 0.3


@settings(max_examples=20)
@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=6).map(sorted),
    method=st.sampled_from(METHOD_NAMES),
    steps=st.integers(1, 5),
)
def test_asking_for_outputs_on_a_grid_does_not_change_the_end(shares, method, steps):
    solver = SolverSpec(method=method, steps=steps)
    times = torch.tensor(shares, dtype=torch.float64)
    solution = solve(coupled, start(), solver, times=times)
    # The slope at a grid point is another first guess for the implicit midpoint rule.
    assert torch.allclose(solution.final, solve(coupled, start(), solver).final, rtol=0, atol=1e-14)
    assert solution.trajectory.shape == (len(shares), 1, 2)
    assert bool(torch.isfinite(solution.trajectory).all())


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (2, 3, 4), (80,)])
@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_states_may_have_any_shape(shape, solver):
    z0 = torch.rand((3, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    solution = solve(bernoulli, z0, solver, times=times)
    assert solution.final.shape == z0.shape
    assert solution.trajectory.shape == (3, *z0.shape)
    assert torch.allclose(solution.final, bernoulli_solution(1.0, z0), rtol=0.02, atol=0)


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_an_empty_batch_and_a_state_at_rest_are_solved(solver):
    solution = solve(bernoulli, torch.ones(0, 3), solver, times=torch.tensor([0.5]))
    assert solution.final.shape == (0, 3)
    assert solution.trajectory.shape == (1, 0, 3)
    rest = solve(bernoulli, torch.zeros(2, 3), solver)
    assert rest.succeeded.all()
    assert torch.equal(rest.final, torch.zeros(2, 3))


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.5), (1.5, 0.0)])
@pytest.mark.parametrize("controller", ["i", "pi", "pid"])
def test_interpolated_outputs_are_about_as_accurate_as_the_end_and_take_no_steps_of_their_own(t0, t1, controller):
    solver = SolverSpec(method="kvaerno3", rtol=1e-6, atol=1e-6, controller=controller)
    z0 = bernoulli_solution(t0, torch.tensor([[0.5], [2.0]], dtype=torch.float64))
    times = torch.linspace(t0, t1, 41, dtype=torch.float64)
    field = Watched(bernoulli, t0, t1)
    solution = solve(field, z0, solver, t0=t0, t1=t1, times=times, outputs="interpolate")
    exact = bernoulli_solution(times[:, None, None], torch.tensor([[0.5], [2.0]], dtype=torch.float64))
    # Backwards the equation magnifies a disturbance by up to (z(0) / z(1.5))^2 = 5.5^2.
    assert torch.allclose(solution.trajectory, exact, rtol=0, atol=5.5**2 * 10 * 1e-6)
    assert torch.equal(solution.accepted, solve(bernoulli, z0, solver, t0=t0, t1=t1).accepted)
    assert "iterates" in solution.execution.reason


def test_a_truncated_grid_is_refused_as_its_last_step_is_another():
    with pytest.raises(ValidationError, match="trapezoid takes equal steps"):
        SolverSpec(method="trapezoid", step_size=0.3, grid="truncate")


# ---------------------------------------------------------------- dense or matrix-free


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_dense_jacobians_and_products_lead_to_the_same_solution(solver, monkeypatch):
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(40, 40, generator=generator, dtype=torch.float64) / 40**0.5
    z0 = torch.randn(3, 40, generator=generator, dtype=torch.float64)

    def field(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return torch.cos(t) * torch.tanh(z @ weights) * 5

    finals, evaluations = [], []
    for limit in (64, 0):
        monkeypatch.setattr(linearisation, "DENSE_JACOBIAN", limit)
        solution = solve(field, z0, solver)
        assert solution.succeeded.all()
        finals.append(solution.final)
        evaluations.append(solution.evaluations)
    assert not torch.equal(*evaluations)
    # On a grid both go to round-off. With tolerances both are within a few of these of the solution, which the
    # field, whose Jacobian is up to 10, magnifies.
    allowed = 100 * 1e-5 if solver.adaptive else 1e-12
    assert torch.allclose(*finals, rtol=0, atol=allowed)


def test_large_states_take_products_and_small_ones_jacobians():
    def paths(n: int) -> type:
        return type(linearisation.linearisation(bernoulli, torch.ones(2, n)))

    assert paths(256) is linearisation.DenseLinearisation
    assert paths(257) is linearisation.KrylovLinearisation


@pytest.mark.parametrize("decades", [3, 4, 5, 6])
def test_a_slow_component_beside_stiff_ones_is_right_or_the_solve_fails(decades, either_path):
    rates = torch.logspace(0, decades, 100)
    solution = solve(lambda t, z: -rates * z, torch.ones(1, 100), SolverSpec(method="trapezoid", steps=4))
    if not bool(solution.succeeded.all()):
        assert either_path == "matrix-free"
        assert decades >= 5
        assert solution.status.tolist() == [SolveStatus.NEWTON_DIVERGED]
        return
    # R(-h lambda) of the trapezoidal rule to the fourth, and a hundred roundings of four steps.
    assert abs(float(solution.final[0, 0]) - ((1 - 1 / 8) / (1 + 1 / 8)) ** 4) < 100 * 4 * 1.2e-7


@pytest.mark.parametrize("solver", SOLVERS, ids=label)
def test_states_without_numbers_are_solved(solver):
    z0 = torch.zeros(3, 0, requires_grad=True)
    solution = solve(lambda t, z: -z, z0, solver)
    assert solution.succeeded.all()
    assert solution.final.shape == (3, 0)
    solution.final.sum().backward()
    assert z0.grad.shape == (3, 0)


def test_a_step_without_a_solution_is_given_up_early_when_updates_do_not_shrink():
    # z = z0 + h (1 + z^2) / 1 has no real solution for h = 1: Newton's iteration wanders for ever.
    n = 300
    solution = solve(lambda t, z: 1 + z * z, torch.zeros(1, n), SolverSpec(method="implicit_midpoint", steps=1), t1=4.0)
    assert solution.status.tolist() == [SolveStatus.NEWTON_DIVERGED]
    # Fifty iterations would take more than fifty for the field alone.
    assert int(solution.evaluations) < 80
