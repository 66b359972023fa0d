"""Metric series: one value a step and name, packed in chunks of about 500 points a row."""

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, literal, select, update

from store.fence import hold_fence
from store.scope import Scope
from store.tables import metric_chunk, metric_series

CHUNK_POINTS = 500
DEFAULT_MAX_POINTS = 10_000

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class SeriesSummary:
    """A series in short.

    Attributes:
        points: how many there are.
        non_finite: how many of them are NaN or infinite.
        last_step: of the latest point.
        last_value: of the latest point; None if not finite.
        minimum: of the finite values; None if there are none.
        maximum: of the finite values; None if there are none.
    """

    points: int
    non_finite: int
    last_step: int
    last_value: float | None
    minimum: float | None
    maximum: float | None


class Metrics:
    """Writes and reads the metric series of jobs."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def append(self, job_id: str, attempt: int, points: Mapping[str, Points]) -> None:
        """Append points to the job's series.

        Args:
            job_id: the job.
            attempt: that writes.
            points: name -> ``[(step, value), ...]``; values may be NaN or infinite.

        Raises:
            LeaseLost: the job is no longer this attempt's.
            ValueError: the steps do not grow, or are not beyond those already stored. After a
                resume call ``truncate_after`` first.
        """
        hold_fence(self._scope, job_id, attempt)
        for name, new in points.items():
            if new:
                self._append_to_series(job_id, name, [(int(step), float(value)) for step, value in new])

    def truncate_after(self, job_id: str, attempt: int, step: int) -> None:
        """Remove every point beyond ``step``: the work after a checkpoint is about to be repeated.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        hold_fence(self._scope, job_id, attempt)
        connection = self._scope.connection
        of_job = metric_chunk.c.job_id == job_id
        connection.execute(delete(metric_chunk).where(of_job, metric_chunk.c.first_step > step))
        cut = select(metric_chunk).where(of_job, metric_chunk.c.last_step > step)
        for row in connection.execute(cut).mappings().all():
            kept = [point for point in _unpack(row["packed_steps"], row["packed_values"]) if point[0] <= step]
            self._replace_chunk(job_id, row["name"], row["first_step"], kept)
        names = select(metric_series.c.name).where(metric_series.c.job_id == job_id)
        for name in connection.execute(names).scalars().all():
            self._summarise(job_id, name)

    def take_over(self, job_id: str, attempt: int, predecessor: str, step: int) -> None:
        """Replace the job's series by those of another up to ``step``, from whose checkpoint it goes on.

        Raises:
            LeaseLost: the job is no longer this attempt's.
        """
        self.truncate_after(job_id, attempt, 0)
        for table in (metric_series, metric_chunk):
            others = [column for column in table.c if column.name != "job_id"]
            theirs = select(literal(job_id), *others).where(table.c.job_id == predecessor)
            names = ["job_id", *(column.name for column in others)]
            self._scope.connection.execute(insert(table).from_select(names, theirs))
        self.truncate_after(job_id, attempt, step)

    def read(
        self,
        job_id: str,
        *,
        name: str | None = None,
        after_step: int | None = None,
        max_points: int = DEFAULT_MAX_POINTS,
    ) -> dict[str, list[tuple[int, float | None]]]:
        """Return the job's series: name -> ``[(step, value), ...]``; None for NaN and infinity.

        A series with more than ``max_points`` points is thinned: its first and last point stay, and
        of each stretch between them the smallest, the largest and a non-finite value, so that
        neither a spike nor a divergence disappears.

        Args:
            job_id: the job.
            name: only this series; default: all.
            after_step: only points beyond this step.
            max_points: at most so many of each series, at least 2.

        Raises:
            ValueError: ``max_points`` is less than 2.
        """
        if max_points < 2:
            raise ValueError(f"max_points must be at least 2, not {max_points}")
        query = select(metric_series.c.name).where(metric_series.c.job_id == job_id).order_by(metric_series.c.name)
        if name is not None:
            query = query.where(metric_series.c.name == name)
        names = self._scope.connection.execute(query).scalars().all()
        return {each: self._read_series(job_id, each, after_step, max_points) for each in names}

    def latest(self, job_id: str) -> dict[str, SeriesSummary]:
        """Return each series' latest value and range."""
        columns = [column for column in metric_series.c if column.name != "job_id"]
        query = select(*columns).where(metric_series.c.job_id == job_id).order_by(metric_series.c.name)
        summaries = {}
        for row in self._scope.connection.execute(query).mappings():
            values = dict(row)
            name = values.pop("name")
            summaries[name] = SeriesSummary(**values)
        return summaries

    def _append_to_series(self, job_id: str, name: str, new: Points) -> None:
        last = self._last_chunk(job_id, name)
        before = None if last is None else last["last_step"]
        for step, _ in new:
            if before is not None and step <= before:
                raise ValueError(f"metric {name!r}: step {step} does not come after step {before}")
            before = step
        connection = self._scope.connection
        stretch = _Stretch.of(new)
        if last is None:
            connection.execute(
                insert(metric_series).values(
                    job_id=job_id, name=name, last_step=new[-1][0], last_value=_finite(new[-1][1]), **vars(stretch)
                )
            )
        rest = list(new)
        if last is not None and last["points"] < CHUNK_POINTS:
            room = CHUNK_POINTS - last["points"]
            filled = [*_unpack(last["packed_steps"], last["packed_values"]), *rest[:room]]
            self._replace_chunk(job_id, name, last["first_step"], filled)
            rest = rest[room:]
        rows = [
            {"job_id": job_id, "name": name, **_packed(rest[start : start + CHUNK_POINTS])}
            for start in range(0, len(rest), CHUNK_POINTS)
        ]
        if rows:
            connection.execute(insert(metric_chunk), rows)
        if last is not None:
            self._extend_summary(job_id, name, new[-1], stretch)

    def _last_chunk(self, job_id: str, name: str) -> Mapping[str, Any] | None:
        query = (
            select(metric_chunk)
            .where(metric_chunk.c.job_id == job_id, metric_chunk.c.name == name)
            .order_by(metric_chunk.c.first_step.desc())
            .limit(1)
        )
        row = self._scope.connection.execute(query).mappings().one_or_none()
        return None if row is None else dict(row)

    def _replace_chunk(self, job_id: str, name: str, first_step: int, points: Points) -> None:
        self._scope.connection.execute(
            update(metric_chunk)
            .where(
                metric_chunk.c.job_id == job_id,
                metric_chunk.c.name == name,
                metric_chunk.c.first_step == first_step,
            )
            .values(_packed(points))
        )

    def _extend_summary(self, job_id: str, name: str, last: tuple[int, float], added: "_Stretch") -> None:
        of_series = (metric_series.c.job_id == job_id, metric_series.c.name == name)
        old = self._scope.connection.execute(select(metric_series).where(*of_series)).mappings().one()
        both = _Stretch(old["points"], old["non_finite"], old["minimum"], old["maximum"]).joined(added)
        self._scope.connection.execute(
            update(metric_series).where(*of_series).values(last_step=last[0], last_value=_finite(last[1]), **vars(both))
        )

    def _summarise(self, job_id: str, name: str) -> None:
        """Make the summary anew from the chunks; remove a series without any."""
        connection = self._scope.connection
        of_series = (metric_series.c.job_id == job_id, metric_series.c.name == name)
        last = self._last_chunk(job_id, name)
        if last is None:
            connection.execute(delete(metric_series).where(*of_series))
            return
        chunk = metric_chunk.c
        totals = connection.execute(
            select(
                func.sum(chunk.points).label("points"),
                func.sum(chunk.non_finite).label("non_finite"),
                func.min(chunk.minimum).label("minimum"),
                func.max(chunk.maximum).label("maximum"),
            ).where(chunk.job_id == job_id, chunk.name == name)
        ).mappings()
        step, value = _unpack(last["packed_steps"], last["packed_values"])[-1]
        connection.execute(
            update(metric_series).where(*of_series).values(last_step=step, last_value=_finite(value), **totals.one())
        )

    def _read_series(
        self, job_id: str, name: str, after_step: int | None, max_points: int
    ) -> list[tuple[int, float | None]]:
        chunk = metric_chunk.c
        conditions = [chunk.job_id == job_id, chunk.name == name]
        if after_step is not None:
            conditions.append(chunk.last_step > after_step)
        query = select(chunk.packed_steps, chunk.packed_values).where(*conditions).order_by(chunk.first_step)
        count = select(func.coalesce(func.sum(chunk.points), 0)).where(*conditions)
        # Of the first chunk a part may lie before after_step, so this may be a little high.
        total = int(self._scope.connection.execute(count).scalar_one())
        rows = self._scope.connection.execute(query.execution_options(yield_per=50))
        points = (
            point
            for steps, values in rows
            for point in _unpack(steps, values)
            if after_step is None or point[0] > after_step
        )
        return [(step, _finite(value)) for step, value in thin(points, total, max_points)]


def thin(points: Iterable[tuple[int, float]], total: int, max_points: int) -> list[tuple[int, float]]:
    """Return at most ``max_points`` of about ``total`` points, with every stretch's extremes.

    Args:
        points: in order of their steps; read once, kept only as far as returned.
        total: at least the number of points.
        max_points: at least 2.
    """
    if total <= max_points:
        return list(points)
    # Three points of each stretch, and the first and last of all.
    stretches = (max_points - 2) // 3
    size = math.ceil(total / stretches) if stretches else total
    kept: dict[int, float] = {}
    last: tuple[int, float] | None = None
    extremes = _Extremes()
    for index, point in enumerate(points):
        if index == 0:
            kept[point[0]] = point[1]
        if stretches:
            if index and index % size == 0:
                kept.update(extremes.points())
                extremes = _Extremes()
            extremes.add(point)
        last = point
    kept.update(extremes.points())
    if last is not None:
        kept[last[0]] = last[1]
    return sorted(kept.items())


@dataclass
class _Extremes:
    """The lowest, the highest and the first non-finite point of a stretch."""

    low: tuple[int, float] | None = None
    high: tuple[int, float] | None = None
    odd: tuple[int, float] | None = None

    def add(self, point: tuple[int, float]) -> None:
        if not math.isfinite(point[1]):
            self.odd = self.odd or point
            return
        if self.low is None or point[1] < self.low[1]:
            self.low = point
        if self.high is None or point[1] > self.high[1]:
            self.high = point

    def points(self) -> Iterator[tuple[int, float]]:
        return (point for point in (self.low, self.high, self.odd) if point is not None)


@dataclass
class _Stretch:
    """Count and range of some points; the fields are columns of both tables."""

    points: int = 0
    non_finite: int = 0
    minimum: float | None = None
    maximum: float | None = None

    @classmethod
    def of(cls, points: Points) -> "_Stretch":
        finite = [value for _, value in points if math.isfinite(value)]
        return cls(
            points=len(points),
            non_finite=len(points) - len(finite),
            minimum=min(finite, default=None),
            maximum=max(finite, default=None),
        )

    def joined(self, other: "_Stretch") -> "_Stretch":
        minima = [x for x in (self.minimum, other.minimum) if x is not None]
        maxima = [x for x in (self.maximum, other.maximum) if x is not None]
        return _Stretch(
            points=self.points + other.points,
            non_finite=self.non_finite + other.non_finite,
            minimum=min(minima, default=None),
            maximum=max(maxima, default=None),
        )


def _packed(points: Points) -> dict[str, Any]:
    steps = [step for step, _ in points]
    return {
        "first_step": steps[0],
        "last_step": steps[-1],
        "packed_steps": struct.pack(f"<{len(points)}q", *steps),
        "packed_values": struct.pack(f"<{len(points)}d", *(value for _, value in points)),
        **vars(_Stretch.of(points)),
    }


def _unpack(steps: bytes, values: bytes) -> list[tuple[int, float]]:
    count = len(steps) // 8
    return list(zip(struct.unpack(f"<{count}q", steps), struct.unpack(f"<{count}d", values), strict=True))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
