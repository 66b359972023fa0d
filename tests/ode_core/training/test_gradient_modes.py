import dataclasses
from typing import Any

import pytest
import torch

from ode_core.datasets.load import load_dataset
from ode_core.specs import ClassifierSpec, MlpField, SolverSpec, StepAdaptation, TrainingJobSpec
from ode_core.training.checkpoint import Checkpoint
from ode_core.training.run import TrainingDiverged
from tests.ode_core.training.small_jobs import SPHERES, advance, job, new_run, weights

GRID = {"method": "midpoint", "steps": 4}
TOLERANCES = {"method": "bosh3", "rtol": 1e-4, "atol": 1e-4}
LEAPFROG = {"method": "asynchronous_leapfrog", "steps": 4}
CASES = [
    ("checkpoint", GRID),
    ("checkpoint", TOLERANCES),
    ("adjoint", GRID),
    ("adjoint", TOLERANCES),
    ("adjoint_seminorm", TOLERANCES),
    ("reversible", LEAPFROG),
]
every_case = pytest.mark.parametrize(
    ("gradient", "solver"), CASES, ids=[f"{gradient}-{solver['method']}" for gradient, solver in CASES]
)


def spec(gradient: str, solver: dict[str, Any], **parts: Any) -> TrainingJobSpec:
    defaults = {"model": ClassifierSpec(field=MlpField(hidden=(16,)))}
    return job(gradient=gradient, solver=SolverSpec.model_validate(solver), **(defaults | parts))


@every_case
def test_a_job_learns_with_every_mode(gradient: str, solver: dict[str, Any]) -> None:
    dataset = load_dataset(SPHERES, None)
    halves = dataclasses.replace(dataset, train_labels=(dataset.train_inputs[:, 0] > 0).long())
    run = new_run(spec(gradient, solver, training={"iterations": 40, "learning_rate": 0.02}), halves)
    losses = [metrics["loss"] for metrics in advance(run, 40)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@every_case
def test_a_resumed_run_goes_on_bit_by_bit_with_every_mode(gradient: str, solver: dict[str, Any]) -> None:
    one = spec(gradient, solver, training={"iterations": 8})
    straight, first, second = new_run(one), new_run(one), new_run(one)
    expected = advance(straight, 8)
    metrics = advance(first, 3)
    second.restore(Checkpoint.from_bytes(first.checkpoint().to_bytes()))
    assert metrics + advance(second, 5) == expected
    assert weights(second) == weights(straight)


@pytest.mark.parametrize(("gradient", "solver"), [case for case in CASES if not case[0].startswith("adjoint")])
def test_exact_modes_train_the_same_model_to_round_off(gradient: str, solver: dict[str, Any]) -> None:
    runs = []
    for mode in ("backprop", gradient):
        run = new_run(spec(mode, solver, training={"optimizer": "sgd", "learning_rate": 0.1, "precision": "float64"}))
        advance(run, 5)
        runs.append(run)
    for ours, theirs in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        # A few hundred roundings of numbers of about 1.
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)


def test_a_job_with_step_adaptation_takes_another_mode_too() -> None:
    run = new_run(spec("checkpoint", {"method": "euler", "steps": 2}, adaptation=StepAdaptation(interval=5)))
    metrics = advance(run, 10)
    assert "adaptation_accepted" in metrics[5]


def test_an_adjoint_equation_without_a_solution_ends_the_run_with_a_remedy() -> None:
    field = MlpField(hidden=(4,), activation="relu")
    run = new_run(spec("adjoint", TOLERANCES, model=ClassifierSpec(field=field, end_time=50)))
    with torch.no_grad():
        # The field is -20 z: what it damps, the backward solve blows up.
        signs = torch.cat([torch.eye(2), -torch.eye(2)])
        run.model.field.network[0].weight.copy_(signs)
        run.model.field.network[2].weight.copy_(-20 * signs.T)
    before = weights(run)
    with pytest.raises(
        TrainingDiverged, match="in iteration 1 of 40 the adjoint equation could not be solved backwards"
    ):
        run.advance()
    assert weights(run) == before


@every_case
def test_a_loss_that_is_no_number_ends_the_run_with_its_own_message(gradient: str, solver: dict[str, Any]) -> None:
    run = new_run(spec(gradient, solver), load_dataset(SPHERES, None))
    run.model.head[1].bias.data.fill_(torch.nan)
    with pytest.raises(TrainingDiverged, match="the loss is not finite"):
        run.advance()


def test_a_reversible_gradient_that_lost_half_its_digits_ends_the_run_with_a_remedy() -> None:
    field = MlpField(hidden=(4,), activation="relu")
    solver = {"method": "asynchronous_leapfrog", "steps": 50}
    run = new_run(spec("reversible", solver, model=ClassifierSpec(field=field)))
    with torch.no_grad():
        # The field is -20 z: h lambda is 0.4, and roundings on the way back grow to 3e8 of their size.
        signs = torch.cat([torch.eye(2), -torch.eye(2)])
        run.model.field.network[0].weight.copy_(signs)
        run.model.field.network[2].weight.copy_(-20 * signs.T)
    before = weights(run)
    with pytest.raises(TrainingDiverged, match=r"missed the start by .*: use gradient checkpoint with another method"):
        run.advance()
    assert weights(run) == before
