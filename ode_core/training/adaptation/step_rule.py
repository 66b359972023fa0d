"""What the paper's two rules for the step size share.

Source: Ott, Katiyar, Hennig, Tiemann: ResNet After All: Neural ODEs and Their Numerical Solution, ICLR
2021, and the talk of 2022. Steps are relative to the length of the interval: 1 is a single step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from ode_core.solvers.more_accurate_solver import more_accurate_solver, steps_for
from ode_core.specs.adaptation import StepAdaptation
from ode_core.specs.solver import SolverSpec
from ode_core.training.adaptation.first_step import FIRST_STEP_EVALUATIONS
from ode_core.training.adaptation.rule import COARSER, FINER, STAY, Action, Decision, Measured, Probe


class StepRule(ABC):
    """Halves the step when the test solver disagrees; when it grows is the subclass's to say.

    The first step is an estimate on the first batch; of the solver given only the method counts.
    """

    name: str

    def __init__(self, spec: StepAdaptation, solver: SolverSpec, iterations: int) -> None:
        self.solver = solver
        self._spec, self._iterations = spec, iterations
        self._step: float | None = None  # before the first check

    @abstractmethod
    def larger_step_agrees(self, larger: float, difference_at: Callable[[float], float]) -> bool:
        """Return whether the step may grow to ``larger``, after a check that passed.

        Args:
            larger: the step it would grow to.
            difference_at: the difference of the accuracies of a step and of the test solver.
        """

    def due(self, iteration: int) -> bool:
        """Return whether to check; see ``AdaptationRule``."""
        return iteration % self._spec.interval == 0 and iteration < self._iterations

    def check(self, iteration: int, probe: Probe) -> Decision:
        """Hold the training step against a more accurate solver and adapt it."""
        evaluations = 0.0
        if self._step is None:
            self._use(probe.first_step(self.solver.facts.order, self._spec.max_steps))
            evaluations += FIRST_STEP_EVALUATIONS
        assert self._step is not None
        tested = self.solver
        measured = _EachOnce(probe)
        method, steps = more_accurate_solver(tested.method, self._step)
        test_accuracy = measured.accuracy(SolverSpec(method=method, steps=steps))

        def difference_at(step: float) -> float:
            return abs(test_accuracy - measured.accuracy(tested.with_steps(steps_for(step))))

        difference = difference_at(self._step)
        accepted = difference <= self._spec.threshold
        settling = iteration >= self._iterations * (1 - self._spec.settle_fraction)
        next_step = self._step
        if not accepted:
            next_step = self._smaller(self._step)
        elif not settling:
            larger = min(self._step * self._spec.growth, 1.0)
            if self.larger_step_agrees(larger, difference_at):
                next_step = larger
        action = _direction(self._step, next_step)
        self._use(next_step)
        return Decision(
            tested=tested,
            solver=self.solver,
            action=action,
            accepted=accepted,
            evaluations=evaluations + measured.evaluations,
            measures={"adaptation_difference": difference},
        )

    def state(self) -> dict[str, Any]:
        """Return the step."""
        return {"step": self._step}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with a step."""
        if state["step"] is not None:
            self._use(state["step"])

    def _smaller(self, step: float) -> float:
        steps, most = 1 / step, self._spec.max_steps
        smaller = step / 2
        if self._spec.ceiling == "average" and 2 * steps > most:
            smaller = min(2 / (steps + most), step)
        return max(smaller, 1 / most)

    def _use(self, step: float) -> None:
        self._step = step
        self.solver = self.solver.with_steps(steps_for(step))


class _EachOnce:
    """Measures accuracies, each solver's once: a slightly larger step often makes the same number of steps."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._known: dict[SolverSpec, Measured] = {}

    def accuracy(self, solver: SolverSpec) -> float:
        if solver not in self._known:
            self._known[solver] = self._probe.accuracy(solver)
        return self._known[solver].accuracy

    @property
    def evaluations(self) -> float:
        return sum(measured.evaluations for measured in self._known.values())


def _direction(step: float, next_step: float) -> Action:
    if next_step == step:
        return STAY
    return FINER if next_step < step else COARSER
