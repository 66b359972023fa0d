"""The neural ODE classifier ``head . ODESolve(field, [0, end_time]) . (stem)``."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ode_core.fields.vector_fields import build_field, initialise
from ode_core.solvers.solution import Solution
from ode_core.solvers.solve import solve
from ode_core.specs.dataset import DatasetSpec
from ode_core.specs.model import ClassifierSpec, model_input_shape, model_state_shape
from ode_core.specs.solver import SolverSpec
from ode_core.specs.training import TrainingJobSpec

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class ClassifierOutput:
    """Logits ``(batch, classes)``, NaN where the solve failed, and the solution they were read from."""

    logits: Tensor
    solution: Solution


class Classifier(nn.Module):
    """A classifier whose middle is an ordinary differential equation.

    Attributes:
        input_shape: shape of one input as the model takes it.
        state_shape: shape of the ODE's state for one sample.
        input_scale: factor from the data set's own units to what the network sees.
        end_time: the ODE runs over ``[0, end_time]``.
    """

    def __init__(self, spec: ClassifierSpec, sample_shape: tuple[int, ...], classes: int, input_scale: float) -> None:
        super().__init__()
        self.input_shape = model_input_shape(spec, sample_shape)
        self.state_shape = model_state_shape(spec, sample_shape)
        self.input_scale = input_scale
        self.end_time = spec.end_time
        self.stem = _build_stem(spec, self.input_shape)
        self.field = build_field(spec.field, self.state_shape)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(self.state_shape).numel(), classes))
        self.apply(initialise)

    @property
    def dtype(self) -> torch.dtype:
        """The precision the model computes in."""
        return next(self.parameters()).dtype

    def initial_state(self, inputs: Tensor) -> Tensor:
        """Return the ODE's start ``(batch, *state_shape)`` for inputs in the data set's own units.

        ``inputs`` is ``(batch, *shape)`` of any numeric type, with as many numbers a sample as the model takes.
        """
        z = inputs.to(self.dtype).reshape(len(inputs), *self.input_shape)
        if self.input_scale != 1.0:
            z = z * self.input_scale
        result: Tensor = z if self.stem is None else self.stem(z)
        return result

    def run(
        self,
        inputs: Tensor,
        solver: SolverSpec,
        *,
        times: Tensor | None = None,
        max_evaluations: int | None = None,
    ) -> ClassifierOutput:
        """Return logits and solution for ``inputs`` under ``solver``."""
        solution = solve(
            self.field,
            self.initial_state(inputs),
            solver,
            t1=self.end_time,
            times=times,
            max_evaluations=max_evaluations,
        )
        return ClassifierOutput(self.head(solution.final), solution)

    def forward(self, inputs: Tensor, solver: SolverSpec) -> Tensor:
        """Return the logits ``(batch, classes)``."""
        return self.run(inputs, solver).logits


def _build_stem(spec: ClassifierSpec, input_shape: tuple[int, ...]) -> nn.Module | None:
    if spec.stem is None:
        return None
    if spec.stem.kind == "linear":
        return nn.Linear(input_shape[0], spec.stem.features)
    convolution = nn.Conv1d if len(input_shape) == 2 else nn.Conv2d
    return convolution(input_shape[0], spec.stem.channels, kernel_size=3, padding=1)


def build_classifier(model: ClassifierSpec, dataset: DatasetSpec, *, seed: int = 0) -> Classifier:
    """Return a freshly initialised classifier for a data set.

    The weights depend on ``seed`` alone; the global random state is neither used nor changed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(model, dataset.input_shape, dataset.classes, dataset.input_scale)


def build_model(spec: TrainingJobSpec) -> Classifier:
    """Return the untrained model of a training job, in its precision."""
    model = build_classifier(spec.architecture, spec.dataset, seed=spec.training.seed)
    return model.to(DTYPES[spec.training.precision])
