import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ode_core.audit.class_separation import separate
from ode_core.datasets.load import load_dataset
from ode_core.models.classifier import build_classifier
from ode_core.models.modified_classifier import with_modified_field
from ode_core.specs import PRESETS, SolverSpec, XorSpec
from ode_core.specs.modified_field import ModifiedFieldSpec

coordinates = st.floats(-5, 5, allow_subnormal=False)
clouds = st.lists(st.tuples(coordinates, coordinates, st.integers(0, 1)), min_size=2, max_size=6)


def relative_margin(points, labels):
    """The margin between the points labelled 0 and those labelled 1."""
    apart = separate(points[labels == 0].double().numpy(), points[labels == 1].double().numpy())
    return apart.relative_margin


def scanned(points, labels):
    """The margin over 20,000 directions instead of the exact ones."""
    angles = torch.linspace(0, 2 * math.pi, 20_001, dtype=torch.float64)
    projected = points.double() @ torch.stack([angles.cos(), angles.sin()])
    gap = projected[labels == 1].min(dim=0).values - projected[labels == 0].max(dim=0).values
    return float(gap.max() / points.double().norm(dim=1).max())


@given(clouds)
def test_the_margin_is_the_widest_gap_of_all_directions(cloud):
    points, labels = torch.tensor([c[:2] for c in cloud]), torch.tensor([c[2] for c in cloud])
    if len(labels.unique()) < 2 or float(points.norm(dim=1).max()) < 0.1:
        return
    margin = relative_margin(points, labels)
    # A scan misses the best direction by up to 1.6e-4, which changes a gap of at most 2 by less than 4e-4.
    assert scanned(points, labels) - 1e-9 <= margin <= scanned(points, labels) + 4e-4


def test_two_points_are_apart_by_their_distance():
    points, labels = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 1])
    assert relative_margin(points, labels) == pytest.approx(5 / 4)


def test_the_corners_of_a_square_overlap_by_half_a_diagonal_when_labelled_as_xor():
    # Seen along a side, each class fills it; along a diagonal, one class fills it and the other is its middle.
    points, labels = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1, 1, 0])
    assert relative_margin(points, labels) == pytest.approx(-(2**0.5) / 2 / 2**0.5)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("solver", "margin"),
    [
        (SolverSpec(method="euler", step_size=10**-2.5), 0.42),
        (SolverSpec(method="euler", step_size=10**-3.5), -0.32),
        (SolverSpec(method="rk4", steps=2000), -0.38),
        (SolverSpec(method="dopri8", rtol=1e-6, atol=1e-6), -0.38),
    ],
)
def test_lady_windermeres_fan_separates_xor_with_coarse_euler_steps_only(solver, margin, precision):
    # The margins are those of the project's notes on the paper.
    data = load_dataset(XorSpec(), None)
    model = build_classifier(PRESETS["xor_fan"], XorSpec()).to(precision)
    ends = model.predict(data.test_inputs, solver).solution.final
    assert relative_margin(ends, data.test_labels) == pytest.approx(margin, abs=0.005)


def test_the_modified_field_of_the_coarse_steps_separates_xor_under_a_converged_solver():
    # What separates the classes are errors that add up, so there is a field whose exact flow separates them.
    data = load_dataset(XorSpec(), None)
    model = build_classifier(PRESETS["xor_fan"], XorSpec()).double().uncompiled()
    coarse = SolverSpec(method="euler", step_size=10**-2.5)
    repaired = with_modified_field(model, ModifiedFieldSpec(solver=coarse, kind="iterates", terms=4))
    ends = repaired.predict(data.test_inputs, SolverSpec(method="dopri5", rtol=1e-8, atol=1e-8)).solution.final
    assert relative_margin(ends, data.test_labels) == pytest.approx(0.42, abs=0.005)
    assert torch.allclose(ends, model.predict(data.test_inputs, coarse).solution.final, rtol=1e-4, atol=1e-3)
