"""Trained models: a name with immutable, numbered versions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Select, and_, bindparam, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from ode_core.specs import ALIAS_PATTERN, LATEST
from store import tables
from store.blobs import Blobs
from store.ids import new_id
from store.pagination import KeysetOrder, Page
from store.scope import Scope
from store.tables import model_alias, model_version


@dataclass(frozen=True)
class Model:
    """A model's name and how many versions it has."""

    name: str
    latest_version: int
    created_at: datetime
    updated_at: datetime


Origin = Literal["training", "upload", "repair"]


@dataclass(frozen=True)
class ModelVersion:
    """What a training job made, or one run of a study's job; or uploaded weights; or another version, repaired.

    A repair shares the weights and the training of its parent and has a modified field in its field's place.

    Attributes:
        model: the model's name.
        version: from 1.
        job_id: of the job that trained it; None for an upload or a repair.
        training_spec: everything that determined the training; of an upload, what was declared.
        solver: the solver it was trained with at the end; of a repair, an accurate one.
        blob_id: of the weights (safetensors).
        metadata: accuracy, counts, shapes.
        run: which of the job's runs made it, from 0; a training job has one.
        origin: what made it.
        parent_model: of the version it was made from: a repair's, or the one whose weights a training began with.
        parent_version: of that model.
        modified_field: of a repair.
    """

    id: str
    model: str
    version: int
    job_id: str | None
    training_spec: dict[str, Any]
    solver: dict[str, Any]
    blob_id: str
    metadata: dict[str, Any]
    created_at: datetime
    run: int
    origin: Origin
    parent_model: str | None
    parent_version: int | None
    modified_field: dict[str, Any] | None

    @property
    def parent(self) -> tuple[str, int] | None:
        """Model and version it was made from, or None."""
        if self.parent_model is None or self.parent_version is None:
            return None
        return self.parent_model, self.parent_version


# Made once: they are asked for every batch of predictions.
_VERSIONS = select(model_version).where(model_version.c.model == bindparam("of_model"))
_NEWEST = _VERSIONS.order_by(model_version.c.version.desc()).limit(1)
_NUMBERED = _VERSIONS.where(model_version.c.version == bindparam("number"))
_ALIASED = _VERSIONS.join(
    model_alias, and_(model_alias.c.model == model_version.c.model, model_alias.c.version == model_version.c.version)
).where(model_alias.c.alias == bindparam("of_alias"))

_MAX_VERSION = 2**31 - 1

_BY_NAME = KeysetOrder("name", None, tables.model.c.name)


class Models:
    """Registers and finds model versions."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def register_version(
        self,
        name: str,
        job_id: str,
        *,
        training_spec: Mapping[str, Any],
        solver: Mapping[str, Any],
        blob_id: str,
        metadata: Mapping[str, Any],
        run: int = 0,
        parent: tuple[str, int] | None = None,
    ) -> ModelVersion:
        """Add version n+1 of the model ``name``, which a job trained; the first makes the model.

        Call it in the transaction that ends the job with ``tx.jobs.succeed``: the fence there
        undoes this too if the lease was lost, and each ``run`` of a job registers one version at most.

        Raises:
            NotFound: the blob is not there, or not complete.
        """
        return self._add(
            name,
            origin="training",
            job_id=job_id,
            training_spec=dict(training_spec),
            solver=dict(solver),
            blob_id=blob_id,
            metadata=dict(metadata),
            run=run,
            **_parent(parent),
        )

    def register_upload(
        self,
        name: str,
        *,
        training_spec: Mapping[str, Any],
        solver: Mapping[str, Any],
        blob_id: str,
        metadata: Mapping[str, Any],
    ) -> ModelVersion:
        """Add version n+1 of the model ``name``, whose weights were uploaded; the first makes the model.

        Raises:
            NotFound: the blob is not there, or not complete.
        """
        return self._add(
            name,
            origin="upload",
            training_spec=dict(training_spec),
            solver=dict(solver),
            blob_id=blob_id,
            metadata=dict(metadata),
        )

    def register_repair(
        self,
        parent: ModelVersion,
        *,
        modified_field: Mapping[str, Any],
        solver: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> ModelVersion:
        """Add the next version of the parent's model, with its weights and a modified field in its field's place.

        Raises:
            NotFound: the parent's blob is not there.
        """
        return self._add(
            parent.model,
            origin="repair",
            training_spec=parent.training_spec,
            solver=dict(solver),
            blob_id=parent.blob_id,
            metadata=dict(metadata),
            modified_field=dict(modified_field),
            **_parent((parent.model, parent.version)),
        )

    def _add(self, name: str, *, blob_id: str, **values: Any) -> ModelVersion:
        Blobs(self._scope).require(blob_id)
        statement = insert(model_version).values(
            id=new_id(),
            model=name,
            version=self._next_version(name),
            blob_id=blob_id,
            created_at=self._scope.now(),
            **values,
        )
        row = self._scope.connection.execute(statement.returning(model_version)).mappings().one()
        return ModelVersion(**row)

    def get(self, name: str) -> Model | None:
        """Return the model, or None."""
        query = select(tables.model).where(tables.model.c.name == name)
        row = self._scope.connection.execute(query).mappings().one_or_none()
        return None if row is None else Model(**row)

    def list(self, *, limit: int = 50, after: str | None = None) -> Page[Model]:
        """Return models by name.

        Raises:
            InvalidCursor: ``after`` is malformed.
        """
        query = _BY_NAME.apply(select(tables.model), limit, after)
        models = [Model(**row) for row in self._scope.connection.execute(query).mappings()]
        more = len(models) > limit
        models = models[:limit]
        return Page(models, _BY_NAME.cursor(None, models[-1].name) if more else None)

    def version(self, name: str, version: int | None = None) -> ModelVersion | None:
        """Return one version, default the latest; None if there is no such."""
        if version is None:
            return self._one(_NEWEST, of_model=name)
        if not 1 <= version <= _MAX_VERSION:  # a database has no such integers
            return None
        return self._one(_NUMBERED, of_model=name, number=version)

    def resolve(self, name: str, reference: int | str | None = None) -> ModelVersion | None:
        """Return the version that a reference means now; None if there is no such.

        Args:
            name: the model.
            reference: a version, as a number or its digits; None or ``latest``: the newest; else an alias.
        """
        if reference is None or reference == LATEST:
            return self.version(name)
        if isinstance(reference, int):
            return self.version(name, reference)
        if re.fullmatch("[0-9]{1,10}", reference):
            return self.version(name, int(reference))
        if not re.fullmatch(ALIAS_PATTERN, reference):
            return None
        return self._one(_ALIASED, of_model=name, of_alias=reference)

    def versions_of_job(self, job_id: str) -> Sequence[ModelVersion]:
        """Return the versions a job made: one of a training job, one for each seed of a study's."""
        query = select(model_version).where(model_version.c.job_id == job_id).order_by(model_version.c.run)
        return [ModelVersion(**row) for row in self._scope.connection.execute(query).mappings()]

    def versions(self, name: str) -> Sequence[ModelVersion]:
        """Return all versions of a model, the newest first."""
        query = select(model_version).where(model_version.c.model == name).order_by(model_version.c.version.desc())
        return [ModelVersion(**row) for row in self._scope.connection.execute(query).mappings()]

    def _one(self, query: Select[Any], **values: Any) -> ModelVersion | None:
        row = self._scope.connection.execute(query, values).mappings().one_or_none()
        return None if row is None else ModelVersion(**row)

    def _next_version(self, name: str) -> int:
        """Raise the model's counter, whose row stays locked: two at once get different numbers."""
        now = self._scope.now()
        table = tables.model
        first = {"name": name, "latest_version": 1, "created_at": now, "updated_at": now}
        # The two dialects write it the same way, but have no common class for it.
        statement: Any
        if self._scope.connection.dialect.name == "postgresql":
            statement = postgresql.insert(table)
        else:
            statement = sqlite.insert(table)
        return int(
            self._scope.connection.execute(
                statement.values(first)
                .on_conflict_do_update(
                    index_elements=[table.c.name],
                    set_={"latest_version": table.c.latest_version + 1, "updated_at": now},
                )
                .returning(table.c.latest_version)
            ).scalar_one()
        )


def _parent(parent: tuple[str, int] | None) -> dict[str, Any]:
    model, version = parent or (None, None)
    return {"parent_model": model, "parent_version": version}
