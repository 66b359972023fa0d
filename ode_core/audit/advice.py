"""What a verdict leaves to do, in words that its result and its page share."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it loads SciPy, which a page made of a stored result has no use for
    from ode_core.audit.verdict import Verdict


def advice(
    verdict: "Verdict", *, solver: str, epsilon: float, needed: int | None, held_out: int | None = None
) -> str | None:
    """Return what to do, in a sentence or two; None for ``discrete``, where it follows from the repairs.

    Args:
        verdict: of the audit.
        solver: label of the solver that was audited.
        epsilon: of the audit.
        needed: how many samples would decide an ``inconclusive`` audit; None: no number would.
        held_out: how many samples there are to audit it on, where that is known.
    """
    match verdict:
        case "ode":
            return (
                f"Use it with any solver that is at least as accurate as {solver}: at most {100 * epsilon:.4g} % of "
                "the predictions depend on the choice. There is nothing to repair."
            )
        case "inconclusive":
            return (
                f"{_what_decides(needed, held_out)} Until then predict with {solver}, or with a cheaper solver that "
                "agrees both with it and with the converged solution, if the choice of solvers names one."
            )
        case "unresolved":
            return (
                f"Predict with {solver} alone. Look at the field: where it is stiff, or leaves every bound, no "
                "accurate solution exists to compare with; training with weight decay or a finer solver can help."
            )
        case "discrete":
            return None


def _what_decides(needed: int | None, held_out: int | None) -> str:
    if needed is None:
        return "No number of samples would decide it, as the rate is the limit itself: choose another epsilon."
    if held_out is None or needed <= held_out:
        return f"Audit it on about {needed:,} samples, or with a larger epsilon."
    return (
        f"Audit it with a larger epsilon, or on about {needed:,} samples: the test split has {held_out:,}, so upload "
        "the weights as a model of a data set with more."
    )
