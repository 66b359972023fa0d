"""What a caller asks of a model and what it gets, whatever the protocol. Without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from api.identifiers import VersionReference
from ode_core.audit.solver_choice import DEFAULT_AGREEMENT, DEFAULT_BY, DEFAULT_EVIDENCE, ChosenSolver
from ode_core.specs import By, Evidence, Otherwise, SolverSpec
from ode_core.specs.solver import Precision

if TYPE_CHECKING:
    from api.inference.served_version import ServedVersion
    from ode_core.solvers.status import SolveStatus
    from store.models import ModelVersion

LONGEST_SECONDS = 60.0
MOST_TIMES = 1000
NO_LABEL = -1  # of an input whose solve failed

Explanation = Mapping[str, Any]
"""What a picture of predictions is drawn from, as ``ode_core.audit.explanation`` describes it."""


@dataclass(frozen=True)
class AutoSolver:
    """Ask for the cheapest solver whose audited agreement is high enough.

    Attributes:
        agreement: on which share of the audited samples it has to agree.
        evidence: what has to reach that.
        by: what is to be the least.
        otherwise: what to do where no audit has compared solvers, or none is good enough.
    """

    agreement: float = DEFAULT_AGREEMENT
    evidence: Evidence = DEFAULT_EVIDENCE
    by: By = DEFAULT_BY
    otherwise: Otherwise = "refuse"


class AskedInputs(Protocol):
    """Inputs as a protocol received them, to be checked once the model is known."""

    def checked(self, input_shape: tuple[int, ...], *, max_rows: int, precision: Precision) -> NDArray[Any]:
        """Return ``(n, *input_shape)`` in ``precision``; raise ``Problem`` where they are not that."""
        ...


@dataclass
class FoundVersion:
    """Which version a call turned out to mean, for whoever counts the calls that fail; None: it has not been found."""

    version: "ModelVersion | None" = None


@dataclass(frozen=True)
class PredictionCall:
    """A request for predictions.

    Attributes:
        model: the model's name.
        version: which of its versions.
        inputs: what to predict for.
        solver: the one to use; None: the version's own.
        certify: whether to say of each prediction how sure it is of its solver.
        times: at which the states are wanted, ascending within the model's interval.
        seconds: how long the caller waits for the computation, at most.
        found: filled in once the version is looked up.
    """

    model: str
    version: VersionReference
    inputs: AskedInputs
    solver: SolverSpec | AutoSolver | None = None
    certify: bool = False
    times: tuple[float, ...] = ()
    seconds: float = LONGEST_SECONDS
    found: FoundVersion = field(default_factory=FoundVersion, compare=False)


@dataclass(frozen=True)
class Certificate:
    """What more steps say of each of ``n`` predictions.

    Attributes:
        solver: the finer one: twice the steps, or a tolerance of a tenth.
        labels: ``(n,)``, what it predicts; -1 where its solve failed.
        statuses: how its solves ended.
        logit_error: ``(n,)``, the largest error of a logit, estimated from the difference; NaN where a solve failed.
        margin: ``(n,)``, by how much the largest logit leads; NaN where the solve failed.
        evaluations: ``(n,)``, what the finer solve took.
    """

    solver: SolverSpec
    labels: NDArray[np.int64]
    statuses: "Sequence[SolveStatus]"
    logit_error: NDArray[np.float64]
    margin: NDArray[np.float64]
    evaluations: NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """What was computed for ``n`` inputs.

    Attributes:
        labels: ``(n,)``, the most likely classes; meaningless where the status is not success.
        probabilities: ``(n, classes)``.
        logits: ``(n, classes)``.
        statuses: how each solve ended.
        evaluations: ``(n,)``, of the trained field.
        accepted: ``(n,)`` steps.
        rejected: ``(n,)`` steps.
        trajectory: ``(n, times, *state)``, where states were asked for.
        certificate: where it was asked for.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    logits: NDArray[np.float64]
    statuses: "Sequence[SolveStatus]"
    evaluations: NDArray[np.int64]
    accepted: NDArray[np.int64]
    rejected: NDArray[np.int64]
    trajectory: NDArray[np.float64] | None = None
    certificate: Certificate | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Whose solve failed, ``(n,)``."""
        return np.array([bool(status) for status in self.statuses])

    @property
    def failures(self) -> int:
        """How many solves failed."""
        return sum(map(bool, self.statuses))

    def rows(self, first: int, end: int) -> "Outcome":
        """Return what was computed for some of the inputs."""
        part = slice(first, end)
        certificate = self.certificate
        return Outcome(
            self.labels[part],
            self.probabilities[part],
            self.logits[part],
            self.statuses[part],
            self.evaluations[part],
            self.accepted[part],
            self.rejected[part],
            None if self.trajectory is None else self.trajectory[part],
            None
            if certificate is None
            else Certificate(
                certificate.solver,
                certificate.labels[part],
                certificate.statuses[part],
                certificate.logit_error[part],
                certificate.margin[part],
                certificate.evaluations[part],
            ),
        )


def mean_count(counts: NDArray[np.int64]) -> float:
    """Return the mean; an integer where it is one."""
    if len(counts) == 1:
        return int(counts[0])
    total, count = int(counts.sum()), len(counts)
    return total // count if total % count == 0 else total / count


@dataclass(eq=False)
class Execution:
    """One batch, which the predictions computed in it have in common.

    Attributes:
        rows: of the batch.
        seconds: that it took.
        counted: whether it has been counted, which is done with the first of its predictions.
    """

    rows: int
    seconds: float
    counted: bool = False


@dataclass(frozen=True)
class Prediction:
    """The answer to a call.

    Attributes:
        served: the version that gave it.
        solver: the one used.
        choice: why that one, where it was to be chosen.
        outcome: what was computed.
        execution: the batch it was computed in.
        waited_seconds: from its arrival until its computation began.
    """

    served: "ServedVersion"
    solver: SolverSpec
    choice: ChosenSolver | None
    outcome: Outcome
    execution: Execution
    waited_seconds: float
