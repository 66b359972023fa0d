"""The figures by name: what each shows, what it is drawn from, and how."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from api.charts.adaptation import step_adaptation, tolerance_adaptation
from api.charts.clusters import output_clusters
from api.charts.decision_regions import decision_regions
from api.charts.error_fan import error_fan
from api.charts.figure import Figure, NothingToDraw
from api.charts.gradient_comparison import Training, training_progress
from api.charts.phase_plane import Portrait
from api.charts.seed_groups import study_rows
from api.charts.study_accuracy import XAxis, accuracy_of_study
from api.charts.test_steps import accuracy_against_steps
from api.charts.trajectories import trajectories_with_crossings
from api.charts.vector_field import vector_field

Source = Literal["portrait", "results", "training", "study"]
"""What a figure is drawn from: portraits, test results, trainings, or the rows of a study."""


@dataclass(frozen=True)
class Material:
    """What was read from the database for a figure; only what its source names is filled.

    Attributes:
        portraits: results of portrait jobs.
        results: result rows, as ``GET /v1/results`` gives them.
        trainings: training jobs with their metrics.
        study: rows of a study's results.
        x: what the axis of an accuracy shows; None where it was not asked for.
    """

    portraits: Sequence[Portrait] = ()
    results: Sequence[Mapping[str, Any]] = ()
    trainings: Sequence[Training] = ()
    study: Sequence[Mapping[str, Any]] = ()
    x: XAxis | None = None


@dataclass(frozen=True)
class StoredChart:
    """A figure that is drawn from stored results.

    Attributes:
        name: in addresses.
        summary: what is seen, in a sentence.
        source: what it is drawn from.
        draw: draws it; raises ``NothingToDraw``.
        several: whether it can show several jobs side by side.
        metrics: of a training: the series it cannot do without.
        has_x: whether its axis can be chosen.
    """

    name: str
    summary: str
    source: Source
    draw: Callable[[Material], Figure]
    several: bool = False
    metrics: frozenset[str] = field(default=frozenset())
    has_x: bool = False


def charts_of(source: Source) -> list[StoredChart]:
    """Return the figures that are drawn from a source."""
    return [chart for chart in CHARTS if chart.source == source]


def find_chart(source: Source, name: str) -> StoredChart | None:
    """Return the figure of this name, or None if this source has none."""
    return next((chart for chart in charts_of(source) if chart.name == name), None)


def _accuracy_of_results(material: Material) -> Figure:
    """Draw one model version by test method; of several, a curve for each training configuration."""
    versions = {(row["model"], row["version"]) for row in material.results}
    if len(versions) > 1:
        return accuracy_of_study(study_rows(material.results), material.x)
    rows = [dict(row) | {"model": f"{row['model']} version {row['version']}"} for row in material.results]
    return accuracy_against_steps(rows, None, "Accuracy on held-out samples under other solvers", material.x)


def _accuracy_of_study(material: Material) -> Figure:
    if not material.study:
        raise NothingToDraw(
            "no model of the study has been tested yet: wait for the first; a study without a sweep tests none, submit "
            "one with a sweep"
        )
    return accuracy_of_study(material.study, material.x)


_STEP_ADAPTATION = frozenset({"steps", "adaptation_accepted"})
_TOLERANCE_ADAPTATION = frozenset({"tolerance"})


def _training_with(metrics: frozenset[str], material: Material) -> Training:
    """Return the first training with the metrics, as that of another seed may have diverged at once."""
    for training in material.trainings:
        if all(training.series.get(name) for name in metrics):
            return training
    raise NothingToDraw(f"no training has a point of {', '.join(sorted(metrics))} yet")


def _step_adaptation(material: Material) -> Figure:
    training = _training_with(_STEP_ADAPTATION, material)
    return step_adaptation(training.series, training.label, training.adaptation)


def _tolerance_adaptation(material: Material) -> Figure:
    training = _training_with(_TOLERANCE_ADAPTATION, material)
    return tolerance_adaptation(training.series, training.label)


CHARTS = (
    StoredChart(
        "accuracy",
        "accuracy against the steps or evaluations of the test solver",
        "results",
        _accuracy_of_results,
        several=True,
        has_x=True,
    ),
    StoredChart(
        "accuracy",
        "accuracy against the steps or evaluations of the test solver, for each training configuration",
        "study",
        _accuracy_of_study,
        has_x=True,
    ),
    StoredChart(
        "trajectories",
        "trajectories of samples at two step sizes and exactly, with their crossings",
        "portrait",
        lambda material: trajectories_with_crossings(material.portraits),
        several=True,
    ),
    StoredChart(
        "vector-field",
        "the field as arrows, coloured by speed",
        "portrait",
        lambda material: vector_field(material.portraits[0]),
    ),
    StoredChart(
        "error-fan",
        "Lady Windermere's fan: how the errors of single steps reach the end, and the classifier's line",
        "portrait",
        lambda material: error_fan(material.portraits[0]),
    ),
    StoredChart(
        "clusters",
        "final states of the test samples over the regions of the classifier",
        "portrait",
        lambda material: output_clusters(material.portraits[0]),
    ),
    StoredChart(
        "decision-regions",
        "predicted classes over the plane of inputs",
        "portrait",
        lambda material: decision_regions(material.portraits[0]),
    ),
    StoredChart(
        "training",
        "loss and accuracy over the iterations, and what they cost; several trainings are compared",
        "training",
        lambda material: training_progress(material.trainings),
        several=True,
        metrics=frozenset({"loss"}),
    ),
    StoredChart(
        "step-adaptation",
        "accuracy, steps and decisions of the step adaptation over the iterations",
        "training",
        _step_adaptation,
        metrics=_STEP_ADAPTATION,
    ),
    StoredChart(
        "tolerance-adaptation",
        "accuracy, tolerance and evaluations over the iterations",
        "training",
        _tolerance_adaptation,
        metrics=_TOLERANCE_ADAPTATION,
    ),
)
"""Every figure. A name may stand for figures of different sources."""
