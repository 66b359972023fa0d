"""The neural ODE classifier ``head . ODESolve(field, [0, end_time]) . (stem)``."""

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Self, cast

import torch
from torch import Tensor, nn

from ode_core.fields.arithmetic import float32_products
from ode_core.fields.vector_fields import build_field, initialise
from ode_core.solvers.compilation import Compilation
from ode_core.solvers.output_times import OutputMode
from ode_core.solvers.solution import Solution
from ode_core.solvers.solve import solve, solve_together
from ode_core.specs.dataset import DatasetSpec
from ode_core.specs.gradient import GradientMode
from ode_core.specs.model import ClassifierSpec, model_input_shape, model_state_shape
from ode_core.specs.repair import affordable_evaluations
from ode_core.specs.solver import SolverSpec
from ode_core.specs.training import TrainingJobSpec

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class ClassifierOutput:
    """Logits ``(batch, classes)``, NaN where the solve failed, and the solution they were read from."""

    logits: Tensor
    solution: Solution


def counted_in_trained_field(solution: Solution, evaluations_in_field: int) -> Solution:
    """Return a solution with its evaluations counted in those of the trained field."""
    if evaluations_in_field == 1:
        return solution
    return replace(solution, evaluations=solution.evaluations * evaluations_in_field)


class Classifier(nn.Module):
    """A classifier whose middle is an ordinary differential equation: ``head . ODESolve . (stem)``.

    The initial weights depend on ``seed`` alone; the global random state is then neither used nor changed.
    Without a seed they come from the global random state.

    Attributes:
        input_shape: shape of one input as the model takes it.
        state_shape: shape of the ODE's state for one sample.
        input_scale: factor from the data set's own units to what the network sees.
        end_time: the ODE runs over ``[0, end_time]``.
        field_arithmetic: what the field computes in.
        compilation: whether steps of its solves may be compiled; see ``solve``.
        field: the vector field.
        evaluations_in_field: how often the trained field is called in one evaluation of ``field``: once, or as often
            as a modified field calls it. Counts of evaluations and bounds on them are of the trained field.
        head: from the final state ``(batch, *state_shape)`` to logits.
    """

    def __init__(
        self,
        spec: ClassifierSpec,
        sample_shape: tuple[int, ...],
        classes: int,
        input_scale: float,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.input_shape = model_input_shape(spec, sample_shape)
        self.state_shape = model_state_shape(spec, sample_shape)
        self.input_scale = input_scale
        self.end_time = spec.end_time
        self.field_arithmetic = spec.field_arithmetic
        self.compilation: Compilation = "auto"
        self.evaluations_in_field = 1
        # torch's layers draw initial weights of their own, which ours replace.
        with torch.random.fork_rng(devices=[]):
            self.stem = _build_stem(spec, self.input_shape)
            self.field = build_field(spec.field, self.state_shape, spec.field_arithmetic)
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(self.state_shape), classes))
        initialise(self, None if seed is None else torch.Generator().manual_seed(seed))

    @property
    def dtype(self) -> torch.dtype:
        """The precision the model computes in."""
        return self._readout.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._readout.weight.device

    @property
    def _readout(self) -> nn.Linear:
        # Asked for in every iteration: going through the parameters for the first takes three times as long.
        return cast(nn.Linear, self.head._modules["1"])

    def as_input(self, samples: Tensor) -> Tensor:
        """Return samples of the data set's raw shape as ``(batch, *input_shape)``; units and type stay.

        Raises:
            ValueError: a sample has another number of values than the model takes.
        """
        if samples.ndim < 1 or math.prod(samples.shape[1:]) != math.prod(self.input_shape):
            raise ValueError(
                f"inputs have shape {list(samples.shape)}; the model takes [batch, "
                f"{', '.join(map(str, self.input_shape))}]"
            )
        return samples.reshape(len(samples), *self.input_shape)

    def uncompiled(self) -> Self:
        """Return the same model, its weights shared, whose steps are never compiled."""
        other = copy.copy(self)
        other.compilation = "never"
        return other

    def initial_state(self, inputs: Tensor) -> Tensor:
        """Return the ODE's start ``(batch, *state_shape)`` for inputs in the data set's own units.

        ``inputs`` is ``(batch, *shape)`` of any numeric type, with as many numbers a sample as the model takes.
        """
        z = self.as_input(inputs).to(self.dtype)
        if self.input_scale != 1.0:
            z = z * self.input_scale
        result: Tensor = z if self.stem is None else self.stem(z)
        return result

    def float32_products(self) -> AbstractContextManager[None]:
        """Return the setting in which the field's products are what the model asks for, for a backward pass too."""
        return float32_products(self.field_arithmetic, self.device)

    def run(
        self,
        inputs: Tensor,
        solver: SolverSpec,
        *,
        times: Tensor | None = None,
        outputs: OutputMode = "land",
        gradient: GradientMode = "backprop",
        max_evaluations: int | None = None,
    ) -> ClassifierOutput:
        """Return logits and solution for ``inputs`` under ``solver``; gradients flow through both.

        ``times``, ``outputs`` and ``gradient`` are those of ``solve``.
        """
        z0 = self.initial_state(inputs)
        with self.float32_products():
            solution = solve(
                self.field.for_states(self.state_shape),
                z0,
                solver,
                t1=self.end_time,
                times=times,
                outputs=outputs,
                gradient=gradient,
                max_evaluations=affordable_evaluations(max_evaluations, self.evaluations_in_field),
                compilation=self.compilation,
                warn=False,  # a job's or a request's solver was chosen by its user, not by the code that calls this
            )
        return ClassifierOutput(
            self.head(solution.final), counted_in_trained_field(solution, self.evaluations_in_field)
        )

    @torch.no_grad()
    def run_together(
        self, inputs: Tensor, solvers: Sequence[SolverSpec], *, max_evaluations: int | None = None
    ) -> list[ClassifierOutput]:
        """Return logits and solution for ``inputs`` under each of ``solvers``, without gradients."""
        z0 = self.initial_state(inputs)
        with self.float32_products():
            solutions = solve_together(
                self.field.for_states(self.state_shape),
                z0,
                solvers,
                t1=self.end_time,
                max_evaluations=affordable_evaluations(max_evaluations, self.evaluations_in_field),
                compilation=self.compilation,
            )
        return list(map(self._output, solutions))

    def _output(self, solution: Solution) -> ClassifierOutput:
        counted = counted_in_trained_field(solution, self.evaluations_in_field)
        return ClassifierOutput(self.head(solution.final), counted)

    def forward(self, inputs: Tensor, solver: SolverSpec) -> Tensor:
        """Return the logits ``(batch, classes)``."""
        return self.run(inputs, solver).logits

    @torch.no_grad()
    def predict(self, inputs: Tensor, solver: SolverSpec, *, max_evaluations: int | None = None) -> ClassifierOutput:
        """Return logits and solution without keeping a graph; NaN logits where the solve failed."""
        return self.run(inputs, solver, max_evaluations=max_evaluations)


def _build_stem(spec: ClassifierSpec, input_shape: tuple[int, ...]) -> nn.Module | None:
    if spec.stem is None:
        return None
    if spec.stem.kind == "linear":
        return nn.Linear(input_shape[0], spec.stem.features)
    convolution = nn.Conv1d if len(input_shape) == 2 else nn.Conv2d
    return convolution(input_shape[0], spec.stem.channels, kernel_size=3, padding=1)


def build_classifier(model: ClassifierSpec, dataset: DatasetSpec, *, seed: int = 0) -> Classifier:
    """Return a classifier for a data set; its initial weights depend on ``seed`` alone."""
    return Classifier(model, dataset.input_shape, dataset.classes, dataset.input_scale, seed=seed)


def build_model(spec: TrainingJobSpec) -> Classifier:
    """Return the untrained model of a training job, in its precision.

    The initial weights are the same in float32 and, widened, in float64.
    """
    model = build_classifier(spec.architecture, spec.dataset, seed=spec.training.seed)
    return model.to(DTYPES[spec.training.precision])
