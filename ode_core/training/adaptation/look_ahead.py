"""The rule of the paper's code: the step grows only where the larger one agrees, too."""

from collections.abc import Callable

from ode_core.training.adaptation.step_rule import StepRule


class LookAheadRule(StepRule):
    """Grows the step when the larger one agrees with the test solver of the present one."""

    name = "look_ahead"

    def larger_step_agrees(self, larger: float, difference_at: Callable[[float], float]) -> bool:
        """Return whether the larger step's accuracy is within the threshold of the test solver's."""
        return difference_at(larger) <= self._spec.threshold
