"""How a model is trained."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ode_core.specs.adaptation import AdaptationSpec, ceiling_steps, check_adaptation, check_audit_batch
from ode_core.specs.dataset import DatasetSpec, UploadedSpec
from ode_core.specs.gradient import GRADIENTS, GradientMode, check_gradient
from ode_core.specs.methods import METHODS
from ode_core.specs.model import ClassifierSpec, ModelSpec, expand_preset, model_state_shape
from ode_core.specs.names import NAME_PATTERN
from ode_core.specs.regularisation import Regularisation, check_regularisation
from ode_core.specs.solver import SolverSpec
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


class StartFrom(Spec):
    """A stored model version whose weights a training begins with."""

    model: ModelName
    version: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="null: the latest when the job is accepted"
    )


class TrainingJobSpec(Spec):
    """A training job: everything that determines the trained model."""

    name: ModelName
    dataset: DatasetSpec
    model: ModelSpec
    solver: SolverSpec
    training: TrainingSpec = TrainingSpec()
    adaptation: AdaptationSpec | None = None
    start_from: StartFrom | None = Field(
        default=None, description="begin with a stored version's weights; the optimiser starts anew"
    )
    gradient: GradientMode = Field(
        default="backprop",
        description="; ".join(
            f"{mode}: {facts.description} (keeps {facts.memory})" for mode, facts in GRADIENTS.items()
        ),
    )
    regularisation: Regularisation | None = Field(
        default=None, description="keeps the steps like those of a flow: step-count jitter, a local-error penalty"
    )

    @property
    def architecture(self) -> ClassifierSpec:
        """The model with a preset's name replaced by what it stands for."""
        return expand_preset(self.model)

    def with_seed(self, seed: int) -> "TrainingJobSpec":
        """Return the same training with another seed."""
        return self.model_copy(update={"training": self.training.model_copy(update={"seed": seed})})

    def document(self) -> dict[str, Any]:
        """Return the job as JSON with its defaults, its solver as users write it."""
        return self.model_dump(mode="json") | {"solver": self.solver.document()}

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
            check_adaptation(self.adaptation, self.solver, self.architecture.end_time)
            check_audit_batch(self.adaptation, self.dataset.train_samples)
        if self.regularisation is not None:
            given = None if self.solver.adaptive else self.solver.fixed_steps(0.0, self.architecture.end_time)
            ceiling = None if self.adaptation is None else ceiling_steps(self.adaptation, self.solver)
            check_regularisation(
                self.regularisation,
                self.solver,
                self.gradient,
                steps=given if self.adaptation is None else None,
                most_steps=given if ceiling is None else ceiling,
            )
        return self


def check_start(spec: TrainingJobSpec, start: TrainingJobSpec) -> None:
    """Raise ``ValueError`` when weights that ``start`` trained cannot begin the training of ``spec``.

    The arithmetic of the field may differ: it is how the same weights are computed with.
    """
    own, other = (one.architecture.model_dump(mode="json", exclude={"field_arithmetic"}) for one in (spec, start))
    if differences := _differences("model", own, other):
        raise ValueError(
            f"the model's architecture is not that of the version it starts from: {'; '.join(differences)}; give the "
            f"version's architecture, or start from another"
        )
    for what, mine, its in (
        ("inputs of shape", list(spec.dataset.input_shape), list(start.dataset.input_shape)),
        ("classes:", spec.dataset.classes, start.dataset.classes),
        ("inputs scaled by", spec.dataset.input_scale, start.dataset.input_scale),
    ):
        if mine != its:
            raise ValueError(
                f"the data set has {what} {mine}, that of the version it starts from {its}: take data of the same "
                f"form, or start from another version"
            )
    if spec.training.precision != start.training.precision:
        raise ValueError(
            f"training.precision is {spec.training.precision}, that of the version it starts from "
            f"{start.training.precision}: give that"
        )


def _differences(path: str, own: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return where two JSON objects of one kind differ, as ``model.field.channels 8 instead of 32``."""
    found: list[str] = []
    for name, mine in own.items():
        its, place = other[name], f"{path}.{name}"
        if mine == its:
            continue
        if isinstance(mine, dict) and isinstance(its, dict) and mine.keys() == its.keys() and _one_kind(mine, its):
            found += _differences(place, mine, its)
        else:
            found.append(f"{place} {json.dumps(mine)} instead of {json.dumps(its)}")
    return found


def _one_kind(mine: Mapping[str, Any], its: Mapping[str, Any]) -> bool:
    return mine.get("kind") == its.get("kind")
