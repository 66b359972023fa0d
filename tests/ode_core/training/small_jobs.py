"""Training jobs that take milliseconds an iteration."""

from typing import Any

import torch

from ode_core.datasets.load import Dataset, load_dataset
from ode_core.specs import ClassifierSpec, ConcentricSpheresSpec, Conv1dField, SolverSpec, TrainingJobSpec, TrainingSpec
from ode_core.training.run import TrainingRun

CPU = torch.device("cpu")
SPHERES = ConcentricSpheresSpec(dimension=2, train_samples=100, test_samples=70, seed=3)


def job(*, training: dict[str, Any] | None = None, **parts: Any) -> TrainingJobSpec:
    """A job on concentric spheres with Euler-2; ``training`` and ``parts`` replace what they name."""
    defaults: dict[str, Any] = {
        "name": "small",
        "dataset": SPHERES,
        "model": ClassifierSpec(field=Conv1dField(channels=6)),
        "solver": SolverSpec(method="euler", steps=2),
    }
    settings: dict[str, Any] = {"iterations": 40, "batch_size": 16, "learning_rate": 0.01}
    return TrainingJobSpec(**(defaults | parts), training=TrainingSpec(**(settings | (training or {}))))


def new_run(spec: TrainingJobSpec, dataset: Dataset | None = None) -> TrainingRun:
    """A run of the job on its own data, or on others."""
    return TrainingRun(spec, dataset or load_dataset(spec.dataset, None), CPU)


def advance(run: TrainingRun, iterations: int) -> list[dict[str, float]]:
    """Do some iterations and return their metrics."""
    return [run.advance() for _ in range(iterations)]


def weights(run: TrainingRun) -> dict[str, bytes]:
    """The weights, bit by bit."""
    return {name: tensor.detach().numpy().tobytes() for name, tensor in run.model.state_dict().items()}
