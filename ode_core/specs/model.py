"""Models: vector field, classifier around it, the paper's architectures as presets."""

import itertools
import math
from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, model_validator

from ode_core.specs.spec import Spec

Activation = Literal["relu", "tanh", "silu", "gelu", "softplus", "elu"]
FieldArithmetic = Literal["full", "tf32", "bfloat16"]
Width = Annotated[int, Field(ge=1, le=4096)]


class Conv1dField(Spec):
    """``conv(1) - activation - conv(kernel) - activation - conv(1)`` over a one-dimensional signal.

    The paper's Sphere2 field runs it over the two coordinates of a point, as a signal of length 2.
    """

    kind: Literal["conv1d"] = "conv1d"
    channels: Width = 32
    kernel: Literal[1, 3, 5, 7] = 3
    activation: Activation = "relu"
    time_dependent: StrictBool = Field(default=False, description="give the field t as an extra channel")


class Conv2dField(Spec):
    """``conv(1) - activation - conv(kernel) - activation - conv(1)`` over images."""

    kind: Literal["conv2d"] = "conv2d"
    channels: Width = 32
    kernel: Literal[1, 3, 5, 7] = 3
    activation: Activation = "relu"
    time_dependent: StrictBool = Field(default=False, description="give the field t as an extra channel")


class MlpField(Spec):
    """A multi-layer perceptron over the flattened state."""

    kind: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[Width, ...], Field(min_length=1, max_length=8)] = (64, 64)
    activation: Activation = "tanh"
    time_dependent: StrictBool = Field(default=False, description="give the field t as an extra feature")


class GrowingEllipsesField(Spec):
    """The field ``z' = [[a, 1], [-g |z|^d, b]] z`` of the plane, without weights: only the head is trained.

    Points go round on growing ellipses, the outer ones faster. On the four points of XOR over [0, 4] the errors of
    Euler's steps spread like Lady Windermere's fan: with ``h = 10^-2.5`` a line separates the classes, with finer
    steps none does.
    Source: Ott et al., ResNet After All, ICLR 2021, whose constants are unpublished; the defaults show its effect.
    """

    kind: Literal["growing_ellipses"] = "growing_ellipses"
    a: Annotated[float, Field(ge=-10, le=10)] = 0.09
    b: Annotated[float, Field(ge=-10, le=10)] = 0.16
    g: Annotated[float, Field(ge=0, le=1000)] = 9.3
    d: Annotated[float, Field(ge=1, le=10)] = 1.39


FieldSpec = Annotated[Conv1dField | Conv2dField | MlpField | GrowingEllipsesField, Field(discriminator="kind")]


class ConvStem(Spec):
    """A 3-wide convolution from the input's channels to the state's, before the solve."""

    kind: Literal["conv"] = "conv"
    channels: Width


class LinearStem(Spec):
    """A linear layer from the flattened input to a state of ``features`` numbers, before the solve."""

    kind: Literal["linear"] = "linear"
    features: Annotated[int, Field(ge=1, le=65_536)]


StemSpec = Annotated[ConvStem | LinearStem, Field(discriminator="kind")]


class ClassifierSpec(Spec):
    """``head . ODESolve(field, [0, end_time]) . (stem)``; the head flattens and is one linear layer."""

    kind: Literal["classifier"] = "classifier"
    field: FieldSpec
    stem: StemSpec | None = None
    end_time: Annotated[float, Field(gt=0, le=1000)] = 1.0
    field_arithmetic: FieldArithmetic = Field(
        default="full",
        description="what the field's network computes in; the state and the step control stay in float32. "
        "tf32 matters on CUDA devices only",
    )

    @model_validator(mode="after")
    def _network_has_something_to_do(self) -> Self:
        if self.field.kind != "growing_ellipses":
            return self
        if self.stem is not None:
            raise ValueError("a growing_ellipses field takes the data's two coordinates as they are: leave stem out")
        if self.field_arithmetic != "full":
            raise ValueError("a growing_ellipses field has no network to reduce: leave field_arithmetic out")
        return self

    @model_validator(mode="after")
    def _stem_fits_field(self) -> Self:
        if self.stem is None:
            return self
        if self.field.kind == "mlp" and self.stem.kind != "linear":
            raise ValueError("an mlp field needs a linear stem, or none")
        if self.field.kind != "mlp" and self.stem.kind != "conv":
            raise ValueError(f"a {self.field.kind} field needs a conv stem, or none")
        return self


class PresetSpec(Spec):
    """One of the paper's architectures by name; expanded when a job is accepted."""

    kind: Literal["preset"] = "preset"
    name: Literal["sphere2", "cifar10", "xor_fan"]


PRESETS: dict[str, ClassifierSpec] = {
    "sphere2": ClassifierSpec(field=Conv1dField(channels=32)),
    "cifar10": ClassifierSpec(field=Conv2dField(channels=128)),
    "xor_fan": ClassifierSpec(field=GrowingEllipsesField(), end_time=4.0),
}

ModelSpec = Annotated[ClassifierSpec | PresetSpec, Field(discriminator="kind")]


def expand_preset(spec: ClassifierSpec | PresetSpec) -> ClassifierSpec:
    """Return the architecture a preset stands for; any other spec as it is."""
    return PRESETS[spec.name] if isinstance(spec, PresetSpec) else spec


def model_input_shape(model: ClassifierSpec, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in which the model takes one sample of a data set.

    ``mlp`` takes ``(n,)``; ``conv1d`` takes ``(channels, length)``: a vector or a one-channel
    image becomes one channel, an image one signal per channel; ``conv2d`` takes
    ``(channels, height, width)``; ``growing_ellipses`` takes ``(2,)``.

    Raises:
        ValueError: the field needs an image, or a point of the plane, and the data set has none.
    """
    if model.field.kind == "mlp":
        return (math.prod(sample_shape),)
    if model.field.kind == "growing_ellipses":
        if math.prod(sample_shape) != 2:
            raise ValueError(
                f"a growing_ellipses field needs samples of two numbers, but the data set's have shape "
                f"{list(sample_shape)}: use xor, or concentric_spheres with dimension 2, or another field"
            )
        return (2,)
    if model.field.kind == "conv1d":
        channels = 1 if len(sample_shape) == 1 else sample_shape[0]
        return (channels, math.prod(sample_shape) // channels)
    if len(sample_shape) != 3:
        raise ValueError(
            f"a conv2d field needs images (channels, height, width), but the data set's samples have "
            f"shape {list(sample_shape)}: use a conv1d or mlp field"
        )
    return sample_shape


def model_state_shape(model: ClassifierSpec, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the ODE's state for one sample: the input's, as the stem changes it."""
    shape = model_input_shape(model, sample_shape)
    if model.stem is None:
        return shape
    if model.stem.kind == "linear":
        return (model.stem.features,)
    return (model.stem.channels, *shape[1:])


def parameter_count(model: ClassifierSpec, sample_shape: tuple[int, ...], classes: int) -> int:
    """Return the number of trainable parameters, without building the model."""
    state = model_state_shape(model, sample_shape)
    return _stem_parameters(model, sample_shape) + _field_parameters(model, state) + (math.prod(state) + 1) * classes


def _stem_parameters(model: ClassifierSpec, sample_shape: tuple[int, ...]) -> int:
    shape = model_input_shape(model, sample_shape)
    if model.stem is None:
        return 0
    if model.stem.kind == "linear":
        return (math.prod(shape) + 1) * model.stem.features
    return (shape[0] * math.prod(3 for _ in shape[1:]) + 1) * model.stem.channels


def _field_parameters(model: ClassifierSpec, state: tuple[int, ...]) -> int:
    field = model.field
    if field.kind == "growing_ellipses":
        return 0
    time = int(field.time_dependent)
    if field.kind == "mlp":
        widths = [state[0] + time, *field.hidden, state[0]]
        return sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(widths))
    kernel_area = field.kernel if field.kind == "conv1d" else field.kernel * field.kernel
    n = field.channels
    return (state[0] + time + 1) * n + (n * kernel_area + 1) * n + (n + 1) * state[0]


def evaluation_operations(model: ClassifierSpec, sample_shape: tuple[int, ...]) -> int:
    """Return the multiplications of one evaluation of the field for one sample, roughly."""
    state = model_state_shape(model, sample_shape)
    if model.field.kind == "growing_ellipses":
        return 20  # a root and a power among them
    positions = 1 if model.field.kind == "mlp" else math.prod(state[1:])
    return _field_parameters(model, state) * positions
