"""Answers about what can be named in a spec."""

from datetime import datetime
from typing import Any

from pydantic import Field

from api.schemas.answer import Answer, JsonObject
from ode_core.specs import UploadedSpec
from ode_core.specs.methods import Backend, Family
from store.datasets import DatasetVersion


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


class UploadedVersion(Answer):
    """One immutable version of an uploaded data set."""

    name: str
    version: int
    created_at: datetime
    input_shape: list[int] = Field(description="of one input")
    classes: int
    input_scale: float = Field(description="factor from the data set's own units to what a model computes with")
    train_samples: int
    test_samples: int
    sha256: str = Field(description="over all inputs and labels; checked by each job")
    source: JsonObject = Field(description="the file, and how its test samples were drawn")
    spec: UploadedSpec = Field(description="as the `dataset` of a training job")
    links: dict[str, str]

    @classmethod
    def of(cls, version: DatasetVersion) -> "UploadedVersion":
        """Return the answer about a version of the store."""
        return cls(
            name=version.name,
            version=version.version,
            created_at=version.created_at,
            input_shape=version.input_shape,
            classes=version.classes,
            input_scale=version.input_scale,
            train_samples=version.train_samples,
            test_samples=version.test_samples,
            sha256=version.sha256,
            source=version.source,
            spec=UploadedSpec(name=version.name, version=version.version),
            links={"self": f"/v1/datasets/{version.name}"},
        )


class UploadedDataset(Answer):
    """An uploaded data set with its versions, newest first."""

    name: str
    latest_version: int
    versions: list[UploadedVersion]


class DatasetKind(Answer):
    """A data set: one of ours, or one that was uploaded."""

    kind: str
    name: str | None = Field(description="of an uploaded one")
    description: str
    available: bool = Field(description="whether this server can read it")
    unavailable_because: str | None
    sample_shape: list[int] = Field(description="with the example's settings")
    classes: int
    example: dict[str, Any]
    uploaded: UploadedVersion | None = Field(description="of an uploaded one, its latest version")


class SolverMethods(Answer):
    """All solver methods."""

    data: list[SolverMethod]
