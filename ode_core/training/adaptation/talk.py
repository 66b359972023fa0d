"""The rule of the talk: every check that passes makes the step larger."""

from collections.abc import Callable

from ode_core.training.adaptation.step_rule import StepRule


class TalkRule(StepRule):
    """Grows the step whenever the present one agrees with the test solver.

    One halving undoes seven growths of a tenth (``1.1^7.3 = 2``), so the step climbs until the model begins to adapt
    to it, is halved, and climbs again.
    """

    name = "talk"

    def larger_step_agrees(self, larger: float, difference_at: Callable[[float], float]) -> bool:
        """Return True."""
        return True
