import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from ode_core.audit.reference import converged_reference, margins
from ode_core.models.predictions import NO_LABEL
from tests.ode_core.audit.linear_models import Explosion, LinearField, circle, classifier_around, rotation


def test_the_reference_is_the_exact_flow_of_a_linear_field() -> None:
    matrix = [[0.3, -2.0], [1.5, -0.4]]
    inputs = circle(64)
    reference = converged_reference(classifier_around(LinearField(matrix)), inputs)
    exact = inputs.double().numpy() @ expm(np.array(matrix, dtype=np.float32).astype(np.float64)).T
    assert reference.converged
    # dopri5 at tolerance 1e-5 controls the error of one step; over the interval a few of them add up.
    assert np.allclose(reference.predictions.logits[:, 1].numpy(), exact[:, 0], atol=1e-3)
    assert reference.predictions.labels.tolist() == (exact[:, 0] > 0).astype(int).tolist()
    assert reference.predictions.logits.dtype == torch.float64


def test_samples_near_the_decision_line_are_refined_further_than_the_others() -> None:
    angle = 40.0
    inputs = circle(50)
    # One more point that the flow carries to the line, off it by 1e-5: undecided until the error is far below.
    close = math.pi / 2 - angle - 1e-5
    inputs = torch.cat([inputs, torch.tensor([[math.cos(close), math.sin(close)]])])
    asked: list[tuple[float, int]] = []
    reference = converged_reference(
        rotation(angle), inputs, on_tolerance=lambda tolerance, samples: asked.append((tolerance, samples))
    )
    assert reference.converged
    assert asked[0] == (1e-4, 51)
    assert asked[1] == (1e-5, 51)
    assert len(asked) > 2
    assert all(samples < 10 for _, samples in asked[2:])
    assert reference.predictions.labels[-1] == 1


def test_solutions_that_explode_leave_the_reference_unconverged_and_say_so() -> None:
    inputs = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.5, 0.0]])
    reference = converged_reference(classifier_around(Explosion()), inputs)
    assert not reference.converged
    assert reference.failures == 2
    assert "2 of 3 solves end with" in reference.reason
    assert reference.predictions.labels.tolist() == [NO_LABEL, NO_LABEL, 1]


def test_a_tolerance_that_is_not_tight_enough_is_not_called_converged() -> None:
    # The flow carries the first two points to the line, up to single precision: 1e-5 cannot tell on which side.
    angle = 30.0
    close = math.pi / 2 - angle
    inputs = torch.tensor([[math.cos(close), math.sin(close)], [-math.cos(close), -math.sin(close)], [1.0, 0.0]])
    reference = converged_reference(rotation(angle), inputs, last_tolerance=1e-5)
    assert not reference.converged
    assert reference.unsettled == 2
    assert "still change" in reference.reason


def test_the_margin_is_the_distance_of_the_two_largest_logits() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, 0.0, -1.0], [torch.nan, 1.0, 2.0]])
    values = margins(logits).tolist()
    assert values[:2] == pytest.approx([0.5, 0.0])
    assert math.isnan(values[2])
