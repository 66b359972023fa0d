"""A study's test results over its seeds: mean and standard deviation, with every seed's value kept."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from store.jobs import Job
from store.scope import Scope
from store.study_search import failed_seeds
from store.tables import result


@dataclass(frozen=True)
class OverSeeds:
    """One number of every seed.

    Attributes:
        mean: over the seeds that have it; None if none has.
        sd: sample standard deviation; None for fewer than two.
        n: how many have it.
        by_seed: seed -> its value.
    """

    mean: float | None
    sd: float | None
    n: int
    by_seed: dict[int, float]


@dataclass(frozen=True)
class StudyResult:
    """One training configuration tested under one solver, over its seeds.

    Attributes:
        label: of the configuration.
        model: the name whose versions are its models.
        train_solver: what the configuration says; under adaptation a run may have ended with another.
        adaptation: of the training, or None.
        test_steps: of the test solver, on a fixed grid.
        nfe: evaluations of the field for one sample, averaged over the seeds.
        train_steps: with which each seed's training ended, on a fixed grid.
        failed_seeds: those whose training left no model.
    """

    label: str
    model: str
    train_solver: dict[str, Any]
    adaptation: dict[str, Any] | None
    test_solver: dict[str, Any]
    test_steps: int | None
    nfe: float | None
    accuracy: OverSeeds
    flip_rate: OverSeeds
    train_steps: OverSeeds
    failed_seeds: list[int]


@dataclass
class _Configuration:
    """The jobs of one label, put together."""

    first: Job
    seeds: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)


def study_results(scope: Scope, study_id: str, jobs: Sequence[Job]) -> list[StudyResult]:
    """Return a row for each configuration and test solver that at least one seed was tested under.

    A configuration whose seeds have all failed has its rows, too, without values: it is not dropped.

    Args:
        scope: the transaction.
        study_id: the study.
        jobs: its current jobs by their place.
    """
    columns = ("job_id", "seed", "test_solver", "test_steps", "train_steps", "nfe", "accuracy", "flip_rate")
    query = select(*(result.c[name] for name in columns)).where(result.c.study_id == study_id).order_by(result.c.id)
    rows = scope.connection.execute(query).mappings()
    return aggregate(jobs, [dict(row) for row in rows])


def aggregate(jobs: Sequence[Job], rows: Iterable[Mapping[str, Any]]) -> list[StudyResult]:
    """Return the rows of ``study_results``, from the jobs and the single results."""
    configurations: dict[str, _Configuration] = {}
    labels: dict[str, str] = {}
    for job in jobs:
        label = labels[job.id] = job.spec["label"]
        configuration = configurations.setdefault(label, _Configuration(job))
        configuration.seeds |= set(job.spec["seeds"])
        configuration.failed |= {failed["seed"] for failed in failed_seeds(job)}
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = {label: {} for label in configurations}
    for row in rows:
        if row["job_id"] in labels:
            solver = json.dumps(row["test_solver"], sort_keys=True)
            groups[labels[row["job_id"]]].setdefault(solver, []).append(row)
    return [
        _result(configurations[label], tested[0]["test_solver"], tested[0]["test_steps"], tested)
        for label, by_solver in groups.items()
        for tested in (list(by_solver.values()) or _untested(configurations[label]))
    ]


def _untested(configuration: _Configuration) -> list[list[Mapping[str, Any]]]:
    """Return a group without values for each test solver, if no seed is left that could still be tested."""
    if configuration.failed != configuration.seeds:
        return []
    nothing = dict.fromkeys(("seed", "train_steps", "nfe", "accuracy", "flip_rate"))
    solvers = configuration.first.spec["solvers"]
    return [[{**nothing, "test_solver": solver, "test_steps": solver.get("steps")}] for solver in solvers]


def _result(
    configuration: _Configuration,
    test_solver: dict[str, Any],
    test_steps: int | None,
    rows: Sequence[Mapping[str, Any]],
) -> StudyResult:
    spec = configuration.first.spec
    nfe = _over_seeds(rows, "nfe")
    return StudyResult(
        label=spec["label"],
        model=spec["training"]["name"],
        train_solver=spec["training"]["solver"],
        adaptation=spec["training"]["adaptation"],
        test_solver=test_solver,
        test_steps=test_steps,
        nfe=nfe.mean,
        accuracy=_over_seeds(rows, "accuracy"),
        flip_rate=_over_seeds(rows, "flip_rate"),
        train_steps=_over_seeds(rows, "train_steps"),
        failed_seeds=sorted(configuration.failed),
    )


def _over_seeds(rows: Sequence[Mapping[str, Any]], column: str) -> OverSeeds:
    by_seed = {row["seed"]: row[column] for row in rows if row[column] is not None}
    values = list(by_seed.values())
    return OverSeeds(
        mean=statistics.fmean(values) if values else None,
        sd=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        by_seed=dict(sorted(by_seed.items())),
    )
