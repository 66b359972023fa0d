import math
from typing import Any

import pytest
import torch

from ode_core.specs import CertifiedAdaptation, LocalErrorPenalty, Regularisation, SolverSpec, StepJitter
from ode_core.training.checkpoint import Checkpoint
from ode_core.training.local_error import squared_relative_error
from ode_core.training.run import TrainingDiverged, TrainingRun
from tests.ode_core.training.small_jobs import CPU, advance, job, new_run, weights

JITTER = Regularisation(step_jitter=StepJitter(low=0.5, high=2))
PENALTY = Regularisation(local_error=LocalErrorPenalty(weight=0.5))
BOTH = Regularisation(step_jitter=StepJitter(low=0.5, high=2), local_error=LocalErrorPenalty(weight=0.5))
# With thresholds that 40 held-out samples can meet: without a flip their interval ends at 8.8 %.
CERTIFIED = CertifiedAdaptation(interval=7, audit_samples=40, climb_threshold=0.09, epsilon=0.15)
FOUR = SolverSpec(method="euler", steps=4)


@pytest.mark.parametrize(
    "parts",
    [
        {"regularisation": JITTER},
        {"regularisation": PENALTY},
        {"regularisation": BOTH, "solver": SolverSpec(method="rk4", steps=2)},
        {"regularisation": BOTH, "adaptation": CERTIFIED},
        {"regularisation": JITTER, "gradient": "checkpoint"},
    ],
    ids=["jitter", "penalty", "both", "certified", "checkpointed"],
)
def test_a_regularised_run_resumes_bit_by_bit(parts: dict[str, Any]) -> None:
    spec = job(**parts, training={"iterations": 20})
    straight, first, second = (new_run(spec) for _ in range(3))
    expected = advance(straight, 20)
    metrics = advance(first, 9)
    second.restore(Checkpoint.from_bytes(first.checkpoint().to_bytes()))
    assert metrics + advance(second, 11) == expected
    assert weights(second) == weights(straight)
    ended, whole = second.trained_model(), straight.trained_model()
    assert (ended.weights, ended.solver) == (whole.weights, whole.solver)
    assert {**ended.metadata, "training_seconds": 0} == {**whole.metadata, "training_seconds": 0}


def test_jitter_draws_every_number_in_its_range_and_keeps_the_models_solver() -> None:
    run = new_run(job(regularisation=JITTER, solver=FOUR, training={"iterations": 200}))
    metrics = advance(run, 200)
    drawn = [values["steps"] for values in metrics]
    assert set(drawn) == {2, 3, 4, 5, 6, 7, 8}
    # Halving is as likely as doubling. The sum of 200 uniform shares is within 4 of its standard deviations,
    # sqrt(200 / 12), but for rounding, which adds at most log2(2.5/2) to each.
    assert abs(sum(math.log2(steps / 4) for steps in drawn)) < 2 * 4 * math.sqrt(200 / 12)
    assert [values["nfe"] for values in metrics] == drawn
    trained = run.trained_model()
    assert trained.solver == FOUR
    assert trained.metadata["mean_steps"] == sum(drawn) / 200
    assert trained.metadata["training_evaluations"] == sum(drawn)


def test_another_seed_draws_other_steps() -> None:
    first, second = (
        new_run(job(regularisation=JITTER, solver=FOUR, training={"seed": seed, "iterations": 20})) for seed in (0, 1)
    )
    assert [m["steps"] for m in advance(first, 20)] != [m["steps"] for m in advance(second, 20)]


def test_jitter_goes_around_the_steps_an_adaptation_has_come_to() -> None:
    run = new_run(job(regularisation=JITTER, adaptation=CERTIFIED, solver=FOUR))
    for values in advance(run, 10):
        assert run.solver.steps is not None
        assert run.solver.steps / 2 <= values["steps"] <= run.solver.steps * 2


def test_the_penalty_is_the_part_of_the_loss_that_it_says_and_counts_its_evaluations() -> None:
    plain = new_run(job(solver=FOUR)).advance()
    penalised = new_run(job(solver=FOUR, regularisation=PENALTY)).advance()
    assert "local_error" not in plain
    assert penalised["local_error_penalty"] == pytest.approx(0.5 * penalised["local_error"] ** 2)
    # Both are sums of float32 numbers of about 1, on ways that differ in the order of operations.
    assert penalised["loss"] - penalised["local_error_penalty"] == pytest.approx(plain["loss"], abs=1e-5)
    assert (plain["nfe"], penalised["nfe"]) == (4, 5)


def test_the_penalty_keeps_the_local_error_small() -> None:
    strong = Regularisation(local_error=LocalErrorPenalty(weight=100.0))
    weak = Regularisation(local_error=LocalErrorPenalty(weight=1e-6))
    ends = [advance(new_run(job(regularisation=each)), 40)[-1]["local_error"] for each in (strong, weak)]
    assert ends[0] < 0.5 * ends[1]


def test_the_measure_falls_with_the_steps_as_the_error_of_the_solve_does() -> None:
    # z' = t from 0 to 1: every Euler step errs by h^2/2, the solve by h/2, and the end is 1/2.
    for steps in (2, 8, 64):
        errors = torch.full((steps, 3, 1), 0.5 / steps**2, dtype=torch.float64)
        final = torch.full((3, 1), 0.5, dtype=torch.float64)
        assert float(squared_relative_error(errors, final)) == pytest.approx((1 / steps) ** 2)


def test_the_scale_of_the_states_is_a_constant_in_the_gradient() -> None:
    final = torch.ones(3, 2, requires_grad=True)
    value = squared_relative_error(torch.ones(4, 3, 2, requires_grad=True), final)
    assert torch.autograd.grad(value, final, allow_unused=True) == (None,)


def test_a_penalised_training_that_diverges_says_so_and_keeps_its_weights() -> None:
    run = new_run(job(regularisation=PENALTY))
    with torch.no_grad():
        for parameter in run.model.field.parameters():
            parameter.fill_(1e30)
    before = weights(run)
    with pytest.raises(TrainingDiverged, match="non_finite"):
        run.advance()
    assert weights(run) == before


def test_the_bound_on_evaluations_holds_for_the_penalty_too() -> None:
    spec = job(regularisation=PENALTY, solver=FOUR)
    plain = new_run(spec)
    bounded = TrainingRun(spec, plain.dataset, CPU, max_evaluations=4)
    with pytest.raises(TrainingDiverged, match="budget_exceeded"):
        bounded.advance()
