"""The model that all serve: Sphere2, trained for seconds, and requests with the answers they must get."""

from dataclasses import dataclass
from typing import Any

import numpy
import torch

from benchmarks.serving.workload import Workload
from ode_core.datasets.load import load_dataset
from ode_core.models.classifier import Classifier
from ode_core.models.weights import load_classifier, weights_to_bytes
from ode_core.specs import (
    PRESETS,
    ClassifierSpec,
    ConcentricSpheresSpec,
    MlpField,
    SolverSpec,
    ThreeMinimaSpec,
    TrainingJobSpec,
    TrainingSpec,
)
from ode_core.training.run import TrainingRun

ITERATIONS = 100
SOLVER = SolverSpec(method="rk4", steps=16)
INPUT_SHAPE = (1, 2)


@dataclass(frozen=True)
class ServedModel:
    """Weights, and what they are weights of.

    Attributes:
        spec: of the training.
        weights: a safetensors file, float32.
    """

    spec: TrainingJobSpec
    weights: bytes

    def declaration(self) -> dict[str, Any]:
        """Return what an upload declares beside the weights."""
        return {
            "model": self.spec.architecture.model_dump(mode="json"),
            "dataset": self.spec.dataset.model_dump(mode="json"),
            "solver": self.spec.solver.document(),
        }

    def classifier(self, precision: Any = None) -> Classifier:
        """Return the model; in its weights' precision unless another is named."""
        return load_classifier(self.spec.architecture, self.spec.dataset, self.weights, precision=precision)


def train_sphere2(seed: int = 0, iterations: int = ITERATIONS) -> ServedModel:
    """Train Sphere2 for so many iterations; the same numbers each time on one machine."""
    return _train(
        TrainingJobSpec(
            name="sphere2",
            dataset=ConcentricSpheresSpec(dimension=2),
            model=PRESETS["sphere2"],
            solver=SOLVER,
            training=_training(seed, iterations),
        )
    )


def train_three_minima(seed: int, iterations: int) -> ServedModel:
    """Train a small perceptron as a field, with an adaptive solver: another model for a soak."""
    return _train(
        TrainingJobSpec(
            name="minima",
            dataset=ThreeMinimaSpec(train_samples=500, test_samples=100),
            model=ClassifierSpec(field=MlpField(hidden=(16, 16))),
            solver=SolverSpec(method="bosh3", rtol=1e-4, atol=1e-4),
            training=_training(seed, iterations),
        )
    )


def _training(seed: int, iterations: int) -> TrainingSpec:
    return TrainingSpec(iterations=iterations, batch_size=128, learning_rate=1e-3, seed=seed)


def _train(spec: TrainingJobSpec) -> ServedModel:
    run = TrainingRun(spec, load_dataset(spec.dataset, None), torch.device("cpu"))
    for _ in range(spec.training.iterations):
        run.advance()
    return ServedModel(spec, weights_to_bytes(run.model))


def workload(served: ServedModel, *, requests: int, rows: int, seed: int = 0) -> Workload:
    """Return points of the disc that the data lie in, with the probabilities that float64 gives them."""
    random = numpy.random.default_rng(seed)
    inputs = random.uniform(-0.45, 0.45, (requests, rows, 2)).astype(numpy.float32)
    model = served.classifier("float64").uncompiled()
    with torch.inference_mode():
        logits = model(torch.from_numpy(inputs.reshape(-1, 2)), SOLVER)
    return Workload(inputs, logits.softmax(-1).numpy().reshape(requests, rows, -1))
