"""What figures are drawn from, as it was read from the database; loads no drawing library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Source = Literal["portrait", "results", "training", "study", "audit"]
"""What a figure is drawn from: portraits, test results, trainings, the rows of a study, or an audit."""


XAxis = Literal["steps", "nfe"]
"""What the axis of an accuracy shows: steps of the test solver, or evaluations of the field."""

Portrait = Mapping[str, Any]
"""The result of a portrait job."""

Audit = Mapping[str, Any]
"""The result of an audit job."""

Series = Mapping[str, Sequence[tuple[int, float | None]]]
"""Metric series of a job by name: points ``(iteration, value)``, None where a value was not finite."""


@dataclass(frozen=True)
class Training:
    """A training job as it is compared.

    Attributes:
        label: what tells it apart.
        series: its metrics.
        metadata: of the model version it made; empty while there is none.
        adaptation: what was asked for, as JSON; None without one.
    """

    label: str
    series: Series
    metadata: Mapping[str, Any]
    adaptation: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Material:
    """What was read from the database for a figure; only what its source names is filled.

    Attributes:
        portraits: results of portrait jobs.
        results: result rows, as ``GET /v1/results`` gives them.
        trainings: training jobs with their metrics.
        study: rows of a study's results.
        audit: the result of an audit job, or None.
        x: what the axis of an accuracy shows; None where it was not asked for.
    """

    portraits: Sequence[Portrait] = ()
    results: Sequence[Mapping[str, Any]] = ()
    trainings: Sequence[Training] = ()
    study: Sequence[Mapping[str, Any]] = ()
    audit: Audit | None = None
    x: XAxis | None = None


class NothingToDraw(ValueError):
    """What a figure shows is not there; the message says what is missing."""
