"""What every rule of adaptation is, what it may ask, and what it decides."""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ode_core.audit.statistics import clopper_pearson, is_at_most
from ode_core.specs.adaptation import CONFIDENCE
from ode_core.specs.solver import SolverSpec

Action = Literal[-1, 0, 1]
FINER: Action = -1
STAY: Action = 0
COARSER: Action = 1


@dataclass(frozen=True)
class Measured:
    """Accuracy on the current batch under one solver, and its evaluations of the field, mean over the samples."""

    accuracy: float
    evaluations: float


@dataclass(frozen=True)
class Flips:
    """Predictions on the audit batch that differ between a solver and the converged reference.

    Attributes:
        fewest: flips among the samples whose reference is settled.
        most: the same, with every unsettled sample counted as a flip.
        samples: size of the audit batch.
        evaluations: of the field under the solver, mean over the samples; the reference's are not in it.
    """

    fewest: int
    most: int
    samples: int
    evaluations: float

    @property
    def rate(self) -> float:
        """The share that is known to flip."""
        return self.fewest / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """The exact interval that holds whichever way the unsettled samples fall."""
        low, _ = clopper_pearson(self.fewest, self.samples, CONFIDENCE)
        _, high = clopper_pearson(self.most, self.samples, CONFIDENCE)
        return low, high

    def show_at_most(self, share: float) -> bool:
        """Return whether the interval ends at or below ``share``."""
        return is_at_most(self.most, self.samples, share, CONFIDENCE)

    def show_at_most_if_settled(self, share: float) -> bool:
        """Return whether it would if none of the unsettled samples flips."""
        return is_at_most(self.fewest, self.samples, share, CONFIDENCE)


class Probe(Protocol):
    """What a rule may ask of the model as it is now. Nothing of it changes the training, and no graph is kept."""

    def accuracy(self, solver: SolverSpec, *, exact: bool = False) -> Measured:
        """Return the accuracy on the current batch; a failed solve counts as wrong. ``exact`` computes in float64."""

    def first_step(self, order: int, max_steps: int) -> float:
        """Return the relative step to begin with; see ``adaptation.first_step``."""

    def flips(self, solver: SolverSpec) -> Flips:
        """Return the flips on the audit batch."""

    @property
    def reference_evaluations(self) -> float:
        """Evaluations of the field that the reference of ``flips`` took, mean over the samples."""


@dataclass(frozen=True)
class Certificate:
    """A solver together with which the weights may be relied on, and the flips that show it."""

    solver: SolverSpec
    flips: Flips


@dataclass(frozen=True)
class Decision:
    """The outcome of one check.

    Attributes:
        tested: the training solver that was checked.
        solver: the solver to go on with.
        action: whether it is finer (-1), the same (0) or coarser (1).
        accepted: whether the check passed.
        evaluations: evaluations of the field the check took, for one sample.
        measures: the rule's own numbers, by the name of their metric.
        flips: what a certifying rule saw under ``tested``; None with a rule that does not certify.
        certificate: of a certifying rule, where the weights earned one.
    """

    tested: SolverSpec
    solver: SolverSpec
    action: Action
    accepted: bool
    evaluations: float
    measures: dict[str, float] = field(default_factory=dict)
    flips: Flips | None = None
    certificate: Certificate | None = None


class AdaptationRule(Protocol):
    """A rule that checks the training solver now and then, and adapts it.

    Attributes:
        name: what the rule is called in a model's metadata.
        solver: the solver to train with now.
    """

    name: str
    solver: SolverSpec

    def due(self, iteration: int) -> bool:
        """Return whether to check after ``iteration`` finished iterations, from 0 to all of them."""

    def check(self, iteration: int, probe: Probe) -> Decision:
        """Check the model and adapt ``solver``."""

    def state(self) -> dict[str, Any]:
        """Return all that ``restore`` needs, as JSON values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
