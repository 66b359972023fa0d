"""Test results: a row for each model version, test solver and data set; filtered and sorted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select

from store.errors import InvalidSort
from store.fence import hold_fence
from store.ids import new_id
from store.pagination import KeysetOrder, Page
from store.scope import Scope
from store.tables import result

_SORT_COLUMNS: dict[str, str | None] = {
    "created_at": None,  # the id is the time
    "model": "model",
    "version": "version",
    "dataset": "dataset_kind",
    "train_method": "train_method",
    "train_steps": "train_steps",
    "test_method": "test_method",
    "test_steps": "test_steps",
    "nfe": "nfe",
    "accuracy": "accuracy",
    "flip_rate": "flip_rate",
    "samples": "samples",
    "failures": "failures",
    "seconds": "seconds",
}
SORTABLE: tuple[str, ...] = tuple(_SORT_COLUMNS)
RANGED: tuple[str, ...] = (
    "version",
    "train_steps",
    "test_steps",
    "nfe",
    "accuracy",
    "flip_rate",
    "samples",
    "failures",
    "seconds",
)


@dataclass(frozen=True)
class NewResult:
    """A result to be stored. The kinds and methods to filter by are taken from the specs.

    Attributes:
        model: its name.
        version: its version.
        dataset: spec of the data set tested on.
        train_solver: spec of the solver the model was trained with.
        test_solver: spec of the solver it was tested with.
        nfe: evaluations of the field for one sample, on average.
        samples: how many were tested.
        failures: how many of them the solver could not solve; counted as wrong.
        seconds: that the test took.
        accuracy: share of right answers.
        flip_rate: share of answers that differ from those under the training solver.
        train_steps: of the training solver, if it has a fixed grid.
        test_steps: of the test solver, if it has a fixed grid.
        study_id: of the study that trained the model, if one did.
        seed: that the study's model was trained with.

    Raises:
        ValueError: a number is not finite.
    """

    model: str
    version: int
    dataset: Mapping[str, Any]
    train_solver: Mapping[str, Any]
    test_solver: Mapping[str, Any]
    nfe: float
    samples: int
    failures: int
    seconds: float
    accuracy: float | None = None
    flip_rate: float | None = None
    train_steps: int | None = None
    test_steps: int | None = None
    study_id: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("nfe", "seconds", "accuracy", "flip_rate"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} of a result must be finite, not {value}")


@dataclass(frozen=True)
class Result:
    """A stored result; see ``NewResult``."""

    id: str
    job_id: str
    model: str
    version: int
    dataset: dict[str, Any]
    dataset_kind: str
    train_solver: dict[str, Any]
    train_method: str
    train_steps: int | None
    test_solver: dict[str, Any]
    test_method: str
    test_steps: int | None
    nfe: float
    accuracy: float | None
    flip_rate: float | None
    samples: int
    failures: int
    seconds: float
    created_at: datetime
    study_id: str | None
    seed: int | None


class Results:
    """Stores and finds results."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def add(self, job_id: str, attempt: int, rows: Sequence[NewResult]) -> None:
        """Add results of a running job.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        hold_fence(self._scope, job_id, attempt)
        now = self._scope.now()
        values = [
            {
                **vars(row),
                "dataset": dict(row.dataset),
                "train_solver": dict(row.train_solver),
                "test_solver": dict(row.test_solver),
                "id": new_id(),
                "job_id": job_id,
                "dataset_kind": row.dataset["kind"],
                "train_method": row.train_solver["method"],
                "test_method": row.test_solver["method"],
                "created_at": now,
            }
            for row in rows
        ]
        if values:
            self._scope.connection.execute(insert(result), values)

    def replace_for_job(self, job_id: str, attempt: int, rows: Sequence[NewResult]) -> None:
        """Store the job's results in place of those of an earlier attempt.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        hold_fence(self._scope, job_id, attempt)
        self._scope.connection.execute(delete(result).where(result.c.job_id == job_id))
        self.add(job_id, attempt, rows)

    def list(
        self,
        *,
        model: str | None = None,
        version: int | None = None,
        dataset: str | None = None,
        train_method: str | None = None,
        test_method: str | None = None,
        job: str | None = None,
        study: str | None = None,
        minimum: Mapping[str, float] | None = None,
        maximum: Mapping[str, float] | None = None,
        sort: str = "-created_at",
        limit: int = 50,
        after: str | None = None,
    ) -> Page[Result]:
        """Return results that fit every filter given.

        Args:
            model: name.
            version: of the model.
            dataset: kind.
            train_method: method of the training solver.
            test_method: method of the test solver.
            job: id of the job that made them.
            study: id of the study that made them.
            minimum: column of ``RANGED`` -> least value; rows without a value do not fit.
            maximum: column of ``RANGED`` -> greatest value.
            sort: one of ``SORTABLE``, with ``-`` in front from the greatest down. Rows without a
                value come last; ties go by age.
            limit: at most so many, 1 to 1000.
            after: the previous page's ``next_cursor``; the same filters and sort are to be given.

        Raises:
            InvalidSort: ``sort``, ``minimum`` or ``maximum`` names another column.
            InvalidCursor: ``after`` is malformed or of another sort.
        """
        query = select(result)
        equal = {
            "model": model,
            "version": version,
            "dataset_kind": dataset,
            "train_method": train_method,
            "test_method": test_method,
            "job_id": job,
            "study_id": study,
        }
        for name, value in equal.items():
            if value is not None:
                query = query.where(result.c[name] == value)
        for name, least in (minimum or {}).items():
            query = query.where(result.c[_ranged(name)] >= least)
        for name, most in (maximum or {}).items():
            query = query.where(result.c[_ranged(name)] <= most)
        order, column = _order(sort)
        rows = self._scope.connection.execute(order.apply(query, limit, after)).mappings().all()
        results = [Result(**row) for row in rows[:limit]]
        if len(rows) <= limit:
            return Page(results, None)
        last = rows[limit - 1]
        return Page(results, order.cursor(None if column is None else last[column], last["id"]))


def _order(sort: str) -> tuple[KeysetOrder, str | None]:
    name = sort.removeprefix("-")
    if name not in _SORT_COLUMNS:
        raise InvalidSort(
            f"results cannot be sorted by {name!r}: use one of {', '.join(SORTABLE)}, with - in front "
            "from the greatest down"
        )
    column = _SORT_COLUMNS[name]
    expression = None if column is None else result.c[column]
    return KeysetOrder(sort, expression, result.c.id, descending=sort.startswith("-")), column


def _ranged(name: str) -> str:
    if name not in RANGED:
        raise InvalidSort(f"results have no range of {name!r}: use one of {', '.join(RANGED)}")
    return name
