import pytest
import torch

from ode_core.datasets.load import load_dataset
from ode_core.models.predictions import predict
from ode_core.specs import ConcentricSpheresSpec, PresetSpec, SolverSpec, TrainingJobSpec, TrainingSpec
from ode_core.training.run import TrainingRun


@pytest.mark.slow
def test_spheres_trained_with_two_euler_steps_are_right_with_them_and_lost_with_a_converged_solver() -> None:
    # The talk's example: this network is a ResNet of two blocks, not an ODE.
    spec = TrainingJobSpec(
        name="spheres-euler2",
        dataset=ConcentricSpheresSpec(dimension=2),
        model=PresetSpec(name="sphere2"),
        solver=SolverSpec(method="euler", steps=2),
        training=TrainingSpec(iterations=10_000, batch_size=128, learning_rate=1e-4),
    )
    dataset = load_dataset(spec.dataset, None)
    run = TrainingRun(spec, dataset, torch.device("cpu"))
    while not run.finished:
        run.advance()
    assert run.trained_model().metadata["test_accuracy"] >= 0.95
    converged = predict(run.model, dataset.test_inputs, SolverSpec(method="rk4", steps=128))
    assert converged.failures == 0
    assert converged.accuracy(dataset.test_labels) <= 0.70
