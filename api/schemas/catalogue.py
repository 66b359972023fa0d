"""Answers about what can be named in a spec."""

from typing import Any

from pydantic import Field

from api.schemas.answer import Answer


class SolverMethod(Answer):
    """A solver method."""

    method: str
    order: int
    stages: int
    embedded_order: int | None = Field(description="of the embedded solution the error estimate compares with")
    adaptive: bool = Field(description="whether it can choose its steps: rtol and atol instead of steps")
    first_same_as_last: bool
    stability_limit: float | None = Field(
        description="largest h * lambda at which z' = -lambda z is solved stably; null: there is no largest"
    )
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
