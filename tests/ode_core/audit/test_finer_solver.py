"""The next finer solver, which certificates compare with."""

from typing import Any

import pytest

from ode_core.audit.finer_solver import finer_solver
from ode_core.specs import METHODS, SolverSpec
from ode_core.specs.solver import MAX_FIXED_STEPS


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 3e-5, 0.025])
def test_a_tenth_of_a_tolerance_is_written_as_people_would(tolerance: float) -> None:
    finer = finer_solver(SolverSpec(method="dopri5", rtol=tolerance, atol=tolerance), 1.0)
    assert finer.rtol == finer.atol == pytest.approx(tolerance / 10, rel=1e-11)
    assert len(repr(finer.rtol)) <= len(repr(tolerance)) + 3


@pytest.mark.parametrize(
    ("solver", "changed"),
    [
        ({"method": "rk4", "steps": 5}, {"steps": 10}),
        ({"method": "heun_euler", "rtol": 0.1, "atol": 0.1, "max_steps": 7}, {"max_steps": 28}),
        ({"method": "bosh3", "rtol": 0.1, "atol": 0.1, "max_steps": 7}, {"max_steps": 21}),
        ({"method": "dopri5", "rtol": 0.1, "atol": 0.1, "max_steps": 7, "controller": "pi"}, {"max_steps": 14}),
        ({"method": "dopri5", "rtol": 0.1, "atol": 0.1, "max_steps": 99_999}, {"max_steps": MAX_FIXED_STEPS}),
    ],
)
def test_steps_and_their_bound_grow_and_the_rest_stays(solver: dict[str, Any], changed: dict[str, Any]) -> None:
    tolerances = {"rtol": 0.01, "atol": 0.01} if "rtol" in solver else {}
    assert finer_solver(SolverSpec.model_validate(solver), 1.0).document() == solver | tolerances | changed


@pytest.mark.parametrize("method", [name for name, facts in METHODS.items() if facts.adaptive])
def test_the_bound_grows_by_more_than_the_steps_of_the_estimates_order(method: str) -> None:
    facts = METHODS[method]
    assert facts.embedded_order is not None
    solver = SolverSpec(method=method, rtol=1e-3, atol=1e-3, max_steps=1000)
    bound = finer_solver(solver, 1.0).max_steps
    assert bound is not None
    assert bound > 1000 * 10 ** (1 / (min(facts.order, facts.embedded_order) + 1))
