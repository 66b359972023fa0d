"""What a preset's studies and jobs have found: plain values, as the server gave them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from api.client import Study
from ode_core.specs import SolverSpec

Row = dict[str, Any]


@dataclass(frozen=True)
class TrainedSeed:
    """One trained model.

    Attributes:
        label: of its training configuration.
        seed: that it was trained with.
        model: its name.
        version: its version.
        solver: what it was trained with at the end.
        facts: what else the training reported: ``test_accuracy``, ``mean_training_evaluations`` and so on.
    """

    label: str
    seed: int
    model: str
    version: int
    solver: dict[str, Any]
    facts: dict[str, Any]


@dataclass(frozen=True)
class FailedSeed:
    """A seed of a configuration that left no model."""

    label: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Configuration:
    """One training configuration of a study with all its seeds.

    Attributes:
        label: unique in its study.
        training: data set, solver, adaptation and gradient of its training.
        seeds: the trained models, by seed.
        failed: seeds without a model.
        rows: the test results of all its models.
    """

    label: str
    training: dict[str, Any]
    seeds: tuple[TrainedSeed, ...]
    failed: tuple[FailedSeed, ...]
    rows: tuple[Row, ...]

    def rows_of(self, seed: int) -> Iterator[Row]:
        """Yield the test results of one seed's model."""
        return (row for row in self.rows if row["seed"] == seed)

    def tested_with(self, seed: int, solver: dict[str, Any]) -> Row | None:
        """Return the result of one seed's model under a solver, or None."""
        return next((row for row in self.rows_of(seed) if row["test_solver"] == solver), None)

    def under_own_solver(self, seed: int) -> Row | None:
        """Return the result under the solver the model was trained with at the end, or None if it was not tested."""
        return next((row for row in self.rows_of(seed) if row["test_solver"] == row["train_solver"]), None)


@dataclass(frozen=True)
class StudyFindings:
    """A study that has ended."""

    study: Study
    configurations: tuple[Configuration, ...]

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.study["name"])

    @property
    def failed(self) -> list[FailedSeed]:
        """Every seed without a model."""
        return [one for configuration in self.configurations for one in configuration.failed]


@dataclass(frozen=True)
class JobFindings:
    """A follow-up job on one trained model: an audit or a portrait."""

    job: dict[str, Any]
    label: str
    seed: int
    result: dict[str, Any]


@dataclass(frozen=True)
class Findings:
    """All of a preset's run."""

    studies: tuple[StudyFindings, ...]
    jobs: tuple[JobFindings, ...] = ()

    @property
    def failed(self) -> list[FailedSeed]:
        """Every seed without a model."""
        return [one for study in self.studies for one in study.failed]


def solver_label(solver: dict[str, Any]) -> str:
    """Return a solver's short name for a table."""
    return SolverSpec.model_validate(solver).label


def finest_of(configurations: Sequence[Configuration]) -> dict[str, Any] | None:
    """Return the test solver closest to the exact flow: rk4 with the most steps; None without one."""
    tested = (row["test_solver"] for configuration in configurations for row in configuration.rows)
    steps = [solver["steps"] for solver in tested if solver["method"] == "rk4" and "steps" in solver]
    return {"method": "rk4", "steps": max(steps)} if steps else None
