import math

import pytest
import torch

from ode_core.solvers.solve import solve
from ode_core.specs import SolverSpec
from ode_core.training.adaptation.model_probe import ModelProbe
from tests.ode_core.audit.linear_models import Explosion, circle, classifier_around, flipped_share, rotation

SAMPLES = 400
ANGLE = 2.0


def turned_right(angle: float, samples: int) -> torch.Tensor:
    """Labels of the circle's points after an exact rotation."""
    angles = (torch.arange(samples, dtype=torch.float64) + 0.5) * 2 * math.pi / samples
    return (torch.cos(angles + angle) > 0).long()


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_on_a_rotation_the_flips_are_the_points_between_the_map_and_the_flow(steps: int) -> None:
    points = circle(SAMPLES)
    probe = ModelProbe(rotation(ANGLE), points[:1], torch.zeros(1), points, None)
    assert probe.reference_evaluations == 0
    flips = probe.flips(SolverSpec(method="euler", steps=steps))
    assert flips.fewest == flips.most == round(flipped_share(ANGLE, steps, SAMPLES) * SAMPLES)
    assert (flips.samples, flips.evaluations) == (SAMPLES, steps)


def test_the_reference_is_solved_once_and_all_its_tolerances_are_counted() -> None:
    points = circle(SAMPLES)
    probe = ModelProbe(rotation(ANGLE), points[:1], torch.zeros(1), points, None)
    probe.flips(SolverSpec(method="euler", steps=2))
    once = probe.reference_evaluations
    # Every sample is solved with 1e-4 and with 1e-5, some with tighter tolerances.
    model = rotation(ANGLE).double()
    least = 0.0
    for tolerance in (1e-4, 1e-5):
        size = float(points.square().mean().sqrt())
        solver = SolverSpec(method="dopri5", rtol=tolerance, atol=tolerance * size, max_steps=5000)
        evaluations = solve(model.field, points.double(), solver).evaluations
        least += float(evaluations.double().mean())
    assert least <= once < 2 * least
    probe.flips(SolverSpec(method="euler", steps=4))
    assert probe.reference_evaluations == once


def test_a_sample_beyond_its_evaluations_is_not_settled() -> None:
    points = circle(SAMPLES)
    probe = ModelProbe(rotation(ANGLE), points[:1], torch.zeros(1), points, 5)
    flips = probe.flips(SolverSpec(method="euler", steps=2))
    assert (flips.fewest, flips.most) == (0, SAMPLES)


def test_the_accuracy_is_that_of_the_batch_and_a_failed_solve_is_wrong() -> None:
    points = circle(SAMPLES)
    probe = ModelProbe(rotation(ANGLE), points, turned_right(ANGLE, SAMPLES), None, None)
    for steps in (1, 3, 100):
        measured = probe.accuracy(SolverSpec(method="euler", steps=steps))
        assert measured.accuracy == pytest.approx(1 - flipped_share(ANGLE, steps, SAMPLES))
        assert measured.evaluations == steps
    exploding = torch.tensor([[2.0, 0.0], [0.5, 0.0]])
    probe = ModelProbe(classifier_around(Explosion()), exploding, torch.tensor([0, 1]), None, None)
    # The first solution leaves every bound; argmax of its NaN would be class 0, its label.
    assert probe.accuracy(SolverSpec(method="dopri5", rtol=1e-5, atol=1e-5)).accuracy == 0.5


def test_an_exact_accuracy_is_computed_in_float64() -> None:
    # The flow carries the point to 1e-9 right of the line, which float32 cannot tell from the line itself.
    angle = 1.0
    start = math.pi / 2 - angle - 1e-9
    points = torch.tensor([[math.cos(start), math.sin(start)]], dtype=torch.float64)
    probe = ModelProbe(rotation(angle), points, torch.tensor([1]), None, None)
    tight = SolverSpec(method="dopri5", rtol=1e-12, atol=1e-12)
    assert probe.accuracy(tight, exact=True).accuracy == 1.0


def test_a_probe_leaves_the_model_as_it_is() -> None:
    model = rotation(ANGLE)
    points = circle(SAMPLES)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe = ModelProbe(model, points, turned_right(ANGLE, SAMPLES), points, None)
    probe.flips(SolverSpec(method="euler", steps=2))
    probe.accuracy(SolverSpec(method="euler", steps=2), exact=True)
    assert model.dtype == torch.float32
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())
