"""How a model is trained, and how the step is adapted meanwhile."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ode_core.specs.dataset import DatasetSpec, UploadedSpec
from ode_core.specs.gradient import GRADIENTS, GradientMode, check_gradient
from ode_core.specs.methods import METHODS
from ode_core.specs.model import ClassifierSpec, ModelSpec, expand_preset, model_state_shape
from ode_core.specs.names import NAME_PATTERN
from ode_core.specs.solver import MAX_FIXED_STEPS, SolverSpec
from ode_core.specs.spec import Spec

ModelName = Annotated[str, Field(pattern=NAME_PATTERN)]


class TrainingSpec(Spec):
    """The optimiser's side of a training job."""

    iterations: Annotated[int, Field(ge=1, le=10_000_000)] = 600
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 128
    optimizer: Literal["adam", "sgd", "rmsprop"] = "adam"
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=0, description="covers the weights and the order of the data"
    )
    precision: Literal["float32", "float64"] = "float32"
    checkpoint_interval: Annotated[int, Field(ge=1)] = Field(
        default=100, description="iterations between checkpoints from which a killed job goes on"
    )

    @model_validator(mode="after")
    def _momentum_has_an_optimizer(self) -> Self:
        if self.momentum and self.optimizer == "adam":
            raise ValueError("adam has no momentum setting: use sgd or rmsprop, or leave momentum out")
        return self


class StepAdaptation(Spec):
    """Adapt the step size during training so that the model stays an ODE (Ott et al. 2021).

    Every ``interval`` iterations the batch's accuracy under the training solver is held against a
    more accurate test solver. A difference above ``threshold`` halves the step. Otherwise ``talk``
    makes it ``growth`` times larger; ``look_ahead`` does so only if the larger step still agrees.
    In the last ``settle_fraction`` of the training the step only gets smaller.
    """

    kind: Literal["step"] = "step"
    rule: Literal["talk", "look_ahead"] = "talk"
    interval: Annotated[int, Field(ge=1, le=100_000)] = 50
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.1
    growth: Annotated[float, Field(gt=1, le=2)] = 1.1
    max_steps: Annotated[int, Field(ge=1, le=MAX_FIXED_STEPS)] = 500
    settle_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.0


AdaptationSpec = Annotated[StepAdaptation, Field()]


class TrainingJobSpec(Spec):
    """A training job: everything that determines the trained model."""

    name: ModelName
    dataset: DatasetSpec
    model: ModelSpec
    solver: SolverSpec
    training: TrainingSpec = TrainingSpec()
    adaptation: AdaptationSpec | None = None
    gradient: GradientMode = Field(
        default="backprop",
        description="; ".join(
            f"{mode}: {facts.description} (keeps {facts.memory})" for mode, facts in GRADIENTS.items()
        ),
    )

    @property
    def architecture(self) -> ClassifierSpec:
        """The model with a preset's name replaced by what it stands for."""
        return expand_preset(self.model)

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if not isinstance(self.dataset, UploadedSpec) or self.dataset.facts is not None:
            model_state_shape(self.architecture, self.dataset.input_shape)
        if self.architecture.field_arithmetic != "full" and self.training.precision == "float64":
            raise ValueError(
                f"{self.architecture.field_arithmetic} arithmetic of the field is for float32: set precision to "
                f"float32, or field_arithmetic to full"
            )
        implicit = METHODS[self.solver.method].family == "implicit"
        if self.architecture.field_arithmetic != "full" and implicit and not self.solver.adaptive:
            raise ValueError(
                f"{self.solver.method} with a fixed number of steps solves its equations further than "
                f"{self.architecture.field_arithmetic} arithmetic of the field can tell: set field_arithmetic to full, "
                f"or take kvaerno3 with rtol and atol, or an explicit method"
            )
        check_gradient(self.gradient, self.solver)
        if not self.solver.adaptive:
            self.solver.fixed_steps(0.0, self.architecture.end_time)
        if self.adaptation is not None:
            if self.solver.adaptive:
                raise ValueError("step adaptation needs a fixed-step solver: give steps, or set adaptation to null")
            if self.solver.method not in ("euler", "midpoint"):
                raise ValueError(
                    f"step adaptation knows a more accurate test solver for euler and midpoint, "
                    f"not for {self.solver.method}: train with one of these, or set adaptation to null"
                )
            if self.solver.grid == "truncate" or self.solver.runs_on != "odeness":
                raise ValueError(
                    "step adaptation chooses equal steps of its own methods: leave out grid truncate and "
                    "backend torchdiffeq, or set adaptation to null"
                )
        return self
