"""Answers about what can be named in a spec."""

from typing import Any

from pydantic import Field

from api.schemas.answer import Answer
from ode_core.specs.methods import Backend, Family


class SolverMethod(Answer):
    """A solver method."""

    method: str
    family: Family
    order: int
    stages: int
    embedded_order: int | None = Field(description="of the embedded solution the error estimate compares with")
    adaptive: bool = Field(description="whether it can choose its steps: rtol and atol instead of steps")
    fixed_grid: bool = Field(description="whether it can take a given number of steps")
    first_same_as_last: bool = Field(description="whether the last stage is the first of the next step, and so is free")
    stability_limit: float | None = Field(
        description="z' = -lambda z is solved stably for h * lambda from 0 to this; null: however large it is"
    )
    dense_output_order: int = Field(description="of the interpolant within a step; its error is of one order more")
    backends: list[Backend] = Field(description="who can run it; the first does unless a solver names another")
    description: str
    example: dict[str, Any]


class DatasetKind(Answer):
    """A data set."""

    kind: str
    description: str
    available: bool = Field(description="whether this server can read it")
    unavailable_because: str | None
    sample_shape: list[int] = Field(description="with the example's settings")
    classes: int
    example: dict[str, Any]


class SolverMethods(Answer):
    """All solver methods."""

    data: list[SolverMethod]


class DatasetKinds(Answer):
    """All data sets."""

    data: list[DatasetKind]
