"""Data sets, and what can be known of them without loading them.

Generated sets have a ``version``, that of the rule that makes their numbers: the order of the draws from
``numpy.random.default_rng(seed)`` and what is computed from them. A change that would give a stored spec other numbers,
here or in a new numpy, is a new version beside the old one; a version the program does not know is refused.
"""

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ode_core.specs.names import NAME_PATTERN
from ode_core.specs.spec import Spec

Split = Literal["train", "test"]


class LabelledData(Spec):
    """What a data set of ours tells of itself without being loaded, beside the ``input_shape`` of one input.

    Attributes:
        classes: number of labels.
        input_scale: factor from the data set's own units to what the model computes with.
    """

    classes: ClassVar[int]
    input_scale: ClassVar[float]


class DigitsSpec(LabelledData):
    """scikit-learn's bundled 8x8 handwritten digits: 1,797 images, grey values 0 to 16."""

    classes: ClassVar[int] = 10
    input_scale: ClassVar[float] = 1 / 16

    kind: Literal["digits"] = "digits"
    test_fraction: Annotated[float, Field(ge=0.05, le=0.5)] = 0.2
    split_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (1, 8, 8)

    @property
    def train_samples(self) -> int:
        """Size of the training split."""
        return 1797 - self.test_samples

    @property
    def test_samples(self) -> int:
        """Size of the test split."""
        return math.ceil(1797 * self.test_fraction)


class ConcentricSpheresSpec(LabelledData):
    """Concentric spheres in ``dimension`` dimensions; the two classes cannot be separated by a line.

    Label 0: radii [0.10, 0.15] and [0.40, 0.45], a quarter of the points each; label 1:
    [0.25, 0.30]. Source: Ott et al., ResNet After All, ICLR 2021.
    """

    classes: ClassVar[int] = 2
    input_scale: ClassVar[float] = 1.0

    kind: Literal["concentric_spheres"] = "concentric_spheres"
    version: Literal[1] = Field(default=1, description="of the rule that makes the points")
    dimension: Annotated[int, Field(ge=2, le=4096)] = 2
    train_samples: Annotated[int, Field(ge=4, le=1_000_000)] = 2000
    test_samples: Annotated[int, Field(ge=4, le=1_000_000)] = 1000
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (self.dimension,)


class ThreeMinimaSpec(LabelledData):
    """Start points of a damped particle in a potential with three minima; the label is the minimum it comes to rest in.

    An input is ``(x, v)``, uniform in [-1, 2] x [-2, 2]. Labels 0, 1, 2 are the minima from left to right. As the
    labels come from a known flow, a model with a fine solver can learn them as an ODE: the positive control.
    Source: Ott et al., ResNet After All, ICLR 2021.
    """

    classes: ClassVar[int] = 3
    input_scale: ClassVar[float] = 1.0

    kind: Literal["three_minima"] = "three_minima"
    version: Literal[1] = Field(default=1, description="of the rule that makes the points")
    train_samples: Annotated[int, Field(ge=4, le=50_000)] = 2000
    test_samples: Annotated[int, Field(ge=4, le=50_000)] = 1000
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (2,)


class XorSpec(LabelledData):
    """The four points of exclusive or: (0, 0) and (1, 1) have label 0, (0, 1) and (1, 0) label 1.

    They are the training set and the test set. There are no copies of them: an audit that counted copies as samples
    would be surer than it may be. A larger batch takes each point several times by itself.
    """

    classes: ClassVar[int] = 2
    input_scale: ClassVar[float] = 1.0

    kind: Literal["xor"] = "xor"
    version: Literal[1] = Field(default=1, description="of the points and their order")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (2,)

    @property
    def train_samples(self) -> int:
        """Size of the training split."""
        return 4

    @property
    def test_samples(self) -> int:
        """Size of the test split."""
        return 4


class MnistSpec(LabelledData):
    """MNIST, 28x28 grey values 0 to 255, read from the four published ``idx`` files."""

    classes: ClassVar[int] = 10
    input_scale: ClassVar[float] = 1 / 255

    kind: Literal["mnist"] = "mnist"
    train_limit: Annotated[int, Field(ge=1, le=60_000)] = 60_000
    test_limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (1, 28, 28)

    @property
    def train_samples(self) -> int:
        """Size of the training split, at most: files may hold less."""
        return self.train_limit

    @property
    def test_samples(self) -> int:
        """Size of the test split, at most: files may hold less."""
        return self.test_limit


class Cifar10Spec(LabelledData):
    """CIFAR-10, 3x32x32 colour values 0 to 255, read from the published binary files."""

    classes: ClassVar[int] = 10
    input_scale: ClassVar[float] = 1 / 255

    kind: Literal["cifar10"] = "cifar10"
    train_limit: Annotated[int, Field(ge=1, le=50_000)] = 50_000
    test_limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (3, 32, 32)

    @property
    def train_samples(self) -> int:
        """Size of the training split, at most: files may hold less."""
        return self.train_limit

    @property
    def test_samples(self) -> int:
        """Size of the test split, at most: files may hold less."""
        return self.test_limit


class UploadedFacts(Spec):
    """What is known of an uploaded data set, written into the spec when a job is accepted.

    Attributes:
        sha256: over all inputs and labels, as ``Dataset.fingerprint``.
    """

    input_shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=3)]
    classes: Annotated[int, Field(ge=2)]
    input_scale: Annotated[float, Field(gt=0)]
    train_samples: Annotated[int, Field(ge=1)]
    test_samples: Annotated[int, Field(ge=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class UploadedSpec(Spec):
    """Arrays that were uploaded under a name. A version never changes; the same name uploaded again is the next one."""

    kind: Literal["uploaded"] = "uploaded"
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        default=None, description="null: the latest when the job is accepted"
    )
    facts: UploadedFacts | None = Field(
        default=None, description="filled in when the job is accepted; leave it out, or send what it was"
    )

    @model_validator(mode="after")
    def _facts_are_of_a_version(self) -> Self:
        if self.facts is not None and self.version is None:
            raise ValueError("facts belong to one version: name it, or leave facts out")
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self._known.input_shape

    @property
    def classes(self) -> int:
        """Number of labels."""
        return self._known.classes

    @property
    def input_scale(self) -> float:
        """Factor from the data set's own units to what the model computes with."""
        return self._known.input_scale

    @property
    def train_samples(self) -> int | None:
        """Size of the training split; None until the facts are filled in."""
        return None if self.facts is None else self.facts.train_samples

    @property
    def test_samples(self) -> int | None:
        """Size of the test split; None until the facts are filled in."""
        return None if self.facts is None else self.facts.test_samples

    @property
    def _known(self) -> UploadedFacts:
        if self.facts is None:
            raise ValueError(f"nothing is known of the uploaded data set {self.name} yet: its facts are not filled in")
        return self.facts


DatasetSpec = Annotated[
    DigitsSpec | ConcentricSpheresSpec | ThreeMinimaSpec | XorSpec | MnistSpec | Cifar10Spec | UploadedSpec,
    Field(discriminator="kind"),
]
