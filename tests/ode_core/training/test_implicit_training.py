import pytest
import torch

from ode_core.specs import ClassifierSpec, Conv1dField, LinearStem, MlpField, SolverSpec
from ode_core.training.run import TrainingDiverged
from tests.ode_core.training.small_jobs import advance, job, new_run

SOLVERS = [
    SolverSpec(method="implicit_midpoint", steps=2),
    SolverSpec(method="trapezoid", steps=2),
    SolverSpec(method="kvaerno3", steps=1),
    SolverSpec(method="kvaerno3", rtol=1e-3, atol=1e-3),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.label)
def test_a_job_trains_with_an_implicit_method_and_its_model_is_tested_under_it(solver: SolverSpec) -> None:
    run = new_run(job(solver=solver, training={"iterations": 30}))
    metrics = advance(run, 30)
    mean = [sum(m["loss"] for m in part) / 5 for part in (metrics[:5], metrics[-5:])]
    assert mean[1] < mean[0]
    assert all(m["nfe"] > 3 for m in metrics)
    assert metrics[0].get("steps") == solver.steps
    trained = run.trained_model()
    assert trained.solver == solver
    assert trained.metadata["test_failures"] == 0


def test_the_gradient_of_finely_solved_steps_is_that_of_an_explicit_method() -> None:
    smooth = ClassifierSpec(field=Conv1dField(channels=6, activation="tanh"))

    def gradient(solver: SolverSpec) -> torch.Tensor:
        run = new_run(job(model=smooth, solver=solver, training={"precision": "float64"}))
        run.advance()
        return torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])

    fine = gradient(SolverSpec(method="rk4", steps=40))
    # h^3 = 1.6e-5, times a field whose derivatives are about 1.
    allowed = 1e-4 * float(fine.abs().max())
    assert torch.allclose(gradient(SolverSpec(method="kvaerno3", steps=40)), fine, rtol=0, atol=allowed)


def test_a_state_beyond_dense_jacobians_trains_too() -> None:
    model = ClassifierSpec(field=MlpField(hidden=(16,)), stem=LinearStem(features=80))
    run = new_run(job(model=model, solver=SolverSpec(method="implicit_midpoint", steps=2)))
    metrics = advance(run, 10)
    assert metrics[-1]["loss"] < metrics[0]["loss"]


def test_a_step_newton_cannot_do_ends_the_training_and_says_so() -> None:
    run = new_run(job(model=ClassifierSpec(field=MlpField(hidden=(8,), activation="softplus")), solver=SOLVERS[0]))
    with torch.no_grad():
        for parameter in run.model.field.parameters():
            parameter.mul_(1e3)  # z' grows a million times as fast as z: no real solution within half a step
    with pytest.raises(TrainingDiverged, match=r"ended with (newton_diverged|non_finite)"):
        advance(run, 3)
