import math

import pytest
import torch

from ode_core.audit.audit import audit
from ode_core.audit.ladder import ladder
from ode_core.audit.sweep import sweep
from ode_core.specs import SolverSpec
from tests.ode_core.audit.linear_models import circle, rotation

SAMPLES = 400


@pytest.mark.parametrize(("steps", "verdict"), [(2, "discrete"), (64, "ode")])
def test_a_model_trained_with_the_implicit_midpoint_rule_is_audited(steps: int, verdict: str) -> None:
    model, inputs = rotation(3.0), circle(SAMPLES)
    solver = SolverSpec(method="implicit_midpoint", steps=steps)
    with torch.no_grad():
        labels = model(inputs, solver).argmax(dim=1)
    report = audit(model, inputs, labels, solver, epsilon=0.01)
    assert report.verdict == verdict
    # A step turns by 2 atan(h/2): the flow's angle and the method's differ by a known share of the circle, and at
    # both ends of each class as many points change sides.
    missing = 3.0 - 2 * steps * math.atan(3.0 / (2 * steps))
    assert report.flip_rate == pytest.approx(missing / math.pi, abs=2 / SAMPLES)


def test_implicit_methods_are_test_solvers_like_others() -> None:
    solvers = [
        SolverSpec(method="implicit_midpoint", steps=64),
        SolverSpec(method="trapezoid", step_size=0.02),
        SolverSpec(method="kvaerno3", steps=16),
        SolverSpec(method="kvaerno3", rtol=1e-4, atol=1e-4),
    ]
    labels = torch.zeros(SAMPLES, dtype=torch.int64)
    results = sweep(rotation(2.0), circle(SAMPLES), labels, SolverSpec(method="rk4", steps=64), solvers)
    assert [result.steps for result in results] == [64, 50, 16, None]
    assert all(result.failures == 0 for result in results)
    assert all(result.flip_rate <= 2 / SAMPLES for result in results)
    # The field is linear: two iterations a stage, one Jacobian of two numbers, one evaluation at the start.
    assert results[0].nfe == 1 + 2 + 2 * 64


def test_the_ladder_of_an_implicit_method_has_its_own_grids_beside_the_explicit_ones() -> None:
    rungs = ladder(SolverSpec(method="implicit_midpoint", steps=8), 1.0)
    assert {rung.method for rung in rungs} == {"euler", "midpoint", "rk4", "implicit_midpoint"}
    assert all(rung.facts.evaluations(rung.steps or 0) <= 16 * 3 * 8 for rung in rungs)
