"""The work-precision plot: what is measured is the error of a solve, and every method is in it."""

import math

import torch
from scipy.integrate import solve_ivp

from api.charts.render import to_svg
from benchmarks.work_precision import driven_pendulum, measure, neural_field, solvers
from benchmarks.work_precision_chart import work_precision_chart
from ode_core.specs import METHODS, SolverSpec


def test_every_method_is_measured() -> None:
    assert {spec.method for spec in solvers()} == set(METHODS)


def test_the_reference_is_that_of_one_pendulum_alone() -> None:
    problem = driven_pendulum(samples=2)
    x, v = problem.starts[0].tolist()

    alone = solve_ivp(
        lambda t, z: [z[1], math.cos(1.5 * t) - math.sin(z[0]) - 0.25 * z[1]],
        (0, problem.end),
        [x, v],
        method="DOP853",
        rtol=1e-12,
        atol=1e-12,
    )

    torch.testing.assert_close(problem.exact()[0], torch.from_numpy(alone.y[:, -1]), rtol=0, atol=1e-9)


def test_the_errors_fall_with_the_order_of_the_method() -> None:
    """Eight times more steps: 8 times less error for order 1, 4,096 times less for order 4, within a factor of 3."""
    for problem in (driven_pendulum(samples=2), neural_field(samples=2)):
        for method, order in (("euler", 1), ("rk4", 4)):
            specs = [SolverSpec(method=method, steps=steps) for steps in (64, 512)]
            coarse, fine = measure(problem, specs, rounds=1)
            assert 1 / 3 < (coarse.error / fine.error) / 8.0**order < 3


def test_the_plot_is_drawn_of_what_was_measured() -> None:
    points = measure(driven_pendulum(samples=2), solvers(32, tolerances=(1e-2, 1e-3)), rounds=1)

    drawing = to_svg(work_precision_chart(points))

    assert all(point.method in drawing for point in points if point.error <= 1)
    assert "driven pendulum, adaptive" in drawing
