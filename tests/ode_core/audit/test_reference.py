import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from ode_core.audit.audit import audit
from ode_core.audit.reference import (
    MAX_EVALUATIONS,
    MAX_MODIFIED_EVALUATIONS,
    converged_reference,
    margins,
    most_evaluations,
)
from ode_core.models.modified_classifier import with_modified_field
from ode_core.models.predictions import NO_LABEL
from ode_core.specs import ModifiedFieldSpec, SolverSpec
from tests.ode_core.audit.linear_models import Counted, Explosion, LinearField, circle, classifier_around, rotation


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


def test_the_audit_of_a_repaired_field_that_explodes_ends_at_a_bound_reports_meanwhile_and_says_so() -> None:
    # The field of four terms of log(1 + x) is, at x = h a = -12, -5,844 times the state; dopri5 is stable over a step
    # of 3.3, so that the interval takes 1,771 steps of six evaluations.
    x = -12.0
    assert abs(sum((-1) ** (j + 1) / j * x**j for j in range(1, 5))) / 3.3 * 6 > 3 * MAX_MODIFIED_EVALUATIONS
    spec = ModifiedFieldSpec(solver=SolverSpec(method="euler", steps=1), kind="iterates", terms=4)
    model = with_modified_field(classifier_around(Counted([[x, 0.0], [0.0, 0.0]])), spec)
    reports: list[str] = []

    report = audit(
        model,
        circle(10),
        torch.zeros(10, dtype=torch.long),
        SolverSpec(method="rk4", steps=2),
        max_evaluations=100_000,
        on_progress=lambda part, parts, message: reports.append(message),
    )

    bound = MAX_MODIFIED_EVALUATIONS * model.evaluations_in_field
    assert report.verdict == "unresolved"
    assert f"10 of 10 solves would take more than {bound:,} evaluations of the field" in report.sentence
    assert report.reference.predictions.evaluations.max() <= bound
    # One batch at one tolerance, and yet reports from within it.
    assert sum(message.startswith("converged reference: tolerance 1e-04") for message in reports) > 100


def test_a_reference_has_the_least_of_its_own_bound_and_the_callers() -> None:
    assert most_evaluations(1, None) == MAX_EVALUATIONS
    assert most_evaluations(1, 2_000) == 2_000
    assert most_evaluations(50, None) == 50 * MAX_MODIFIED_EVALUATIONS
    assert most_evaluations(50, 100_000) == 100_000
