"""How a solve ended, sample by sample, and what to do about it."""

from enum import IntEnum


class SolveStatus(IntEnum):
    """The outcome for one sample; everything but ``SUCCESS`` leaves NaN in the outputs not reached."""

    SUCCESS = 0
    MAX_STEPS_REACHED = 1
    STEP_UNDERFLOW = 2
    NON_FINITE = 3
    BUDGET_EXCEEDED = 4
    NEWTON_DIVERGED = 5

    @property
    def text(self) -> str:
        """The name as it appears in answers, for example ``step_underflow``."""
        return self.name.lower()

    @property
    def remedy(self) -> str:
        """What a user can do; empty for ``SUCCESS``."""
        return REMEDIES[self]


REMEDIES = {
    SolveStatus.SUCCESS: "",
    SolveStatus.MAX_STEPS_REACHED: "raise max_steps, or loosen rtol and atol",
    SolveStatus.STEP_UNDERFLOW: (
        "the step became smaller than the precision of t: loosen rtol and atol, compute in float64, "
        "or check the field for a singularity"
    ),
    SolveStatus.NON_FINITE: (
        "the state left the range of floating-point numbers: use more steps or tighter tolerances, "
        "or check that the field does not blow up"
    ),
    SolveStatus.BUDGET_EXCEEDED: "use fewer steps or looser tolerances, or ask for a larger budget",
    SolveStatus.NEWTON_DIVERGED: (
        "Newton's iteration found no solution of an implicit step: use more steps, or kvaerno3 with rtol and atol, "
        "which shortens such a step"
    ),
}
