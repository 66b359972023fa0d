"""Answers about models and their versions."""

from datetime import datetime

from pydantic import Field

from api.schemas.answer import Answer, JsonObject
from api.schemas.solver_choice import SolverChoiceSummary
from api.schemas.solvers import SolverAnswer
from ode_core.specs import (
    ClassifierSpec,
    DatasetSpec,
    ModifiedFieldSpec,
    SolverSpec,
    TrainingJobSpec,
    model_input_shape,
)
from store.models import Model, ModelVersion, Origin


class CheckpointAnswer(Answer):
    """A version's weights as a safetensors file."""

    href: str
    bytes: int
    sha256: str


class VersionLinks(Answer):
    """Where to go from a version."""

    self: str
    predict: str
    checkpoint: str
    job: str | None = Field(description="the training job; null where none made it")
    parent: str | None = Field(description="the version it was made from")


class StartedFrom(Answer):
    """The version a training began with."""

    model: str
    version: int


class ParentVersion(Answer):
    """The version that another was made from."""

    model: str
    version: int


class ModelVersionAnswer(Answer):
    """One immutable version of a model."""

    model: str
    version: int
    created_at: datetime
    origin: Origin = Field(
        description="training: a job made it; upload: weights trained elsewhere; repair: another version with a "
        "modified field in its field's place"
    )
    job_id: str | None = Field(description="the training job that made it; null where none did")
    parent: ParentVersion | None = Field(
        description="the version it was made from: a repair's, or the one whose weights the training began with"
    )
    modified_field: ModifiedFieldSpec | None = Field(description="of a repair")
    dataset: DatasetSpec
    architecture: ClassifierSpec
    solver: SolverAnswer = Field(
        description="what it was trained with at the end, or of a repair an accurate one; predictions use it by default"
    )
    input_shape: list[int] = Field(description="of one input", examples=[[1, 8, 8]])
    classes: int
    started_from: StartedFrom | None = Field(description="whose weights the training began with; null: random ones")
    training_spec: JsonObject = Field(
        description="the training job's request; of an upload what was declared, the rest defaults; of a repair its "
        "parent's"
    )
    metadata: JsonObject = Field(
        description="accuracy, counts and so on, as the training reported them; of an upload its file, of a repair its "
        "cost"
    )
    links: VersionLinks

    @classmethod
    def of(cls, version: ModelVersion) -> "ModelVersionAnswer":
        """Return the answer about a version of the store."""
        spec = TrainingJobSpec.model_validate(version.training_spec)
        start = spec.start_from if version.origin == "training" else None
        parent = version.parent
        if parent is None and start is not None and start.version is not None:  # a training before lineage was stored
            parent = start.model, start.version
        own = f"/v1/models/{version.model}/versions/{version.version}"
        return cls(
            model=version.model,
            version=version.version,
            created_at=version.created_at,
            origin=version.origin,
            job_id=version.job_id,
            parent=None if parent is None else ParentVersion(model=parent[0], version=parent[1]),
            modified_field=None
            if version.modified_field is None
            else ModifiedFieldSpec.model_validate(version.modified_field),
            dataset=spec.dataset,
            architecture=spec.architecture,
            solver=SolverSpec.model_validate(version.solver),
            input_shape=list(model_input_shape(spec.architecture, spec.dataset.input_shape)),
            classes=spec.dataset.classes,
            started_from=None if start is None else StartedFrom(model=start.model, version=start.version),
            training_spec=version.training_spec,
            metadata=version.metadata,
            links=VersionLinks(
                self=own,
                predict=f"{own}/predict",
                checkpoint=f"{own}/checkpoint",
                job=None if version.job_id is None else f"/v1/jobs/{version.job_id}",
                parent=None if parent is None else f"/v1/models/{parent[0]}/versions/{parent[1]}",
            ),
        )


class ModelVersionDetail(ModelVersionAnswer):
    """One immutable version of a model, with its weights' checksum and what its audit says about serving it."""

    checkpoint: CheckpointAnswer
    solver_choice: SolverChoiceSummary | None = Field(description="of the latest finished audit; null: there is none")


class ModelSummary(Answer):
    """A model in a list."""

    name: str
    latest_version: int
    created_at: datetime
    updated_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, model: Model) -> "ModelSummary":
        """Return the summary of a model of the store."""
        own = f"/v1/models/{model.name}"
        return cls(
            name=model.name,
            latest_version=model.latest_version,
            created_at=model.created_at,
            updated_at=model.updated_at,
            links={
                "self": own,
                "predict": f"{own}/predict",
                "aliases": f"{own}/aliases",
                "results": f"/v1/results?model={model.name}",
            },
        )


class ModelAnswer(ModelSummary):
    """A model with its versions, newest first."""

    versions: list[ModelVersionAnswer]
