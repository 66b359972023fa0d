"""Evaluation of a stored model: a sweep over test solvers, an audit."""

from typing import Annotated, Literal

from pydantic import Field

from ode_core.specs.solver import SolverSpec
from ode_core.specs.spec import Spec
from ode_core.specs.training import ModelName

Version = Annotated[int, Field(ge=1)]
Samples = Annotated[int, Field(ge=1, le=1_000_000)]


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


EvaluationJobSpec = Annotated[SweepJobSpec | AuditJobSpec, Field(discriminator="kind")]
