"""From the numbers of an audit to a verdict, and to a sentence a person understands."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ode_core.audit.statistics import is_above, is_at_most, samples_to_decide
from ode_core.specs.solver import SolverSpec

Verdict = Literal["ode", "discrete", "inconclusive", "unresolved"]

TRAINED_WITH = "the solver it was trained with"


@dataclass(frozen=True)
class Rule:
    """A simpler rule's opinion, shown beside the verdict so that a reader sees how they differ.

    Attributes:
        passed: whether the rule takes the model for an ODE.
        test_solver: the solver it tested with, or None when the rule knows none for the training solver.
        accuracy: accuracy under that solver.
        difference: absolute accuracy difference to the training solver.
        threshold: the largest difference the rule accepts.
    """

    passed: bool | None
    test_solver: SolverSpec | None
    accuracy: float | None
    difference: float | None
    threshold: float

    def to_json(self) -> dict[str, Any]:
        """Return the rule's opinion as JSON values."""
        solver = None if self.test_solver is None else self.test_solver.document()
        return asdict(self) | {"test_solver": solver}


def decide(flips: int, samples: int, epsilon: float) -> Verdict:
    """Return ``ode`` when the flip rate's interval ends at or below ``epsilon``, ``discrete`` when it begins above."""
    if is_at_most(flips, samples, epsilon):
        return "ode"
    return "discrete" if is_above(flips, samples, epsilon) else "inconclusive"


def samples_needed(verdict: Verdict, flip_rate: float, epsilon: float, *, more_than: int = 0) -> int | None:
    """Return how many samples, more than the audit had, would decide an inconclusive audit.

    None for the other verdicts, and where no number of samples would do as the flip rate is ``epsilon`` itself.
    """
    return samples_to_decide(flip_rate, epsilon, more_than=more_than) if verdict == "inconclusive" else None


def sentence(
    verdict: Verdict,
    *,
    train_solver: SolverSpec,
    train_accuracy: float,
    reference_accuracy: float,
    flip_rate: float,
    interval: tuple[float, float],
    epsilon: float,
    needed: int | None,
    reason: str,
    role: str = TRAINED_WITH,
    held_out: int | None = None,
) -> str:
    """Return the verdict in words.

    ``role`` is what the training solver is to the model, ``held_out`` how many samples there are to audit it on, where
    that is known.
    """
    limit = f"{100 * epsilon:.3g}%"
    # Two digits: an interval that ends at 1.02 % must not read as if it ended at a limit of 1 %.
    found = (
        f"Under a converged solver {flip_rate:.2%} of the predictions change "
        f"(95% interval {interval[0]:.2%} to {interval[1]:.2%}) and the accuracy goes from "
        f"{train_accuracy:.1%} with {train_solver.label} to {reference_accuracy:.1%}."
    )
    match verdict:
        case "ode":
            return (
                f"This model is an ODE: a converged solver gives the predictions of {train_solver.label}, "
                f"{role}, up to at most {limit} of them. {found}"
            )
        case "discrete":
            return (
                f"This model is not an ODE: its predictions depend on the solver, and it belongs together with "
                f"{train_solver.label}, {role}. {found}"
            )
        case "inconclusive":
            more = "no number of samples decides it" if needed is None else f"about {needed:,} samples would decide it"
            if needed is not None and held_out is not None and needed > held_out:
                more += f", and the test split has {held_out:,}"
            return (
                f"The samples do not tell whether more or less than {limit} of the predictions depend on the "
                f"solver; if the rate stays as it is, {more}. {found}"
            )
        case "unresolved":
            return f"No converged reference was found, so nothing is claimed: {reason}."
