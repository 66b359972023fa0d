"""What a picture of predictions is drawn from, against flows that are known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ode_core.audit.explanation import ACCURACY, explain
from ode_core.audit.phase_portrait import in_float64
from ode_core.models.classifier import Classifier, build_classifier
from ode_core.models.predictions import NO_LABEL
from ode_core.specs import ClassifierSpec, MlpField, SolverSpec
from tests.ode_core.audit.linear_models import PLANE, Explosion, circle, classifier_around, rotation

ANGLE = 2.0


def explained(model: Classifier, inputs: Tensor, solver: SolverSpec) -> dict[str, object]:
    return explain(model, in_float64(model), inputs, solver)


def turned(inputs: Tensor, factors: np.ndarray) -> np.ndarray:
    """Return points as complex numbers times ``factors``, ``(n, times, 2)``."""
    points = inputs.double().numpy()
    z = (points[:, :1] + 1j * points[:, 1:]) * factors
    return np.stack([z.real, z.imag], axis=-1)


def test_a_grids_own_states_and_the_exact_ones_are_those_of_the_formulas() -> None:
    inputs, steps = circle(6), 3
    seen = explained(rotation(ANGLE), inputs, SolverSpec(method="euler", steps=steps))

    taken = (1 + 1j * ANGLE / steps) ** np.arange(steps + 1)
    exact = np.exp(1j * ANGLE * np.linspace(0, 1, steps + 1))
    assert seen["own_steps"]
    np.testing.assert_allclose(seen["times"], np.arange(steps + 1) / steps)
    np.testing.assert_allclose(seen["states"], turned(inputs, taken), atol=1e-5)
    flow = turned(inputs, np.exp(1j * ANGLE * np.array(seen["exact_times"])))
    np.testing.assert_allclose(seen["exact_states"], flow, atol=2 * ACCURACY)
    distances = np.array(seen["distances"], float)
    assert np.isnan(distances[:, 0]).all(), "at the start there is no distance to tell"
    np.testing.assert_allclose(distances[:, 1:], np.tile(np.abs(taken - exact)[1:], (6, 1)), atol=2 * ACCURACY)
    np.testing.assert_array_equal(seen["exact_labels"], (flow[:, -1, 0] > 0).astype(int))


def test_an_adaptive_solvers_states_are_read_between_its_steps() -> None:
    inputs = circle(4)
    seen = explained(rotation(ANGLE), inputs, SolverSpec(method="dopri5", rtol=1e-6, atol=1e-6))

    assert not seen["own_steps"]
    assert seen["times"] == seen["exact_times"]
    np.testing.assert_allclose(seen["states"], turned(inputs, np.exp(1j * ANGLE * np.array(seen["times"]))), atol=1e-4)


def test_a_class_that_is_closer_than_the_exact_flow_is_known_is_not_told() -> None:
    # Turned by a quarter the point (0, -1) ends at (1, 0), and (-1, 0) on the line between the classes.
    inputs = torch.tensor([[0.0, -1.0], [-1.0, 0.0]])
    seen = explained(rotation(math.pi / 2), inputs, SolverSpec(method="rk4", steps=4))

    assert seen["exact_labels"] == [1, NO_LABEL]


def test_a_row_that_leaves_every_bound_is_drawn_as_far_as_it_goes() -> None:
    inputs = torch.tensor([[0.5, 0.1], [3.0, 0.1]])
    seen = explained(classifier_around(Explosion()), inputs, SolverSpec(method="dopri5", rtol=1e-4, atol=1e-4))

    assert seen["exact_labels"] == [1, NO_LABEL]
    states = seen["states"]
    assert isinstance(states, list)
    assert np.isfinite(np.array(states[0], float)).all()
    assert states[1][0] == pytest.approx([3.0, 0.1])
    assert states[1][-1] == [None, None]


def test_one_plane_holds_both_unless_the_exact_flow_runs_away() -> None:
    near = explained(rotation(0.1), circle(6), SolverSpec(method="euler", steps=4))
    growing = classifier_around(rotation(0.0).field)
    with torch.no_grad():
        growing.field.matrix.copy_(torch.diag(torch.tensor([6.0, 6.0])))  # type: ignore[union-attr, operator]
    far = explained(growing, circle(6), SolverSpec(method="euler", steps=1))

    assert near["exact_plane"] is None
    plane, exact_plane = far["plane"], far["exact_plane"]
    assert isinstance(plane, dict)
    assert isinstance(exact_plane, dict)
    assert 7 < plane["x"][1] < 9  # to 1 + 6
    assert 400 < exact_plane["x"][1] < 500  # to e^6


def test_a_row_that_goes_much_further_than_the_others_does_not_make_them_a_dot() -> None:
    inputs = torch.cat([circle(3), torch.tensor([[1e4, 0.0]])])
    seen = explained(rotation(0.1), inputs, SolverSpec(method="euler", steps=4))

    assert seen["exact_plane"] is None
    plane = seen["plane"]
    assert isinstance(plane, dict)
    assert max(map(abs, [*plane["x"], *plane["y"]])) < 2.5  # the others stay on the circle of radius 1
    assert len(seen["states"]) == 4  # type: ignore[arg-type]


def test_a_model_with_a_wider_state_is_seen_in_the_plane_of_its_inputs() -> None:
    spec = ClassifierSpec.model_validate({"stem": {"kind": "linear", "features": 4}, "field": MlpField(hidden=(8,))})
    model = build_classifier(spec, PLANE, seed=3)
    inputs, solver = circle(5), SolverSpec(method="rk4", steps=16)
    seen = explained(model, inputs, solver)

    assert seen["of"] == "inputs"
    np.testing.assert_allclose(seen["points"], inputs.numpy(), atol=1e-6)
    labels = model(inputs, solver).argmax(1).tolist()
    known = [label for label in seen["exact_labels"] if label != NO_LABEL]  # type: ignore[attr-defined]
    assert known
    assert known == [label for label, exact in zip(labels, seen["exact_labels"], strict=True) if exact != NO_LABEL]  # type: ignore[call-overload]
    regions, exact_regions = np.array(seen["regions"]), np.array(seen["exact_regions"])
    assert regions.shape == exact_regions.shape
    told = exact_regions != NO_LABEL
    assert told.mean() > 0.9
    assert (regions == exact_regions)[told].mean() > 0.99


def test_a_model_without_a_plane_is_refused() -> None:
    spec = ClassifierSpec(field=MlpField(hidden=(4,)))
    model = build_classifier(spec, PLANE.model_copy(update={"dimension": 3}), seed=0)
    with pytest.raises(ValueError, match="points of a plane"):
        explained(model, torch.zeros(1, 3), SolverSpec(method="rk4", steps=2))
