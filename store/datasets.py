"""Uploaded data sets: a name with immutable, numbered versions. Their bytes are blobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from ode_core.specs import UploadedFacts, UploadedSpec
from store import tables
from store.blobs import Blobs
from store.ids import new_id
from store.pagination import KeysetOrder, Page
from store.scope import Scope
from store.tables import dataset_version


@dataclass(frozen=True)
class DatasetVersion:
    """One upload.

    Attributes:
        name: of the data set.
        version: from 1.
        sha256: over all inputs and labels.
        input_shape: of one input.
        input_scale: factor from the data set's own units to what a model computes with.
        source: what the file was and how it was split.
        blob_id: of the arrays.
    """

    id: str
    name: str
    version: int
    sha256: str
    input_shape: list[int]
    classes: int
    input_scale: float
    train_samples: int
    test_samples: int
    source: dict[str, Any]
    blob_id: str
    created_at: datetime

    @property
    def spec(self) -> UploadedSpec:
        """How a job names this version, with its facts."""
        facts = UploadedFacts(
            input_shape=tuple(self.input_shape),
            classes=self.classes,
            input_scale=self.input_scale,
            train_samples=self.train_samples,
            test_samples=self.test_samples,
            sha256=self.sha256,
        )
        return UploadedSpec(name=self.name, version=self.version, facts=facts)


_BY_NAME = KeysetOrder("name", None, tables.dataset.c.name)


class Datasets:
    """Registers and finds uploaded data sets."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def register_version(
        self, name: str, facts: UploadedFacts, *, source: Mapping[str, Any], blob_id: str
    ) -> DatasetVersion:
        """Add version n+1 of the data set ``name``; the first makes it.

        Raises:
            NotFound: the blob is not there, or not complete.
        """
        Blobs(self._scope).require(blob_id)
        version = self._next_version(name)
        values = facts.model_dump(mode="json") | {
            "id": new_id(),
            "name": name,
            "version": version,
            "source": dict(source),
            "blob_id": blob_id,
            "created_at": self._scope.now(),
        }
        statement = insert(dataset_version).values(values).returning(dataset_version)
        return DatasetVersion(**self._scope.connection.execute(statement).mappings().one())

    def version(self, name: str, version: int | None = None) -> DatasetVersion | None:
        """Return one version, default the latest; None if there is no such."""
        query = select(dataset_version).where(dataset_version.c.name == name)
        if version is not None:
            query = query.where(dataset_version.c.version == version)
        query = query.order_by(dataset_version.c.version.desc()).limit(1)
        row = self._scope.connection.execute(query).mappings().one_or_none()
        return None if row is None else DatasetVersion(**row)

    def versions(self, name: str) -> Sequence[DatasetVersion]:
        """Return all versions of a data set, the newest first."""
        query = select(dataset_version).where(dataset_version.c.name == name).order_by(dataset_version.c.version.desc())
        return [DatasetVersion(**row) for row in self._scope.connection.execute(query).mappings()]

    def list(self, *, limit: int = 50, after: str | None = None) -> Page[DatasetVersion]:
        """Return the latest version of each data set, by name.

        Raises:
            InvalidCursor: ``after`` is malformed.
        """
        latest = and_(
            dataset_version.c.name == tables.dataset.c.name,
            dataset_version.c.version == tables.dataset.c.latest_version,
        )
        query = _BY_NAME.apply(select(dataset_version).join(tables.dataset, latest), limit, after)
        found = [DatasetVersion(**row) for row in self._scope.connection.execute(query).mappings()]
        more = len(found) > limit
        found = found[:limit]
        return Page(found, _BY_NAME.cursor(None, found[-1].name) if more else None)

    def _next_version(self, name: str) -> int:
        """Raise the data set's counter, whose row stays locked: two at once get different numbers."""
        now, table = self._scope.now(), tables.dataset
        dialect: Any = postgresql if self._scope.connection.dialect.name == "postgresql" else sqlite
        first = {"name": name, "latest_version": 1, "created_at": now, "updated_at": now}
        statement = dialect.insert(table).values(first)
        statement = statement.on_conflict_do_update(
            index_elements=[table.c.name], set_={"latest_version": table.c.latest_version + 1, "updated_at": now}
        )
        return int(self._scope.connection.execute(statement.returning(table.c.latest_version)).scalar_one())
