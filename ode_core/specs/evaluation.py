"""What is done with a stored model: sweep over test solvers, audit, portrait, predictions of a data set, export."""

from typing import Annotated, Literal

from pydantic import Field

from ode_core.specs.dataset import DatasetSpec, Split
from ode_core.specs.solver import SolverSpec
from ode_core.specs.spec import Spec
from ode_core.specs.training import ModelName

Version = Annotated[int, Field(ge=1)]
Samples = Annotated[int, Field(ge=1, le=1_000_000)]
ExportFormat = Literal["onnx", "torch"]


class SweepJobSpec(Spec):
    """Test one model version under each of the given solvers; one result row for each."""

    kind: Literal["sweep"] = "sweep"
    model: ModelName
    version: Version | None = Field(default=None, description="null: the latest when the job is accepted")
    solvers: Annotated[list[SolverSpec], Field(min_length=1, max_length=200)]
    samples: Samples | None = Field(default=None, description="null: the whole test split")


class AuditJobSpec(Spec):
    """Decide whether one model version is an ODE: flip rate against a converged reference."""

    kind: Literal["audit"] = "audit"
    model: ModelName
    version: Version | None = Field(default=None, description="null: the latest when the job is accepted")
    epsilon: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.01, description="largest flip rate at which the model still counts as an ODE"
    )
    samples: Samples | None = Field(default=None, description="null: the whole test split")
    mechanism: bool | None = Field(
        default=None,
        description="whether to find out why predictions depend on the solver, and to try repairs; null: where the "
        "verdict is discrete",
    )


class PortraitJobSpec(Spec):
    """Look at one model version in its phase plane, at two step sizes and exactly; for states of two numbers."""

    kind: Literal["portrait"] = "portrait"
    model: ModelName
    version: Version | None = Field(default=None, description="null: the latest when the job is accepted")
    solver: SolverSpec | None = Field(
        default=None,
        description="a fixed grid; null: what the version was trained with, or of a repair rk4 with as many steps",
    )
    finer: SolverSpec | None = Field(default=None, description="a fixed grid; null: the solver with twice the steps")
    samples: Annotated[int, Field(ge=1, le=100)] = Field(default=40, description="trajectories, of the test split")
    fan_samples: Annotated[int, Field(ge=0, le=8)] = Field(
        default=4, description="samples whose error fan is computed, of each class in turn"
    )
    grid: Annotated[int, Field(ge=5, le=81)] = Field(default=41, description="cells along each edge of a plane")


class PredictJobSpec(Spec):
    """Predict a whole data set with one model version; every sample's prediction is stored."""

    kind: Literal["predict"] = "predict"
    model: ModelName
    version: Version | None = Field(default=None, description="null: the latest when the job is accepted")
    solver: SolverSpec | None = Field(
        default=None, description="null: what the version was trained with, or of a repair what it is served with"
    )
    dataset: DatasetSpec | None = Field(
        default=None, description="null: the one the version was trained on; another must have inputs of the same shape"
    )
    split: Split = "test"
    samples: Samples | None = Field(default=None, description="the first so many; null: the whole split")
    logits: bool = Field(default=False, description="store the logits, too, in float32")


class ExportJobSpec(Spec):
    """Write one model version with a solver on a fixed grid as a file that runs without this package."""

    kind: Literal["export"] = "export"
    model: ModelName
    version: Version | None = Field(default=None, description="null: the latest when the job is accepted")
    solver: SolverSpec | None = Field(
        default=None,
        description="an explicit method with equal steps; null: what the version was trained with, or of a repair rk4 "
        "with as many steps",
    )
    format: ExportFormat = Field(
        default="onnx", description="onnx: a model for ONNX runtimes; torch: a program for torch.export.load (.pt2)"
    )


EvaluationJobSpec = Annotated[
    SweepJobSpec | AuditJobSpec | PortraitJobSpec | PredictJobSpec | ExportJobSpec, Field(discriminator="kind")
]
