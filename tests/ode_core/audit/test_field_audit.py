import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torchdiffeq
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ode_core.audit import FieldAudit, audit_field
from ode_core.fields.foreign_field import NotAuditable
from ode_core.specs import SolverSpec
from tests.ode_core.audit.foreign_models import (
    ODEBlock,
    Rotation,
    SpeedingRotation,
    StandInForNeuralODE,
    circle,
    first_coordinate,
    spheres,
    trained_block,
)

EULER_2 = {"method": "euler", "steps": 2}


@pytest.fixture(scope="module")
def block() -> ODEBlock:
    return trained_block(steps=2)


@pytest.fixture(scope="module")
def loader() -> Any:
    return DataLoader(TensorDataset(*spheres(500, seed=1)), batch_size=128)


@pytest.fixture(scope="module")
def found(block: ODEBlock, loader: Any) -> FieldAudit:
    return audit_field(block.odefunc, loader, solver=EULER_2, head=block.head, whole=block)


def labelled(angle: float, samples: int = 400) -> list[tuple[Tensor, Tensor]]:
    """Points on the circle with the class that the rotation by ``angle`` gives them, by its closed form."""
    points = circle(samples)
    return [(points, (points[:, 0] * math.cos(angle) - points[:, 1] * math.sin(angle) > 0).long())]


def test_the_training_solver_gives_what_torchdiffeq_gives(block: ODEBlock, found: FieldAudit) -> None:
    inputs, _ = spheres(500, seed=1)
    with torch.no_grad():
        expected = block(inputs)

    assert torch.allclose(found.report.trained.logits, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.report.trained.labels, expected.argmax(dim=1))


def test_the_reference_is_torchdiffeqs_at_a_tight_tolerance(block: ODEBlock, found: FieldAudit) -> None:
    inputs, _ = spheres(500, seed=1)
    exact = trained_block(steps=2, iterations=0).double()
    exact.load_state_dict(block.state_dict())
    with torch.no_grad():
        end = torchdiffeq.odeint(
            exact.odefunc, inputs.double(), torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=1e-10, atol=1e-10
        )
        labels = exact.head(end[-1]).argmax(dim=1)

    assert torch.equal(found.report.reference.predictions.labels, labels)


def test_a_model_trained_with_two_steps_is_discrete_and_says_why(found: FieldAudit) -> None:
    assert found.verdict == "discrete"
    assert found.report.train_accuracy > 0.95
    assert found.mechanism is not None
    assert found.mechanism.spectrum.flagged_share > 0
    assert found.repair is not None
    assert [option.kind for option in found.repair] == ["pin_solver", "modified_field"]


def test_the_report_has_the_keys_of_an_audit_job_and_is_json(found: FieldAudit) -> None:
    told = found.to_json()

    json.dumps(told, allow_nan=False)
    assert {"verdict", "sentence", "flip_interval", "ladder", "mechanism", "mechanism_reason", "repair"} <= set(told)
    assert told["field"] == {"signature": "t, z", "times": "batched", "interval": [0.0, 1.0]}


def test_the_report_prints_its_findings(found: FieldAudit) -> None:
    text = str(found)

    assert text.startswith(found.sentence)
    assert "Why: " in text
    assert "Which solver to predict with: euler-2" in text
    assert "euler-2 *" in text
    assert "The loader has 500 samples." in text


def test_the_model_that_was_given_is_left_as_it_was(block: ODEBlock, loader: Any) -> None:
    before = {name: value.clone() for name, value in block.state_dict().items()}

    audit_field(block.odefunc, loader, solver=EULER_2, head=block.head, samples=20, mechanism=False, whole=block)

    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    assert all(parameter.requires_grad for parameter in block.parameters())
    assert block.training


def test_another_solver_than_the_models_is_found_out(block: ODEBlock, loader: Any) -> None:
    with pytest.raises(NotAuditable, match="the solver, the interval or a part is not the model's"):
        audit_field(block.odefunc, loader, solver={"method": "euler", "steps": 3}, head=block.head, whole=block)


def test_a_rotation_with_many_steps_is_an_ode() -> None:
    found = audit_field(Rotation(2.0), labelled(2.0), solver={"method": "rk4", "steps": 32}, head=first_coordinate)

    assert found.verdict == "ode"
    assert found.repair is None
    assert found.report.reference_accuracy == 1.0
    assert "mechanism=True" in (found.diagnosis.reason or "")


@pytest.mark.parametrize("interval", [(0.0, 1.0), (2.0, 3.0), (1.0, 0.0)])
def test_the_modified_field_gives_torchdiffeq_the_trained_predictions(interval: tuple[float, float]) -> None:
    steps, times = 16, torch.tensor(interval, dtype=torch.float64)
    length = interval[1] - interval[0]
    # The speed is 1 + t/2. Euler's steps turn by an arctangent each, the exact flow by the integral.
    speeds = 1 + torch.linspace(*interval, steps + 1, dtype=torch.float64)[:-1] / 2
    coarse = float(torch.atan(length / steps * speeds).sum())
    exact = length * (1 + sum(interval) / 4)
    # Points that end at the boundary between the classes, an eighth of them between the two angles.
    where = math.pi / 2 - (coarse + exact) / 2 + 4 * abs(coarse - exact) * torch.linspace(-1, 1, 200)
    points = torch.stack([where.cos(), where.sin()], dim=1).double()
    with torch.no_grad():
        options = {"step_size": abs(length) / steps}
        trained = torchdiffeq.odeint(SpeedingRotation(), points, times, method="euler", options=options)[-1]
    data = [(points, first_coordinate(trained).argmax(dim=1))]

    found = audit_field(
        SpeedingRotation(), data, solver={"method": "euler", "steps": steps}, head=first_coordinate, interval=interval
    )
    assert found.modified_field is not None
    with torch.no_grad():
        end = torchdiffeq.odeint(found.modified_field, points, times, rtol=1e-9, atol=1e-9)[-1]

    assert found.verdict == "discrete"
    assert torch.equal(found.report.trained.labels, data[0][1])
    # Four terms of the logarithm leave (h w)^5 / 5 a step, with h w of at most 2.5/16: 3e-4 in 16 steps.
    assert torch.allclose(end, trained, rtol=0, atol=5e-4)


def test_the_interval_is_the_fields_own_time() -> None:
    # z' = t z from 1 to 2 multiplies by exp(3/2), from 2 to 1 by exp(-3/2).
    def field(t: Tensor, z: Tensor) -> Tensor:
        return t * z

    start = circle(40)
    for interval, factor in [((1.0, 2.0), math.exp(1.5)), ((2.0, 1.0), math.exp(-1.5))]:
        found = audit_field(
            field,
            [(start, (start[:, 0] > 0).long())],
            solver={"method": "rk4", "steps": 64},
            head=first_coordinate,
            interval=interval,
        )

        assert torch.allclose(found.report.trained.logits[:, 1], factor * start[:, 0], rtol=1e-6)
        assert torch.allclose(found.report.reference.predictions.logits[:, 1], factor * start[:, 0], rtol=1e-3)


def test_a_torchdyn_neural_ode_is_taken_by_its_vector_field(block: ODEBlock, loader: Any, found: FieldAudit) -> None:
    node = StandInForNeuralODE(block.odefunc)

    audited = audit_field(node, loader, solver=EULER_2, head=block.head, mechanism=False)

    assert torch.equal(audited.report.trained.logits, found.report.trained.logits)


def test_a_field_that_hides_its_derivative_has_a_verdict_and_no_mechanism() -> None:
    matrix = torch.tensor([[0.0, -2.0], [2.0, 0.0]], dtype=torch.float64)
    found = audit_field(
        lambda t, z: z.detach() @ matrix.T, labelled(2.0, 100), solver=EULER_2, head=first_coordinate, mechanism=True
    )

    assert found.verdict == "discrete"
    assert found.mechanism is None
    assert "derivative" in (found.diagnosis.reason or "")


def test_only_as_many_batches_are_asked_for_as_samples_are_wanted() -> None:
    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(3):
            yield labelled(2.0, 50)[0]
        raise AssertionError("one batch too many")

    found = audit_field(Rotation(2.0), endless(), solver=EULER_2, head=first_coordinate, samples=120, mechanism=False)

    assert found.report.samples == 120


def test_labels_beyond_the_models_classes_are_refused() -> None:
    inputs = circle(8)
    with pytest.raises(NotAuditable, match=r"the labels go from 0 to 7, and the model has classes 0 to 1"):
        audit_field(Rotation(1.0), [(inputs, torch.arange(8))], solver=EULER_2, head=first_coordinate)


def test_a_solver_that_is_none_and_a_share_that_is_none_are_refused() -> None:
    with pytest.raises(ValueError, match="step_size"):
        audit_field(
            Rotation(1.0),
            labelled(1.0),
            solver={"method": "euler", "steps": 2, "step_size": 0.5},
            head=first_coordinate,
        )
    with pytest.raises(ValueError, match="epsilon"):
        audit_field(Rotation(1.0), labelled(1.0), solver=SolverSpec(**EULER_2), head=first_coordinate, epsilon=1.0)


def test_a_stem_of_integers_keeps_them() -> None:
    stem = nn.Embedding(10, 2)
    words = torch.arange(10).repeat(4)

    found = audit_field(
        Rotation(1.0).float(), [(words, words % 2)], solver=EULER_2, stem=stem, head=first_coordinate, mechanism=False
    )

    assert found.model.state_shape == (2,)


class Shifted(nn.Module):
    """A stem or head that begins with a change in place."""

    def forward(self, x: Tensor) -> Tensor:
        return first_coordinate(x.sub_(0.25))


def test_what_stem_and_head_change_in_place_is_theirs_alone() -> None:
    # One solve after another would else begin where the last one left the inputs, one reading of a state likewise.
    loader = labelled(2.0, samples=60)
    points = loader[0][0].clone()

    def audited(stem: Any, head: Any, whole: Any = None) -> dict[str, Any]:
        solver = {"method": "euler", "steps": 4}
        told = audit_field(
            Rotation(2.0), loader, solver=solver, stem=stem, head=head, whole=whole, mechanism=True
        ).to_json()
        return {key: told[key] for key in ("verdict", "flip_rate", "train_accuracy", "mechanism")}

    found = audited(lambda x: x.sub_(0.25), Shifted())

    assert found == audited(lambda x: x - 0.25, lambda z: first_coordinate(z - 0.25))
    assert torch.equal(loader[0][0], points)


def test_a_whole_model_that_changes_its_inputs_in_place_leaves_those_of_the_audit() -> None:
    loader = labelled(2.0, samples=60)
    solver = {"method": "euler", "steps": 4}

    def whole(x: Tensor) -> Tensor:
        end = x.clone()
        for _ in range(4):
            end = end + torch.stack([-end[:, 1], end[:, 0]], dim=1) / 2
        x.zero_()
        return first_coordinate(end)

    one, other = (
        audit_field(Rotation(2.0), loader, solver=solver, head=first_coordinate, whole=given, mechanism=False)
        for given in (None, whole)
    )
    assert one.report.train_accuracy == other.report.train_accuracy


def test_a_whole_that_is_no_module_is_called_with_its_parts_in_evaluation_mode() -> None:
    head = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.9)).double().train()
    field, kept = Rotation(0.1), head[0].running_mean

    def whole(x: Tensor) -> Tensor:
        end: Tensor = head(x + field(torch.tensor(0.0), x))
        return end

    found = audit_field(
        field, labelled(0.1, 40), solver={"method": "euler", "steps": 1}, head=head, whole=whole, mechanism=False
    )

    assert found.report.samples == 40
    assert isinstance(kept, Tensor)
    assert torch.equal(kept, torch.zeros_like(kept))
    assert all(part.training for part in head.modules())


@pytest.mark.parametrize(
    ("solver", "head"),
    [
        ({"method": "dopri5", "rtol": 1e-2, "atol": 1e-2}, first_coordinate),
        ({"method": "euler", "steps": 8}, lambda z: 1 / (z[:, :2] - z[:1, :2]) if len(z) == 100 else z),
    ],
    ids=["a loose tolerance", "an infinite logit"],
)
def test_a_whole_model_that_is_another_is_refused_whatever_the_logits(solver: Any, head: Any) -> None:
    with pytest.raises(NotAuditable, match="whole and the parts"):
        audit_field(
            Rotation(0.1),
            labelled(0.1, 100),
            solver=solver,
            head=head,
            whole=lambda x: 0.6 * first_coordinate(x),
            mechanism=False,
        )


def test_a_solver_that_does_not_exist_is_refused_in_words(block: ODEBlock, loader: Any) -> None:
    with pytest.raises(NotAuditable, match=r"'method': 'runge'.* does not name one: method") as refused:
        audit_field(block.odefunc, loader, solver={"method": "runge", "steps": 2}, head=block.head)
    assert "http" not in str(refused.value)


def test_progress_is_told_when_it_has_changed_and_not_again_at_every_evaluation() -> None:
    told: list[tuple[int, int, str]] = []

    audit_field(
        Rotation(2.0),
        labelled(2.0, 40),
        solver={"method": "euler", "steps": 4},
        head=first_coordinate,
        mechanism=True,
        on_progress=lambda part, parts, message: told.append((part, parts, message)),
    )

    assert len({part for part, _, _ in told}) > 5
    assert all(one != following for one, following in itertools.pairwise(told))


def test_where_no_prediction_changes_the_words_say_that_there_is_no_cause_to_look_for() -> None:
    found = audit_field(
        Rotation(0.001), labelled(0.001, 40), solver=EULER_2, head=first_coordinate, mechanism=True, epsilon=0.001
    )
    assert found.verdict == "inconclusive"
    assert "Why: None of the 40 predictions looked at changes, so there is no cause to look for." in str(found)
    assert "always valid, whichever way the verdict falls" in str(found)
