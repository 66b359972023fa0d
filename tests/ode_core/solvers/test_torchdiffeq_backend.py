"""torchdiffeq's solvers behind our interface, held against direct calls of it and exact solutions."""

import warnings

import numpy as np
import pytest
import torch
import torchdiffeq
from torchdiffeq._impl.odeint import SOLVERS

from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.solution import SolveFailed
from ode_core.solvers.solve import solve
from ode_core.solvers.status import SolveStatus
from ode_core.solvers.torchdiffeq_backend import adaptive_with_torchdiffeq, fixed_grid_with_torchdiffeq, uniform_grid
from ode_core.specs import METHODS, SolverSpec
from ode_core.specs.torchdiffeq_methods import TORCHDIFFEQ_METHODS
from tests.ode_core.solvers.problems import Watched, bernoulli, bernoulli_solution, coupled, coupled_solution

START = (1.1, 0.4)
FIXED = [name for name, theirs in TORCHDIFFEQ_METHODS.items() if not theirs.adaptive]
ADAPTIVE = [name for name, theirs in TORCHDIFFEQ_METHODS.items() if theirs.adaptive]
ADAMS = ["explicit_adams", "implicit_adams"]
DTYPES = [torch.float32, torch.float64]
INTERVALS = [(0.0, 1.0), (0.7, 0.1), (-0.3, 0.1)]


def start(batch: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor([START, (0.3, -0.2), (0.9, 0.1)], dtype=dtype)[:batch]


def fixed(method: str, steps: int, z0: torch.Tensor, *, field=coupled, t0=0.0, t1=1.0, **settings):
    grid = uniform_grid(steps, t0, t1)
    return fixed_grid_with_torchdiffeq(field, z0, method, grid, t0=t0, t1=t1, **settings)


def adaptive(method: str, tolerance: float, z0: torch.Tensor, *, field=coupled, t0=0.0, t1=1.0, **settings):
    settings = {"max_steps": 10_000} | settings
    return adaptive_with_torchdiffeq(field, z0, method, rtol=tolerance, atol=tolerance, t0=t0, t1=t1, **settings)


# ---------------------------------------------------------------- what is offered


def test_all_methods_of_torchdiffeq_but_scipys_are_offered():
    others = {"scipy_solver", "fixed_adams"}  # a wrapper, and an old name of implicit_adams
    assert {theirs.name for theirs in TORCHDIFFEQ_METHODS.values()} == set(SOLVERS) - others


def test_facts_name_torchdiffeq_where_it_offers_the_method():
    assert {name for name, facts in METHODS.items() if "torchdiffeq" in facts.backends} == (
        set(TORCHDIFFEQ_METHODS) & set(METHODS)
    )


@pytest.mark.parametrize("method", [name for name in ADAPTIVE if name in TABLEAUS and name != "dopri8"])
def test_the_solution_of_an_adaptive_method_has_the_same_tableau(method):
    ours, theirs = TABLEAUS[method], SOLVERS[TORCHDIFFEQ_METHODS[method].name].tableau
    for row, weights in zip(ours.a[1:], theirs.beta, strict=True):
        assert [float(w) for w in row] == pytest.approx(weights.tolist(), rel=1e-15)
    assert [float(c) for c in ours.c[1:]] == pytest.approx(theirs.alpha.tolist(), rel=1e-15)
    assert [float(w) for w in ours.b] == pytest.approx(theirs.c_sol.tolist(), rel=1e-15)
    if method != "dopri5":
        # dopri5 has Shampine's error weights there. The sign of an error is a convention.
        sign = torch.sign(theirs.c_error[0]) * (1 if ours.error[0] > 0 else -1)
        assert [float(w) for w in ours.error] == pytest.approx((sign * theirs.c_error).tolist(), rel=1e-13, abs=1e-17)


@pytest.mark.parametrize("method", [name for name in FIXED if name in TABLEAUS])
def test_a_fixed_step_has_the_same_tableau(method):
    # Agreement on a nonlinear system of one large step tells tableaus apart; all stages have numbers around 1.
    theirs = fixed(method, 1, start(3)).final
    assert torch.allclose(
        solve(coupled, start(3), SolverSpec(method=method, steps=1)).final, theirs, rtol=0, atol=1e-15
    )


def test_their_rk4_is_not_the_classical_method():
    theirs = fixed("rk4_38", 1, start()).final
    classical = solve(coupled, start(), SolverSpec(method="rk4", steps=1)).final
    assert float((theirs - classical).abs().max()) > 1e-4


# ---------------------------------------------------------------- the same as direct calls


@pytest.mark.filterwarnings("ignore:Functional iteration did not converge")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("t0", "t1"), INTERVALS)
@pytest.mark.parametrize("method", FIXED)
def test_a_fixed_grid_gives_what_a_direct_call_gives(method, t0, t1, dtype):
    field = Watched(coupled, t0, t1)
    solution = fixed(method, 12, start(3, dtype), field=field, t0=t0, t1=t1)
    options = {"grid_constructor": lambda f, z, t: torch.from_numpy(np.linspace(t0, t1, 13))}
    if method in ADAMS:
        options["max_order"] = {"explicit_adams": 5, "implicit_adams": 4}[method]
    calls = []
    expected = torchdiffeq.odeint(
        lambda t, z: (calls.append(t), coupled(t, z))[1],
        start(3, dtype),
        torch.tensor([t0, t1], dtype=torch.float64),
        rtol=max(1e-7, 10 * torch.finfo(dtype).eps),
        method=TORCHDIFFEQ_METHODS[method].name,
        options=options,
    )[-1]
    # NumPy rounds the points of the grid otherwise.
    assert torch.allclose(solution.final, expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
    assert solution.final.dtype == dtype
    assert solution.status.tolist() == [SolveStatus.SUCCESS] * 3
    assert solution.evaluations.tolist() == [len(field.calls)] * 3 == [len(calls)] * 3
    assert solution.accepted.tolist() == [12] * 3
    assert solution.rejected.tolist() == [0] * 3
    assert solution.last_step.tolist() == pytest.approx([abs(t1 - t0) / 12] * 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("t0", "t1"), INTERVALS)
@pytest.mark.parametrize("method", ADAPTIVE)
def test_tolerances_give_what_a_direct_call_with_landing_forced_gives(method, t0, t1, dtype):
    times = torch.tensor([t0, t0 + 0.4 * (t1 - t0), t1], dtype=torch.float64)
    field = Watched(coupled, t0, t1)
    solution = adaptive(method, 1e-4, start(3, dtype), field=field, t0=t0, t1=t1, times=times)
    calls = []
    expected = torchdiffeq.odeint(
        lambda t, z: (calls.append(t), coupled(t, z))[1],
        start(3, dtype),
        times,
        rtol=1e-4,
        atol=1e-4,
        method=TORCHDIFFEQ_METHODS[method].name,
        options={"step_t": times[1:]},
    )
    assert torch.equal(solution.trajectory, expected)
    assert torch.equal(solution.final, expected[-1])
    assert solution.evaluations.tolist() == [len(calls)] * 3 == [len(field.calls)] * 3
    assert solution.status.tolist() == [SolveStatus.SUCCESS] * 3
    steps = solution.accepted + solution.rejected
    assert torch.equal(solution.evaluations, 2 + TORCHDIFFEQ_METHODS[method].evaluations_per_step * steps)


def test_solve_takes_the_backend_of_the_solver():
    z0 = start(2)
    by_torchdiffeq = SolverSpec(method="dopri5", rtol=1e-5, atol=1e-5, backend="torchdiffeq")
    assert torch.equal(solve(coupled, z0, by_torchdiffeq).final, adaptive("dopri5", 1e-5, z0).final)
    grid = SolverSpec(method="heun", steps=5, backend="torchdiffeq")
    assert torch.equal(solve(coupled, z0, grid).final, fixed("heun", 5, z0).final)
    adams = SolverSpec(method="implicit_adams", steps=40, max_order=5)
    assert torch.equal(solve(coupled, z0, adams).final, fixed("implicit_adams", 40, z0, order=5).final)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_truncated_grid_is_torchdiffeqs_own(dtype):
    spec = SolverSpec(method="rk4_38", step_size=0.3, grid="truncate", backend="torchdiffeq")
    for t0, t1 in INTERVALS:
        expected = torchdiffeq.odeint(
            coupled, start(2, dtype), torch.tensor([t0, t1], dtype=dtype), method="rk4", options={"step_size": 0.3}
        )[-1]
        assert torch.equal(solve(coupled, start(2, dtype), spec, t0=t0, t1=t1).final, expected)


# ---------------------------------------------------------------- landing


def test_without_landing_forced_an_error_far_above_the_tolerance_remains():
    # z' = -2 t z^2 from 1: z(2) = 0.2. Left alone, torchdiffeq's dopri8 steps beyond and interpolates by a quartic.
    z0, times = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0.0, 2.0], dtype=torch.float64)
    alone = torchdiffeq.odeint(bernoulli, z0, times, rtol=1e-7, atol=1e-7, method="dopri8")[-1]
    landed = adaptive("dopri8", 1e-7, z0, field=Watched(bernoulli, 0.0, 2.0), t1=2.0).final
    assert float((landed - 0.2).abs()) < 1e-6
    assert float((alone - 0.2).abs()) > 100 * float((landed - 0.2).abs())


def test_outputs_may_be_interpolated_and_the_end_is_still_landed_on():
    times = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    z0 = torch.ones(1, 1, dtype=torch.float64)
    solver = SolverSpec(method="bosh3", rtol=1e-6, atol=1e-6, backend="torchdiffeq")
    field = Watched(bernoulli, 0.0, 2.0)
    solution = solve(field, z0, solver, t1=2.0, times=times, outputs="interpolate")
    assert torch.equal(solution.final, solve(bernoulli, z0, solver, t1=2.0).final)
    # The interpolant of bosh3 there goes through a middle value of order two only: hundreds of tolerances.
    assert torch.allclose(solution.trajectory[:, 0, 0], 1 / (1 + times**2), rtol=0, atol=1e-3)
    assert bool((solution.evaluations < solve(bernoulli, z0, solver, t1=2.0, times=times).evaluations).all())


def test_the_estimate_of_the_first_step_stays_within_the_interval():
    # A slope of 1e-4 at a state of 100 makes a trial step of 1e4; the field is defined up to 0.01.
    z0 = torch.full((1, 1), 100.0, dtype=torch.float64)
    field = Watched(lambda t, z: 1e-4 + 0 * z, 0.0, 0.01)
    assert adaptive("bosh3", 1e-6, z0, field=field, t1=0.01).succeeded.all()
    assert max(float(t) for t in field.calls) <= 0.01


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("method", ["rk4_38", "explicit_adams", "implicit_adams", "dopri5"])
def test_outputs_are_states_at_their_times_repeated_and_at_the_ends(method, t0, t1, dtype):
    times = torch.tensor([t0, t0, 0.5, 0.5, 0.5 + 0.13 * (t1 - t0), t1, t1], dtype=dtype)
    z0 = bernoulli_solution(t0, torch.tensor([[1.5], [0.7]], dtype=dtype))
    field = Watched(bernoulli, t0, t1)
    if method == "dopri5":
        solution = adaptive(method, 1e-6, z0, field=field, t0=t0, t1=t1, times=times)
    else:
        solution = fixed(method, 100, z0, field=field, t0=t0, t1=t1, times=times)
    exact = torch.stack(
        [bernoulli_solution(t, torch.tensor([[1.5], [0.7]], dtype=torch.float64)) for t in times.double()]
    )
    assert torch.allclose(solution.trajectory.double(), exact, rtol=0, atol=1e-5)
    assert torch.equal(solution.trajectory[0], z0)
    assert torch.equal(solution.trajectory[-1], solution.final)
    assert solution.evaluations.tolist() == [len(field.calls)] * 2
    assert solution.times is times


# ---------------------------------------------------------------- Adams methods


@pytest.mark.parametrize(("t0", "t1"), [(0.2, 1.7), (1.7, 0.2)])
@pytest.mark.parametrize(
    ("method", "order"), [("explicit_adams", 3), ("explicit_adams", 4), ("implicit_adams", 4), ("implicit_adams", 5)]
)
def test_the_error_of_an_adams_method_falls_with_its_order(method, order, t0, t1):
    exact = coupled_solution(t0, t1, START)
    # From where the expansion in h holds to where the ends of the corrections, at 1e-7 of a change, show.
    counts = np.geomspace(32, 108, 5).round().astype(int)
    errors = []
    for count in counts:
        solver = SolverSpec(method=method, steps=int(count), max_order=order)
        errors.append(float((solve(coupled, start(), solver, t0=t0, t1=t1, warn=False).final[0] - exact).norm()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.3


def test_the_default_order_is_that_of_the_facts():
    for method in ADAMS:
        order = METHODS[method].order
        assert torch.equal(
            solve(coupled, start(), SolverSpec(method=method, steps=20), warn=False).final,
            solve(coupled, start(), SolverSpec(method=method, steps=20, max_order=order), warn=False).final,
        )


def test_a_fifth_step_of_history_does_not_make_explicit_adams_a_method_of_order_five():
    # torchdiffeq grows the history by one step of order three, whose local error h^4 stays.
    exact = coupled_solution(0.0, 1.0, START)
    errors = [float((fixed("explicit_adams", n, start(), order=5).final[0] - exact).norm()) for n in (64, 256)]
    assert abs(np.log2(errors[0] / errors[1]) / 2 - 4) < 0.3


def test_the_order_of_torchdiffeqs_default_diverges_as_the_step_shrinks():
    exact = coupled_solution(0.0, 1.0, START)
    grid = [16, 32, 64]
    far = [float((fixed("explicit_adams", n, start(), order=11).final[0] - exact).norm()) for n in grid]
    near = [float((fixed("explicit_adams", n, start()).final[0] - exact).norm()) for n in grid]
    assert far[1] > far[0] > 100 * near[0]
    assert not far[2] < far[1]  # larger, or not a number
    assert near[2] < near[1] / 8 < near[0] / 64


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20])
def test_evaluations_of_adams_methods_are_those_stated_or_fewer(steps):
    stated = {method: METHODS[method].evaluations(steps) for method in ADAMS}
    assert fixed("explicit_adams", steps, start()).evaluations.tolist() == [stated["explicit_adams"]]
    assert fixed("implicit_adams", steps, start(), warn=False).evaluations.tolist() <= [stated["implicit_adams"]]
    # A stiff field takes all corrections: each leaves 9/24 of h lambda = 1 of the difference, not 1e-7.
    stiff = fixed("implicit_adams", steps, start(), field=lambda t, z: -steps * z, warn=False)
    assert stiff.evaluations.tolist() == [stated["implicit_adams"]]


BASHFORTH = np.array([55, -59, 37, -9]) / 24
PREDICTOR = np.array([23, -16, 5]) / 12
MOULTON = np.array([9, 19, -5, 1]) / 24


def bashforth_growth(x: float) -> float:
    """Largest root of ``rho(w) - h lambda sigma(w)`` of the four-step Adams-Bashforth method, ``h lambda = -x``."""
    polynomial = np.array([1.0, -1.0, 0.0, 0.0, 0.0]) + x * np.array([0.0, *BASHFORTH])
    return float(np.abs(np.roots(polynomial)).max())


def corrected_growth(x: float, corrections: int = 4) -> float:
    """Largest eigenvalue of one predicted and corrected step on ``(z, h f_n-1, h f_n-2)``, ``h lambda = -x``.

    The history holds slopes at the states themselves, not at the iterates.
    """
    z, *before = np.eye(3)
    slopes = np.array([-x * z, *before])
    change, known = PREDICTOR @ slopes, MOULTON[1:] @ slopes
    for _ in range(corrections):
        change = MOULTON[0] * -x * (z + change) + known
    return float(np.abs(np.linalg.eigvals(np.array([z + change, slopes[0], slopes[1]]))).max())


@pytest.mark.parametrize(
    ("method", "growth"), [("explicit_adams", bashforth_growth), ("implicit_adams", corrected_growth)]
)
def test_the_stability_limit_of_an_adams_method_is_where_its_characteristic_roots_leave_the_unit_disc(method, growth):
    xs = np.arange(1, 3000) / 1000
    limit = next(x for x in xs if growth(x) > 1 + 1e-9)
    assert round(limit, 2) == METHODS[method].stability_limit
    ends = []
    for x in (0.95 * limit, 1.05 * limit):
        rate = -400 * x
        z0 = torch.ones(1, 1, dtype=torch.float64)
        end = fixed(method, 400, z0, field=lambda t, z, rate=rate: rate * z, warn=False).final
        ends.append(float(end.abs().nan_to_num(torch.inf)))
    assert ends[0] < 1 < ends[1]


def test_corrections_that_do_not_converge_are_warned_of_where_warnings_are_wanted():
    z0 = torch.ones(1, 1, dtype=torch.float64)
    solver = SolverSpec(method="implicit_adams", steps=4)
    with pytest.warns(UserWarning, match="did not converge"):
        solve(lambda t, z: -6 * z, z0, solver)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert solve(lambda t, z: -6 * z, z0, solver, warn=False).succeeded.all()


def test_float32_resolves_what_the_corrections_are_held_against():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        final = solve(coupled, start(1, torch.float32), SolverSpec(method="implicit_adams", steps=64)).final
    exact = coupled_solution(0.0, 1.0, START)
    assert float((final[0].double() - exact).abs().max()) < 64 * torch.finfo(torch.float32).eps


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("method", FIXED)
def test_on_a_fixed_grid_a_sample_that_leaves_the_numbers_is_marked_and_the_others_finish(method):
    z0 = torch.tensor([[0.5], [1e200], [torch.nan], [0.7]], dtype=torch.float64)
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    solution = fixed(method, 8, z0, field=lambda t, z: z * z, times=times, warn=False)
    assert solution.status.tolist() == [SolveStatus.SUCCESS, SolveStatus.NON_FINITE, SolveStatus.NON_FINITE, 0]
    assert torch.isnan(solution.final).flatten().tolist() == [False, True, True, False]
    assert torch.isnan(solution.trajectory[0, :, 0]).tolist() == [False, False, True, False]


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_sample_that_is_not_finite_ends_an_adaptive_solve_and_is_told_from_its_mates(method):
    z0 = torch.tensor([[0.5], [torch.nan], [0.7]], dtype=torch.float64)
    solution = adaptive(method, 1e-5, z0, field=bernoulli)
    assert solution.status.tolist() == [SolveStatus.STEP_UNDERFLOW, SolveStatus.NON_FINITE, SolveStatus.STEP_UNDERFLOW]
    assert bool(torch.isnan(solution.final).all())


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "dopri8"])
def test_a_singularity_is_a_status_of_all_and_outputs_before_it_are_there(method):
    # z' = z^2 from 1 is 1 / (1 - t); the mate from 0.5 could go on to t = 2.
    z0 = torch.tensor([[1.0], [0.5]], dtype=torch.float64)
    times = torch.tensor([0.0, 0.5, 1.2], dtype=torch.float64)
    solution = adaptive(method, 1e-6, z0, field=lambda t, z: z * z, t1=1.2, times=times)
    assert set(solution.status.tolist()) <= {SolveStatus.STEP_UNDERFLOW, SolveStatus.NON_FINITE}
    assert not solution.succeeded.any()
    assert torch.allclose(solution.trajectory[1].flatten(), torch.tensor([2.0, 2 / 3], dtype=torch.float64), atol=1e-4)
    assert bool(torch.isnan(solution.trajectory[2]).all())
    assert bool(torch.isnan(solution.final).all())
    assert int(solution.accepted[0]) > 0
    assert int(solution.rejected[0]) > 0


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_steps_are_bounded_over_the_whole_solve_and_not_from_one_output_to_the_next(t0, t1):
    times = torch.linspace(t0, t1, 30, dtype=torch.float64)
    solver = SolverSpec(method="dopri5", rtol=1e-6, atol=1e-6, max_steps=10, backend="torchdiffeq")
    solution = solve(coupled, start(2), solver, t0=t0, t1=t1, times=times)
    assert solution.status.tolist() == [SolveStatus.MAX_STEPS_REACHED] * 2
    assert (solution.accepted + solution.rejected).tolist() == [10] * 2
    reached = torch.isfinite(solution.trajectory[:, 0, 0])
    assert bool(reached[0])
    assert 2 <= int(reached.sum()) <= 11


def test_a_budget_ends_the_solve_at_its_last_evaluation():
    field = Watched(coupled, 0.0, 1.0)
    needed = int(adaptive("dopri5", 1e-6, start(2)).evaluations[0])
    solution = adaptive("dopri5", 1e-6, start(2), field=field, max_evaluations=needed - 1)
    assert solution.status.tolist() == [SolveStatus.BUDGET_EXCEEDED] * 2
    assert solution.evaluations.tolist() == [needed - 1] * 2 == [len(field.calls)] * 2
    assert adaptive("dopri5", 1e-6, start(2), max_evaluations=needed).succeeded.all()
    for method, enough in (("rk4_38", 20), ("explicit_adams", 11)):
        short = fixed(method, 5, start(2), max_evaluations=enough - 1)
        assert short.status.tolist() == [SolveStatus.BUDGET_EXCEEDED] * 2
        assert bool(torch.isnan(short.final).all())
        assert fixed(method, 5, start(2), max_evaluations=enough).succeeded.all()


def test_failures_raise_where_that_is_asked_for():
    solver = SolverSpec(method="dopri5", rtol=1e-6, atol=1e-6, max_steps=2, backend="torchdiffeq")
    with pytest.raises(SolveFailed, match="max_steps_reached"):
        solve(coupled, start(2), solver, throw=True)


def test_what_a_field_raises_comes_out():
    def broken(t, z):
        raise AssertionError("of the field")

    for solver in ({"steps": 3, "method": "euler"}, {"rtol": 1e-3, "atol": 1e-3, "method": "dopri5"}):
        with pytest.raises(AssertionError, match="of the field"):
            solve(broken, start(), SolverSpec(backend="torchdiffeq", **solver))


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("solver", [{"method": m, "steps": 5} for m in ("heun", *ADAMS)])
def test_autograd_through_torchdiffeq_is_the_derivative_of_the_discrete_map(solver):
    rate = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    times = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    spec = SolverSpec(backend="torchdiffeq", **solver)

    def end(z0, rate):
        solution = solve(lambda t, z: rate * coupled(t, z), z0, spec, times=times, warn=False)
        return solution.final, solution.trajectory

    assert torch.autograd.gradcheck(end, (start(2).requires_grad_(), rate))


def test_autograd_through_an_adaptive_solve_agrees_with_that_of_the_engine():
    gradients = []
    for backend in ("odeness", "torchdiffeq"):
        z0 = start(1).requires_grad_()
        solver = SolverSpec(method="dopri5", rtol=1e-10, atol=1e-10, backend=backend)
        solve(coupled, z0, solver).final.sum().backward()
        gradients.append(z0.grad)
    # Both are derivatives of solutions with errors of a few tolerances.
    assert torch.allclose(*gradients, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", FIXED)
def test_on_a_fixed_grid_a_sample_that_fails_leaves_the_others_gradients_alone(method):
    times = torch.tensor([0.5, 1.0], dtype=torch.float64)
    results = []
    for starts in ([[0.5], [1e200], [torch.nan], [0.7]], [[0.5], [0.7]]):
        factor = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        z0 = torch.tensor(starts, dtype=torch.float64, requires_grad=True)
        solver = SolverSpec(method=method, steps=8, backend="torchdiffeq")
        solution = solve(lambda t, z, f=factor: f * z * z, z0, solver, times=times, warn=False)
        good = solution.succeeded
        assert int(good.sum()) == 2
        (solution.final[good].sum() + solution.trajectory[:, good].sum()).backward()
        assert bool((z0.grad[~good] == 0).all())
        results.append((factor.grad, z0.grad[good]))
    # Sums in another order.
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=0)
