"""The figures by name: what each shows, and what it is drawn from."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from api.charts.material import Material, Source

if TYPE_CHECKING:
    from api.charts.figure import Figure


@dataclass(frozen=True)
class StoredChart:
    """A figure that is drawn from stored results.

    Attributes:
        name: in addresses.
        summary: what is seen, in a sentence.
        source: what it is drawn from.
        several: whether it can show several jobs side by side.
        metrics: of a training: the series it cannot do without.
        has_x: whether its axis can be chosen.
    """

    name: str
    summary: str
    source: Source
    several: bool = False
    metrics: frozenset[str] = field(default=frozenset())
    has_x: bool = False

    def draw(self, material: Material) -> "Figure":
        """Return the figure.

        Raises:
            NothingToDraw: what it shows is not there.
        """
        # The drawing library is loaded with the first figure, not with every server and command.
        from api.charts.drawings import DRAWINGS  # noqa: PLC0415

        return DRAWINGS[self.source, self.name](material)


def charts_of(source: Source) -> list[StoredChart]:
    """Return the figures that are drawn from a source."""
    return [chart for chart in CHARTS if chart.source == source]


def find_chart(source: Source, name: str) -> StoredChart | None:
    """Return the figure of this name, or None if this source has none."""
    return next((chart for chart in charts_of(source) if chart.name == name), None)


STEP_ADAPTATION = frozenset({"steps", "adaptation_accepted"})
TOLERANCE_ADAPTATION = frozenset({"tolerance"})


CHARTS = (
    StoredChart(
        "accuracy",
        "accuracy against the steps or evaluations of the test solver",
        "results",
        several=True,
        has_x=True,
    ),
    StoredChart(
        "accuracy",
        "accuracy against the steps or evaluations of the test solver, for each training configuration",
        "study",
        has_x=True,
    ),
    StoredChart(
        "trajectories",
        "trajectories of samples at two step sizes and exactly, with their crossings",
        "portrait",
        several=True,
    ),
    StoredChart(
        "vector-field",
        "the field as arrows, coloured by speed",
        "portrait",
    ),
    StoredChart(
        "error-fan",
        "Lady Windermere's fan: how the errors of single steps reach the end, and the classifier's line",
        "portrait",
    ),
    StoredChart(
        "clusters",
        "final states of the test samples over the regions of the classifier",
        "portrait",
    ),
    StoredChart(
        "decision-regions",
        "predicted classes over the plane of inputs",
        "portrait",
    ),
    StoredChart(
        "solver-choice",
        "agreement of solvers against their evaluations and time, with the Pareto front and the cheapest good enough",
        "audit",
    ),
    StoredChart(
        "training",
        "loss and accuracy over the iterations, and what they cost; several trainings are compared",
        "training",
        several=True,
        metrics=frozenset({"loss"}),
    ),
    StoredChart(
        "step-adaptation",
        "accuracy, steps and decisions of the step adaptation over the iterations",
        "training",
        metrics=STEP_ADAPTATION,
    ),
    StoredChart(
        "tolerance-adaptation",
        "accuracy, tolerance and evaluations over the iterations",
        "training",
        metrics=TOLERANCE_ADAPTATION,
    ),
    StoredChart(
        "audit-ladder",
        "accuracy, and predictions unlike the converged ones, against the cost of the test solver",
        "audit",
    ),
    StoredChart(
        "crossing-map",
        "over the depth the share of steps that no flow can make",
        "audit",
    ),
    StoredChart(
        "error-transport",
        "the fan over all samples: which steps turn predictions, and how much error each sends to the end",
        "audit",
    ),
)
"""Every figure. A name may stand for figures of different sources."""
