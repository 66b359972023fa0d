import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ode_core.audit.audit import audit
from ode_core.audit.mechanism import Mechanism, find_mechanism
from ode_core.audit.reference import Reference, converged_reference
from ode_core.audit.rescue import rescue
from ode_core.models.classifier import Classifier
from ode_core.models.modified_classifier import with_modified_field
from ode_core.models.predictions import Predictions, predict
from ode_core.specs import SolverSpec
from ode_core.specs.modified_field import ModifiedFieldSpec
from tests.ode_core.audit.linear_models import LinearField, circle, classifier_around, flipped_share, rotation

SAMPLES = 400


def analysed(model: Classifier, solver: SolverSpec) -> tuple[Mechanism, Predictions, Reference]:
    inputs = circle(SAMPLES)
    trained, reference = predict(model, inputs, solver), converged_reference(model, inputs)
    found = find_mechanism(model, inputs, trained.labels, solver, reference.predictions.labels)
    return found, trained, reference


def test_a_rotation_by_coarse_steps_accumulates_and_has_no_crossing_steps() -> None:
    found, _, _ = analysed(rotation(2.0), SolverSpec(method="euler", steps=4))
    assert found.spectrum.flagged_share == 0
    assert found.spectrum.undecided_share == 0
    assert found.split.reference.flip_rate == pytest.approx(flipped_share(2.0, 4, SAMPLES), abs=1e-12)
    assert found.split.by_flips.crossing == 0
    assert found.split.by_flips.accumulation == 1
    assert found.margins is not None
    assert int(found.margins.flipped.sum()) == round(SAMPLES * flipped_share(2.0, 4, SAMPLES))


def test_what_is_told_of_many_steps_is_told_in_a_bounded_number_of_stretches() -> None:
    model, inputs, solver = rotation(2.0), circle(20), SolverSpec(method="euler", steps=700)
    labels = predict(model, inputs, solver).labels

    told = find_mechanism(model, inputs, labels, solver, labels).to_json()

    assert told["steps"] == 700
    assert len(told["crossing"]["map"]["flagged"]) <= 64
    assert max(lengths(told)) == len(told["crossing"]["map"]["bounds"]) <= 65
    assert len(told["transport"]["step_bounds"]) <= 17


def lengths(part: Any) -> Iterator[int]:
    """The lengths of all lists in a JSON value."""
    if isinstance(part, list):
        yield len(part)
    for one in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from lengths(one)


def test_a_step_over_the_origin_is_a_crossing_and_nothing_accumulates() -> None:
    # x' = -3 x with one Euler step: x goes to -2 x, whose sign no flow on the line can change.
    found, _, _ = analysed(
        classifier_around(LinearField([[-3.0, 0.0], [0.0, 0.0]])), SolverSpec(method="euler", steps=1)
    )
    assert found.spectrum.flagged.all()
    assert found.spectrum.certified.all()
    assert found.split.by_accuracy.crossing == 1
    assert found.split.by_accuracy.accumulation == 0
    assert found.split.by_accuracy.interaction == 0


def test_a_model_trained_with_tolerances_is_analysed_on_its_own_steps() -> None:
    solver = SolverSpec(method="heun_euler", rtol=0.5, atol=0.5)
    found, trained, reference = analysed(rotation(6.0), solver)
    flips = float(trained.flips(reference.predictions).double().mean())
    assert flips > 0.05
    assert found.split.reference.flip_rate == pytest.approx(flips)
    assert found.split.by_flips.accumulation == pytest.approx(1 - found.split.by_flips.crossing)  # type: ignore[operator]
    assert found.transport is not None
    assert found.transport.converged.all()


def test_the_findings_are_json_without_nan() -> None:
    found, _, _ = analysed(rotation(2.0), SolverSpec(method="heun", steps=2))
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["steps"] == 2
    assert told["transport"]["step_bounds"] == [0, 1, 2]
    assert told["split"]["by_flips"]["crossing"] == 0


def test_the_modified_field_rescues_what_accumulated_and_not_what_crossed() -> None:
    inputs = circle(SAMPLES)
    for model, steps, rescued in (
        (rotation(8.0), 40, True),
        (classifier_around(LinearField([[-3.0, 0.0], [0.0, 0.0]])), 1, False),
    ):
        solver = SolverSpec(method="euler", steps=steps)
        trained, reference = predict(model, inputs, solver), converged_reference(model, inputs).predictions
        found = rescue(model, inputs, trained.labels, ModifiedFieldSpec(solver=solver), trained, reference)
        assert found.offered == rescued
        if rescued:
            assert found.unsettled == 0
            assert found.score == pytest.approx(1, abs=0.05)
            assert found.agreement > 0.99
        else:
            # No flow turns the axis over; the series says to stay on its side.
            assert found.score == pytest.approx(0, abs=0.05)


def test_nothing_to_rescue_has_no_score() -> None:
    inputs, solver = circle(SAMPLES), SolverSpec(method="rk4", steps=16)
    model = rotation(1.0)
    trained, reference = predict(model, inputs, solver), converged_reference(model, inputs).predictions
    spec = ModifiedFieldSpec(solver=solver, kind="iterates", terms=2)
    found = rescue(model, inputs, trained.labels, spec, trained, reference)
    assert found.score is None
    assert found.reason is not None
    assert not found.offered


@pytest.mark.parametrize(
    ("solver", "crosses"),
    [
        # R(x) = (1 + x/2) / (1 - x/2) is negative for x < -2; kvaerno3's at -30.
        (SolverSpec(method="implicit_midpoint", steps=1), True),
        (SolverSpec(method="trapezoid", steps=3), True),
        (SolverSpec(method="trapezoid", steps=2), False),  # an even number of changes of the sign
        (SolverSpec(method="kvaerno3", steps=1), True),
    ],
    ids=lambda value: value.label if isinstance(value, SolverSpec) else str(value),
)
def test_a_stiff_field_under_long_implicit_steps_crosses(solver: SolverSpec, crosses: bool) -> None:
    found, _, _ = analysed(classifier_around(LinearField([[-30.0, 0.0], [0.0, 0.0]])), solver)
    assert found.spectrum.flagged.all()
    assert found.spectrum.certified.all()
    assert found.transport is not None
    assert float(found.transport.residual().max()) < 1e-13
    if crosses:
        assert found.split.reference.flip_rate == 1
        assert found.split.by_flips.crossing == 1
        assert found.split.by_flips.accumulation == 0
    else:
        assert found.split.reference.flip_rate == 0


def test_a_rotation_by_the_implicit_midpoint_rule_accumulates_what_the_angles_differ_by() -> None:
    found, _, _ = analysed(rotation(3.0), SolverSpec(method="implicit_midpoint", steps=2))
    assert found.spectrum.flagged_share == found.spectrum.undecided_share == 0
    missing = 3.0 - 4 * math.atan(3.0 / 4)  # a step turns by 2 atan(h/2)
    assert found.split.reference.flip_rate == pytest.approx(missing / math.pi, abs=2 / SAMPLES)
    assert found.split.by_flips.accumulation == 1
    assert found.transport is not None
    assert found.transport.converged.all()
    assert float(found.transport.residual().max()) < 1e-13


def test_an_implicit_model_trained_with_tolerances_is_analysed_on_its_own_steps() -> None:
    found, trained, reference = analysed(rotation(6.0), SolverSpec(method="kvaerno3", rtol=0.5, atol=0.5))
    flips = float(trained.flips(reference.predictions).double().mean())
    assert flips > 0.05
    assert found.split.reference.flip_rate == pytest.approx(flips, abs=2 / SAMPLES)
    assert found.spectrum.flagged_share == 0


def test_a_repair_of_an_implicit_method_is_taken_apart_through_the_steps_within_its_field() -> None:
    spec = ModifiedFieldSpec(solver=SolverSpec(method="implicit_midpoint", steps=8), kind="iterates", terms=2)
    model, inputs = with_modified_field(rotation(3.0), spec), circle(40)
    labels = torch.zeros(40, dtype=torch.int64)
    found = find_mechanism(model, inputs, labels, SolverSpec(method="midpoint", steps=1), labels, stretches=1)
    # 1 + x + x^2/2 of the modified field x = (P - 1)/h - (P - 1)^2/(2 h), where P turns by 2 atan(3 h/2).
    turn = complex(math.cos(2 * math.atan(3 / 16)), math.sin(2 * math.atan(3 / 16)))
    x = 8 * ((turn - 1) - (turn - 1) ** 2 / 2)
    factor = 1 + x + x**2 / 2
    end = torch.view_as_complex(found.states[-1]) / torch.view_as_complex(found.states[0])
    torch.testing.assert_close(end, torch.full_like(end, factor), rtol=1e-6, atol=1e-6)
    assert found.spectrum.undecided_share == found.spectrum.flagged_share == 0
    assert found.transport is not None
    assert found.transport.converged.all()


class NoStage(nn.Module):
    """``x' = x^2 + 1``: one step of the implicit midpoint rule over [0, 1] has no solution from ``x > 0``."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def for_states(self, state_shape: tuple[int, ...]) -> "NoStage":
        return self

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return torch.cat([z[:, :1] ** 2 + self.one, 0 * z[:, 1:]], dim=1)


def test_samples_whose_implicit_step_has_no_solution_are_left_out() -> None:
    model, labels = classifier_around(NoStage()), torch.zeros(40, dtype=torch.int64)
    inputs = torch.stack([torch.linspace(-3, 2, 40), torch.zeros(40)], dim=1)
    solver = SolverSpec(method="implicit_midpoint", steps=1)
    found = find_mechanism(model, inputs, labels, solver, labels, stretches=0)
    assert found.samples.tolist() == torch.nonzero(inputs[:, 0] <= 0).flatten().tolist()
    assert torch.isfinite(found.states).all()


def test_a_solver_whose_steps_are_no_maps_of_the_state_is_refused() -> None:
    model, inputs = rotation(1.0), circle(8)
    labels = torch.zeros(8, dtype=torch.int64)
    for method in ("explicit_adams", "implicit_adams", "asynchronous_leapfrog"):
        with pytest.raises(ValueError, match=f"{method} is not a map of the state alone: .*one of euler"):
            find_mechanism(model, inputs, labels, SolverSpec(method=method, steps=4), labels)


@pytest.mark.parametrize("end_time", [0.3, 2.1])  # no float32 is either
@pytest.mark.parametrize(
    "solver",
    [
        SolverSpec(method="euler", step_size=0.25, grid="truncate"),
        SolverSpec(method="euler", steps=3),
        SolverSpec(method="dopri5", rtol=1e-2, atol=1e-2),
    ],
    ids=lambda solver: solver.label,
)
def test_an_interval_may_end_anywhere(solver: SolverSpec, end_time: float) -> None:
    model, inputs = rotation(2.0), circle(40)
    model.end_time = end_time
    labels = torch.zeros(40, dtype=torch.int64)

    found = find_mechanism(model, inputs, labels, solver, labels)

    assert len(found.samples) == 40
    assert found.transport is not None
    angle = torch.tensor(2.0 * end_time).double()
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    torch.testing.assert_close(found.transport.ends[0], inputs.double() @ turn.T, rtol=0, atol=1e-3)


def test_a_solve_without_one_accepted_step_is_told() -> None:
    model = classifier_around(LinearField([[math.nan, 0.0], [0.0, 0.0]]))
    labels = torch.zeros(8, dtype=torch.int64)
    with pytest.raises(ValueError, match="no sample's training solve succeeds"):
        find_mechanism(model, circle(8), labels, SolverSpec(method="dopri5", rtol=1e-2, atol=1e-2), labels)


class Ripples(nn.Module):
    """``x' = 1``, ``y' = sin(20 pi x)^2``: at rest wherever x is a multiple of 1/20, and fast in between."""

    def __init__(self) -> None:
        super().__init__()
        self.ripples = nn.Parameter(torch.tensor(20.0))

    def for_states(self, state_shape: tuple[int, ...]) -> "Ripples":
        return self

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        x = z[:, 1:]
        return torch.cat([torch.sin(math.pi * self.ripples * x) ** 2, torch.ones_like(x)], dim=1)


def test_a_model_that_passes_the_simpler_rules_without_one_flip_is_found_to_be_no_ode() -> None:
    # Two steps, twice the steps, and the ten midpoint steps of the paper's test only ever see the points of rest.
    model = classifier_around(Ripples()).double()
    inputs = torch.stack([torch.linspace(-1, 1, SAMPLES), torch.zeros(SAMPLES)], dim=1).double()
    solver = SolverSpec(method="euler", steps=2)
    labels = predict(model, inputs, solver).labels

    report = audit(model, inputs, labels, solver)
    found = find_mechanism(model, inputs, labels, solver, converged_reference(model, inputs).predictions.labels)

    assert report.paper_rule.test_solver == SolverSpec(method="midpoint", steps=10)
    for rule in (report.paper_rule, report.half_step_rule):
        assert rule.passed
        assert rule.difference == 0
    assert report.verdict == "discrete"
    assert report.flip_rate == pytest.approx(0.25, abs=0.01)  # y gains 1/2, of a range of 2
    assert found.spectrum.flagged_share == 0
    assert found.split.by_flips.accumulation == 1
