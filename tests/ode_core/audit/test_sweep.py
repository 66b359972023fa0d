import pytest
import torch

from ode_core.audit.measurement import Measurement, measure
from ode_core.audit.sweep import TestResult, sweep
from ode_core.datasets.load import load_dataset
from ode_core.models.classifier import build_classifier
from ode_core.specs import PRESETS, ConcentricSpheresSpec, SolverSpec
from tests.ode_core.audit.linear_models import circle, flipped_share, rotation

SAMPLES = 200


def test_a_sweep_reports_each_solver_in_order_with_its_cost() -> None:
    solvers = [
        SolverSpec(method="euler", steps=3),
        SolverSpec(method="rk4", steps=5),
        SolverSpec(method="dopri5", rtol=1e-5, atol=1e-5),
    ]
    seen: list[tuple[int, int, TestResult]] = []
    results = sweep(
        rotation(2.0),
        circle(SAMPLES),
        torch.zeros(SAMPLES, dtype=torch.int64),
        solvers[0],
        solvers,
        on_result=lambda number, total, result: seen.append((number, total, result)),
    )
    assert [result.solver for result in results] == solvers
    assert seen == [(i, 3, result) for i, result in enumerate(results, start=1)]
    assert [result.nfe for result in results[:2]] == [3, 20]
    assert results[2].nfe > 2
    assert [result.steps for result in results] == [3, 5, None]
    assert results[0].flip_rate == 0.0


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_flip_rate_of_a_rotation_is_the_angle_between_euler_and_the_flow(steps: int) -> None:
    angle = 2.0
    result = sweep(
        rotation(angle),
        circle(SAMPLES),
        torch.zeros(SAMPLES, dtype=torch.int64),
        SolverSpec(method="euler", steps=steps),
        [SolverSpec(method="rk4", steps=64)],
    )[0]
    assert result.flip_rate == pytest.approx(flipped_share(angle, steps, SAMPLES), abs=1e-12)


def test_a_failed_solve_counts_as_wrong_and_as_flipped() -> None:
    model = rotation(1.0)
    with torch.no_grad():
        model.field.matrix.copy_(torch.tensor([[1e30, 0.0], [0.0, 1.0]]))
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    solver = SolverSpec(method="euler", steps=4)
    result = sweep(model, inputs, torch.tensor([1, 0]), solver, [solver])[0]
    assert result.failures == 1
    assert result.accuracy == 0.5
    assert result.flip_rate == 0.5


def test_the_json_of_a_result_names_the_solver_as_a_spec() -> None:
    solver = SolverSpec(method="euler", steps=4)
    result = sweep(rotation(1.0), circle(8), torch.zeros(8, dtype=torch.int64), solver, [solver])[0]
    assert result.to_json()["solver"] == {"method": "euler", "steps": 4}


def test_a_sample_beyond_the_evaluations_counts_as_failed() -> None:
    solver = SolverSpec(method="dopri5", rtol=1e-5, atol=1e-5)
    labels = torch.zeros(10, dtype=torch.int64)
    train_solver = SolverSpec(method="euler", steps=2)
    (result,) = sweep(rotation(2.0), circle(10), labels, train_solver, [solver], max_evaluations=20)
    assert (result.failures, result.flip_rate) == (10, 1.0)
    (result,) = sweep(rotation(2.0), circle(10), labels, train_solver, [solver], max_evaluations=2000)
    assert result.failures == 0


def test_a_stacked_sweep_finds_what_one_solver_after_another_finds() -> None:
    dataset = ConcentricSpheresSpec(test_samples=SAMPLES)
    model, data = build_classifier(PRESETS["sphere2"], dataset), load_dataset(dataset, None)
    solvers = [SolverSpec(method=method, steps=2**k) for k in range(5) for method in ("rk4", "euler", "midpoint")]
    arguments = (model, data.test_inputs, data.test_labels)
    done: list[int] = []
    stacked = sweep(*arguments, solvers[4], solvers, on_result=lambda number, total, result: done.append(number))
    for solver, result in zip(solvers, stacked, strict=True):
        (alone,) = sweep(*arguments, solver, [solver])
        assert (result.solver, result.accuracy, result.nfe, result.failures) == (solver, alone.accuracy, alone.nfe, 0)
        assert (result.execution.stacked, alone.execution.stacked) == (5, 1)
    assert done == list(range(1, 16))
    assert stacked[4].flip_rate == 0.0


def test_what_the_training_solver_gives_is_taken_as_measured_before() -> None:
    inputs, labels = circle(SAMPLES), torch.zeros(SAMPLES, dtype=torch.int64)
    train_solver, fine = SolverSpec(method="euler", steps=3), SolverSpec(method="rk4", steps=64)
    # Not what euler-3 gives, so that a second measurement would be seen.
    known = Measurement(train_solver, measure(rotation(2.0), inputs, fine).predictions, seconds=7.0)

    own, other = sweep(rotation(2.0), inputs, labels, train_solver, [train_solver, fine], trained=known)

    assert (own.solver, own.seconds, own.accuracy, own.flip_rate) == (train_solver, 7.0, other.accuracy, 0.0)
    assert other.flip_rate == 0.0


def test_a_measurement_of_the_first_samples_has_their_share_of_the_time() -> None:
    solver = SolverSpec(method="euler", steps=3)
    whole = Measurement(solver, measure(rotation(2.0), circle(8), solver).predictions, seconds=4.0)

    first = whole.of_first(2)

    assert first.seconds == 1.0
    assert torch.equal(first.predictions.logits, whole.predictions.logits[:2])
    assert whole.of_first(None) is whole
    assert whole.of_first(8) is whole


def test_a_failed_solve_is_told_with_its_status() -> None:
    solver = SolverSpec(method="dopri5", rtol=1e-5, atol=1e-5, max_steps=1)
    labels = torch.zeros(10, dtype=torch.int64)
    (result,) = sweep(rotation(20.0), circle(10), labels, solver, [solver])
    assert result.failure_reasons == {"max_steps_reached": 10}
