"""Crossing steps or the sum of small errors: the interventions' shares as one word, and as a sentence."""

from typing import Literal

from ode_core.audit.interventions import InterventionalSplit

Cause = Literal["crossing", "accumulation", "either", "together", "unknown"]

# Of the predictions that a converged solver changes; from here a cause counts as one.
SHARE = 0.5


def cause(split: InterventionalSplit) -> Cause:
    """Return what the changed predictions come from.

    ``either``: each intervention alone changes half as many or more; ``together``: neither does; ``unknown``: too few
    predictions change. By flips, as accuracies saturate at chance.
    """
    shares = split.by_flips
    if shares.crossing is None or shares.accumulation is None:
        return "unknown"
    match shares.crossing >= SHARE, shares.accumulation >= SHARE:
        case True, False:
            return "crossing"
        case False, True:
            return "accumulation"
        case True, True:
            return "either"
        case _:
            return "together"


def cause_in_words(split: InterventionalSplit, flagged_share: float, undecided_share: float = 0.0) -> str:
    """Return the cause as a sentence with the shares, and one on the steps of which too little is known.

    Args:
        split: the interventions.
        flagged_share: share of the steps that no flow can make.
        undecided_share: share of the steps of which that is not known.
    """
    words = _known_cause(split, flagged_share)
    if not undecided_share:
        return words
    return (
        f"{words} Of {_percent(undecided_share)} of the steps it is not known whether a flow can make them; they were "
        "taken for such as one can."
    )


def _known_cause(split: InterventionalSplit, flagged_share: float) -> str:
    found, shares = cause(split), split.by_flips
    if split.reference.flip_rate == 0:
        return f"None of the {split.samples:,} predictions looked at changes, so there is no cause to look for."
    if shares.crossing is None or shares.accumulation is None:
        return f"The cause is not known: {shares.reason}."
    if flagged_share == 0:
        return (
            "Errors accumulate: no step was found that a flow could not make, so what changes the predictions is the "
            "sum of small errors along the way."
        )
    evidence = (
        f"{_percent(flagged_share)} of the steps are such as no flow can make; replacing these by the exact flow "
        f"changes {_percent(shares.crossing)} as many predictions as a converged solver does, replacing the others "
        f"{_percent(shares.accumulation)}."
    )
    match found:
        case "crossing":
            return f"Trajectories cross: {evidence}"
        case "accumulation":
            return f"Errors accumulate: {evidence}"
        case "either":
            return f"Trajectories cross and errors accumulate, and either changes the predictions: {evidence}"
        case _:
            return (
                f"Trajectories cross and errors accumulate, and only together they change the predictions: {evidence}"
            )


def _percent(share: float) -> str:
    return f"{share:.1%}"
