"""Portraits of models whose flow is known."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ode_core.audit.phase_portrait import Plane, decision_line, last_turn
from ode_core.audit.portrait import STORED_CROSSINGS, PortraitSize, portrait
from ode_core.models.classifier import Classifier, build_classifier
from ode_core.specs import ClassifierSpec, ConcentricSpheresSpec, Conv1dField, MlpField, SolverSpec
from tests.ode_core.audit.growing_ellipses import GrowingEllipses
from tests.ode_core.audit.linear_models import LinearField, circle, classifier_around, rotation

EULER4, EULER8 = SolverSpec(method="euler", steps=4), SolverSpec(method="euler", steps=8)
ANGLE = 1.2


def labels_of(inputs: Tensor) -> Tensor:
    """Return the classes that the exact rotation gives."""
    angles = torch.atan2(inputs[:, 1], inputs[:, 0]) + ANGLE
    return (angles.cos() > 0).long()


def rotated(samples: int = 30, **size: int) -> dict[str, Any]:
    inputs = circle(samples)
    return portrait(
        rotation(ANGLE),
        inputs,
        labels_of(inputs),
        EULER4,
        EULER8,
        autonomous=True,
        size=PortraitSize(**({"samples": 10, "fan_samples": 2, "grid": 15} | size)),
    )


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    return rotated()


def test_trajectories_are_the_numerical_solution_at_every_grid_point(drawn: dict[str, Any]) -> None:
    step = np.array([[1, -ANGLE / 4], [ANGLE / 4, 1]])
    view = drawn["views"][0]

    states = np.array(view["trajectories"]["states"])
    assert states.shape == (10, 5, 2)
    assert view["trajectories"]["times"] == [0, 0.25, 0.5, 0.75, 1]
    for k in range(5):
        expected = circle(30)[:10].double().numpy() @ np.linalg.matrix_power(step, k).T
        np.testing.assert_allclose(states[:, k], expected, atol=1e-5)
    assert (view["label"], view["steps"], view["step"]) == ("euler-4", 4, 0.25)
    assert [view["steps"] for view in drawn["views"]] == [4, 8]


def test_the_reference_is_the_exact_flow(drawn: dict[str, Any]) -> None:
    times = np.array(drawn["reference"]["trajectories"]["times"])
    states = np.array(drawn["reference"]["trajectories"]["states"])
    starts = circle(30)[:10].double().numpy()
    angles = np.arctan2(starts[:, 1], starts[:, 0])[:, None] + ANGLE * times

    np.testing.assert_allclose(states, np.stack([np.cos(angles), np.sin(angles)], axis=2), atol=2e-5)
    assert drawn["reference"]["accuracy"] == 1
    assert drawn["reference"]["failures"] == 0


def test_clusters_are_the_final_states_with_their_predictions(drawn: dict[str, Any]) -> None:
    for view in [*drawn["views"], drawn["reference"]]:
        ends, predictions = np.array(view["final"]["states"]), np.array(view["final"]["predictions"])
        assert ends.shape == (30, 2)
        np.testing.assert_array_equal(predictions, ends[:, 0] > 0)
        assert view["accuracy"] == np.mean(predictions == np.array(drawn["labels"]))


def test_decision_regions_follow_from_the_map_from_inputs_to_final_states(drawn: dict[str, Any]) -> None:
    shares = (np.arange(15) + 0.5) / 15
    x, y = np.meshgrid(*(low + shares * (high - low) for low, high in map(drawn["input_plane"].get, "xy")))

    for view, first_row in (
        (drawn["views"][0], np.linalg.matrix_power(np.array([[1, -ANGLE / 4], [ANGLE / 4, 1]]), 4)[0]),
        (drawn["reference"], np.array([math.cos(ANGLE), -math.sin(ANGLE)])),
    ):
        final = first_row[0] * x + first_row[1] * y
        clear = np.abs(final) > 1e-6  # on the line itself rounding decides
        np.testing.assert_array_equal(np.array(view["input_regions"])[clear], (final > 0)[clear])


def test_the_classifiers_line_and_regions_are_those_of_its_head(drawn: dict[str, Any]) -> None:
    assert drawn["decision_line"] == {"normal": [1, 0], "offset": 0}
    for view in [*drawn["views"], drawn["reference"]]:
        low, high = view["final"]["plane"]["x"]
        middles = low + (np.arange(15) + 0.5) / 15 * (high - low)
        clear = np.abs(middles) > 1e-6
        for row in view["final"]["regions"]:
            np.testing.assert_array_equal(np.array(row)[clear], (middles > 0)[clear])


def test_the_arrows_are_the_field(drawn: dict[str, Any]) -> None:
    plane = drawn["field"]["plane"]
    (x0, x1), (y0, y1) = plane["x"], plane["y"]
    shares = (np.arange(15) + 0.5) / 15
    x, y = np.meshgrid(x0 + shares * (x1 - x0), y0 + shares * (y1 - y0))

    arrows = np.array(drawn["field"]["arrows"])

    np.testing.assert_allclose(arrows, np.stack([-ANGLE * y.ravel(), ANGLE * x.ravel()], axis=1), atol=1e-5)


def test_fans_lead_from_the_numerical_to_the_exact_end(drawn: dict[str, Any]) -> None:
    inputs = circle(30).double().numpy()
    assert [fan["label"] for fan in drawn["views"][0]["fans"]] == [0, 1]
    for view in drawn["views"]:
        for fan in view["fans"]:
            start = inputs[fan["sample"]]
            angle = math.atan2(start[1], start[0]) + ANGLE
            assert fan["problem"] is None
            np.testing.assert_allclose(fan["ends"][0], [math.cos(angle), math.sin(angle)], atol=2e-5)
            np.testing.assert_allclose(fan["ends"][-1], fan["numerical"]["states"][-1], atol=1e-6)
            np.testing.assert_allclose(np.array(fan["ends"][-1]) - fan["ends"][0], fan["global_error"], atol=5e-5)
            assert len(fan["curves"]) == len(fan["starts"]) == view["steps"]
            assert fan["residual"] < 1e-3
            # The head's logits are the first coordinate and its negative.
            sign = 1 if fan["label"] == 1 else -1
            np.testing.assert_allclose(fan["margins"], 2 * sign * np.array(fan["ends"])[:, 0], atol=1e-5)


def test_a_step_beyond_the_fixed_point_makes_crossings_that_exact_points_do_not_make() -> None:
    # One Euler step for z' = -1.5 z leads through the origin to -0.5 z; the flow only leads towards it.
    model = classifier_around(LinearField([[-1.5, 0.0], [0.0, -1.5]]))
    inputs = circle(12)

    seen = portrait(model, inputs, torch.zeros(12).long(), SolverSpec(method="euler", steps=1), EULER8, autonomous=True)

    assert seen["views"][0]["crossings"]["count"] == 66 - 6  # all pairs but those on one line
    assert seen["views"][0]["crossings"]["of_exact_points"] == 0
    assert seen["views"][1]["crossings"]["count"] == 0


def test_a_portrait_is_json_of_a_bounded_size_without_nan() -> None:
    model = build_classifier(ClassifierSpec(field=MlpField(hidden=(1,)), end_time=2.0), ConcentricSpheresSpec())
    model.field = GrowingEllipses()  # type: ignore[assignment]
    inputs = torch.rand(1200, 2, generator=torch.Generator().manual_seed(0))

    seen = portrait(
        model,
        inputs,
        (inputs[:, 0] > 0.5).long(),
        SolverSpec(method="euler", steps=400),
        SolverSpec(method="euler", steps=800),
        autonomous=True,
        size=PortraitSize(samples=100, fan_samples=8, grid=31),
    )

    assert len(json.dumps(seen, allow_nan=False, separators=(",", ":"))) < 2_000_000
    assert len(seen["labels"]) == 1000
    assert len(seen["views"][0]["crossings"]["shown"]) <= STORED_CROSSINGS
    assert seen["views"][0]["trajectories"]["times"][-1] == 2


def test_what_is_not_finite_is_null_and_a_fan_of_it_says_so() -> None:
    # (1 + 25 / 100)^100 of it is beyond float32.
    model = classifier_around(LinearField([[25.0, 0.0], [0.0, 25.0]]))

    seen = portrait(
        model,
        1e30 * circle(4),
        torch.tensor([0, 1, 0, 1]),
        SolverSpec(method="euler", steps=100),
        SolverSpec(method="euler", steps=200),
        autonomous=True,
        size=PortraitSize(samples=4, fan_samples=1, grid=5),
    )

    assert json.dumps(seen, allow_nan=False)
    assert seen["views"][0]["final"]["states"] == [[None, None]] * 4
    assert seen["views"][0]["final"]["predictions"] == [-1] * 4
    assert seen["views"][0]["failures"] == 4
    assert "not finite" in seen["views"][0]["fans"][0]["problem"]


def test_every_part_is_announced_and_an_exception_there_ends_the_portrait() -> None:
    announced: list[tuple[int, int]] = []

    def stop(part: int, parts: int, message: str) -> None:
        announced.append((part, parts))
        if part == parts:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        portrait(
            rotation(ANGLE), circle(4), torch.tensor([0, 1, 0, 1]), EULER4, EULER8, autonomous=True, on_progress=stop
        )
    assert announced == [(part, 9) for part in range(1, 10)]


def test_a_state_of_more_numbers_is_refused() -> None:
    model = build_classifier(ClassifierSpec(field=Conv1dField()), ConcentricSpheresSpec(dimension=3))

    with pytest.raises(ValueError, match="two numbers"):
        portrait(model, torch.zeros(2, 3), torch.zeros(2).long(), EULER4, EULER8, autonomous=True)


def test_the_decision_line_is_where_both_logits_are_equal() -> None:
    model: Classifier = rotation(ANGLE)
    linear = model.head[1]
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0], [4.0, 6.0]]))
        linear.bias.copy_(torch.tensor([0.5, -2.0]))

    line = decision_line(model)

    assert line is not None
    (nx, ny), offset = line
    assert (nx, ny, offset) == pytest.approx((0.6, 0.8, -0.5))


def test_a_plane_holds_all_finite_points_with_some_space_around_them() -> None:
    plane = Plane.around(np.array([[0.0, 0.0], [2.0, 1.0], [np.nan, 5.0]]))

    assert plane.x == pytest.approx((-0.16, 2.16))
    assert plane.y == pytest.approx((-0.08, 1.08))
    np.testing.assert_allclose(plane.grid(1), [[1.0, 0.5]])


def test_a_plane_of_points_on_a_line_has_two_sides() -> None:
    plane = Plane.around(np.array([[0.0, 3.0], [2.0, 3.0]]))

    assert plane.y == pytest.approx((3 - 0.116, 3 + 0.116))


def test_a_plane_around_most_leaves_out_the_few_that_run_far_away() -> None:
    near = np.stack([circle(30).double().numpy(), 2 * circle(30).double().numpy()])
    states = np.concatenate([near, [[[1.0, 1.0]], [[900.0, 0.0]]]], axis=1)

    plane = Plane.around_most(states)

    assert plane.width < 2 * 2 * 1.16 + 1e-9
    assert Plane.around_most(near).width == Plane.around(near).width


def test_a_plane_of_states_that_are_all_lost_is_still_one() -> None:
    assert Plane.around_most(np.full((1, 3, 2), np.nan)) == Plane((-0.5, 0.5), (-0.5, 0.5))


def test_the_last_turn_begins_where_a_circle_has_a_turn_to_go() -> None:
    angles = np.linspace(0, 10, 1001)
    circling = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    straight = np.stack([angles, angles], axis=1)

    assert angles[last_turn(np.stack([straight, circling], axis=1), 2 * np.pi)] == pytest.approx(
        10 - 2 * np.pi, abs=0.05
    )
    assert last_turn(straight[:, None], 2 * np.pi) == 0
