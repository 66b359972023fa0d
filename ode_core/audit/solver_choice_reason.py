"""Why a solver was chosen to serve a model with, or none was, in words."""

import math
from typing import TYPE_CHECKING

from ode_core.audit.shown_agreement import samples_that_show, samples_without_disagreement
from ode_core.specs.audited_agreement import By, Evidence

if TYPE_CHECKING:
    from ode_core.audit.solver_choice import AgreementWith, Candidate, SolverChoice

_WITH: "dict[AgreementWith, str]" = {
    "reference": "the converged solution",
    "reference_and_training": "both the converged solution and the solver of the training",
    "training": "the solver of the training",
}


def why(choice: "SolverChoice", chosen: "Candidate", agreement: float, evidence: Evidence, by: By) -> str:
    """Return why a solver was chosen among those that agree well enough."""
    sure = " with 95% confidence" if evidence == "lower_bound" else ""
    more = f"; {_what_shows(choice, chosen, agreement)}" if chosen.interval[0] < agreement else ""
    least = "the least time" if by == "time" and chosen.seconds is not None else "the fewest evaluations"
    return (
        f"Of the {len(choice.eligible)} solvers tried {chosen.solver.label} takes {least} among those that agree with "
        f"{_WITH[choice.agreement_with]} on {_share(agreement)}{sure}: {_cost(chosen)}. It agrees on "
        f"{_counted(choice, chosen)}{more}."
    )


def why_the_training_solver(choice: "SolverChoice", chosen: "Candidate") -> str:
    """Return why none but the training solver may be chosen."""
    because = {
        "discrete": "The model is not an ODE: its predictions are those of this solver's steps, and no other is "
        "right for it.",
        "unresolved": "No converged reference was found, so that no other solver is known to be right.",
    }[choice.verdict]
    failed = f" On {chosen.failures:,} of {choice.samples:,} samples its solve fails." if chosen.failures else ""
    return f"{chosen.solver.label}, the solver of the training, whatever agreement is asked. {because}{failed}"


def why_none(choice: "SolverChoice", closest: "Candidate", agreement: float, evidence: Evidence) -> str:
    """Return why no solver was chosen, which comes closest, and what to do."""
    said = (
        f"None of the {len(choice.eligible)} solvers tried agrees with {_WITH[choice.agreement_with]} on "
        f"{_share(agreement)}"
    )
    found = f"{closest.solver.label} with {_cost(closest)} comes closest, on {_counted(choice, closest)}"
    if evidence == "estimate":
        return f"{said}. {found}. Ask for less, or predict with {choice.train_solver.label}, as trained."
    return (
        f"{said} with 95% confidence. {found}; {_what_shows(choice, closest, agreement)}. Ask for less, audit more "
        f"samples where they can show it, or take the estimate as evidence."
    )


def _counted(choice: "SolverChoice", candidate: "Candidate") -> str:
    return (
        f"{candidate.agreeing:,} of {choice.samples:,}, which shows at least "
        f"{_percent(candidate.interval[0], down=True)} with 95% confidence"
    )


def _what_shows(choice: "SolverChoice", candidate: "Candidate", agreement: float) -> str:
    """Return how many samples show an agreement that the audited ones do not."""
    asked, disagreeing = _percent(agreement), choice.samples - candidate.agreeing
    if agreement == 1:
        return f"no number of samples shows {asked}"
    if disagreeing == 0:
        return f"to show {asked} takes {samples_without_disagreement(agreement):,} samples without a disagreement"
    more = samples_that_show(agreement, disagreeing, choice.samples)
    shows = "no number of samples shows" if more is None else f"about {more:,} samples show"
    return f"if that share stays as it is, {shows} {asked}"


def _cost(candidate: "Candidate") -> str:
    evaluations = f"{candidate.nfe:,.4g} {'evaluation' if candidate.nfe == 1 else 'evaluations'}"
    return evaluations if candidate.seconds is None else f"{evaluations} and {_time(candidate.seconds)} a sample"


def _time(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} us"


def _share(agreement: float) -> str:
    return "all samples" if agreement == 1 else f"at least {_percent(agreement)} of the samples"


def _percent(share: float, *, down: bool = False) -> str:
    """Return a share in words; ``down``: rounded so that it is not more than it is."""
    percent = 100 * share
    return f"{math.floor(percent * 100) / 100:.2f}%" if down else f"{round(percent, 8):.8g}%"
