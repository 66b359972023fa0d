"""What is done with a stored model: sweep over test solvers, audit, portrait, predictions of a data set, export."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictBool, Tag

from ode_core.specs.audited_agreement import By, Evidence, Otherwise
from ode_core.specs.dataset import DatasetSpec, Split
from ode_core.specs.names import ALIAS_PATTERN
from ode_core.specs.solver import SolverSpec
from ode_core.specs.spec import Spec
from ode_core.specs.training import ModelName


def _kind_of_version(value: Any) -> str:
    return "(alias)" if isinstance(value, str) and not value.isdecimal() else "(number)"


def _kind_of_solver(value: Any) -> str:
    return "(chosen)" if value == "auto" else "(named)"


# Each value is checked against what it looks like, and an error is about that alone. Tags stand in parentheses: they
# are no fields.
Version = Annotated[
    Annotated[int, Field(ge=1), Tag("(number)")] | Annotated[str, Field(pattern=ALIAS_PATTERN), Tag("(alias)")],
    Discriminator(_kind_of_version),
]
"""A version's number; or in a request an alias or ``latest``, in whose place the accepted job names the number."""
NamedOrChosen = Annotated[
    Annotated[SolverSpec, Tag("(named)")] | Annotated[Literal["auto"], Tag("(chosen)")], Discriminator(_kind_of_solver)
]
"""A solver; or in a request ``auto``, in whose place the accepted job names the solver."""
Samples = Annotated[int, Field(ge=1, le=1_000_000)]
ExportFormat = Literal["onnx", "torch"]


class SweepJobSpec(Spec):
    """Test one model version under each of the given solvers; one result row for each."""

    kind: Literal["sweep"] = "sweep"
    model: ModelName
    version: Version | None = Field(
        default=None, description="a number, an alias, or latest (null): what it is when the job is accepted"
    )
    solvers: Annotated[list[SolverSpec], Field(min_length=1, max_length=200)]
    samples: Samples | None = Field(default=None, description="null: the whole test split")


class AuditJobSpec(Spec):
    """Decide whether one model version is an ODE: flip rate against a converged reference."""

    kind: Literal["audit"] = "audit"
    model: ModelName
    version: Version | None = Field(
        default=None, description="a number, an alias, or latest (null): what it is when the job is accepted"
    )
    epsilon: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.01, description="largest flip rate at which the model still counts as an ODE"
    )
    samples: Samples | None = Field(default=None, description="null: the whole test split")
    mechanism: StrictBool | None = Field(
        default=None,
        description="whether to find out why predictions depend on the solver, and to try repairs; null: where the "
        "verdict is discrete",
    )


class PortraitJobSpec(Spec):
    """Look at one model version in its phase plane, at two step sizes and exactly; for states of two numbers."""

    kind: Literal["portrait"] = "portrait"
    model: ModelName
    version: Version | None = Field(
        default=None, description="a number, an alias, or latest (null): what it is when the job is accepted"
    )
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


class AskedOfAuto(Spec):
    """What was asked where the solver was chosen, and why it is that one."""

    agreement: Annotated[float, Field(gt=0, le=1)] = Field(description="on which share of the audited samples")
    evidence: Evidence = Field(description="what had to reach it")
    by: By = Field(description="what was to be the least")
    otherwise: Otherwise = Field(description="what to do where no solver is known to agree")
    reason: Annotated[str, Field(max_length=2000)] = Field(description="why that solver, in words")


class PredictJobSpec(Spec):
    """Predict a whole data set with one model version; every sample's prediction is stored."""

    kind: Literal["predict"] = "predict"
    model: ModelName
    version: Version | None = Field(
        default=None, description="a number, an alias, or latest (null): what it is when the job is accepted"
    )
    solver: NamedOrChosen | None = Field(
        default=None,
        description="null: what the version was trained with, or of a repair what it is served with; auto: the "
        "cheapest that an audit found to agree",
    )
    agreement: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="for auto: on which share of the audited samples it has to agree; null: what solver-choice takes",
    )
    evidence: Evidence | None = Field(
        default=None,
        description="for auto: what has to reach the agreement: the estimate (null), or its 95 % interval's lower end",
    )
    by: By | None = Field(
        default=None, description="for auto: what is to be the least: evaluations of the field (null), or measured time"
    )
    otherwise: Otherwise | None = Field(
        default=None,
        description="for auto, where no solver is known to agree: refuse (null) with 409, or training_solver",
    )
    chosen_by: AskedOfAuto | None = Field(
        default=None,
        description="of an accepted job: what was asked of auto, which chose the solver, and why it is that one; null: "
        "it was named. Sent again with that solver it is kept, and nothing is chosen anew",
    )
    dataset: DatasetSpec | None = Field(
        default=None, description="null: the one the version was trained on; another must have inputs of the same shape"
    )
    split: Split = "test"
    samples: Samples | None = Field(default=None, description="the first so many; null: the whole split")
    logits: StrictBool = Field(default=False, description="store the logits, too, in float32")


class ExportJobSpec(Spec):
    """Write one model version with a solver on a fixed grid as a file that runs without this package."""

    kind: Literal["export"] = "export"
    model: ModelName
    version: Version | None = Field(
        default=None, description="a number, an alias, or latest (null): what it is when the job is accepted"
    )
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
