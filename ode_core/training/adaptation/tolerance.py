"""The paper's rule for the tolerance of an adaptive solver.

Source: Ott, Katiyar, Hennig, Tiemann: ResNet After All: Neural ODEs and Their Numerical Solution, ICLR 2021. Three
things are done otherwise than in its code, whose search for a test tolerance may not end and reads memory it never
wrote: the search is bounded; the evaluations of checks that have not been yet do not count as unchanged; and the test
solver works in float64, as a tolerance below that of the training would be lost in the rounding of float32.
"""

from typing import Any

from ode_core.specs.adaptation import TEST_TOLERANCE_DIVISORS, ToleranceAdaptation
from ode_core.specs.methods import MethodName
from ode_core.specs.solver import SolverSpec
from ode_core.training.adaptation.rule import COARSER, FINER, STAY, Action, Decision, Measured, Probe

TEST_METHOD: MethodName = "dopri5"
ROUNDING_ERRORS = 50  # below this many an error estimate is noise
FLOAT64_EPS = 2.0**-52


class ToleranceRule:
    """Halves the tolerance when the test solver disagrees, and lets it grow where a larger one agrees.

    Args:
        spec: thresholds and bounds.
        solver: the training solver, with the tolerance to begin with.
        iterations: of the whole training.
        eps: the rounding error of the type that is trained in; no tolerance is below 50 of them.
    """

    name = "tolerance"

    def __init__(self, spec: ToleranceAdaptation, solver: SolverSpec, iterations: int, eps: float) -> None:
        assert solver.rtol is not None
        self._spec, self._iterations = spec, iterations
        self._floor = ROUNDING_ERRORS * eps
        self._evaluations: list[float] = []  # of the training solver at the last checks
        self.solver = _with_tolerance(solver, max(solver.rtol, self._floor))

    def due(self, iteration: int) -> bool:
        """Return whether to check; see ``AdaptationRule``."""
        return iteration % self._spec.interval == 0 and iteration < self._iterations

    def check(self, iteration: int, probe: Probe) -> Decision:
        """Hold the training tolerance against a more accurate solver and adapt it."""
        tested, tolerance = self.solver, self._tolerance
        trained = probe.accuracy(tested)
        test, evaluations = self._test(probe, trained.evaluations)
        evaluations += trained.evaluations
        difference = abs(test.accuracy - trained.accuracy)
        accepted = difference <= self._spec.threshold
        self._evaluations = [*self._evaluations, trained.evaluations][-self._spec.plateau_checks :]
        action: Action = STAY
        if not accepted:
            smaller = max(tolerance / 2, self._floor)
            action = FINER if smaller < tolerance else STAY
            self.solver = _with_tolerance(tested, smaller)
        elif self._may_grow(iteration):
            larger = _with_tolerance(tested, min(tolerance * self._spec.growth, self._spec.max_tolerance))
            ahead = probe.accuracy(larger)
            evaluations += ahead.evaluations
            if abs(test.accuracy - ahead.accuracy) <= self._spec.threshold:
                action, self.solver = COARSER, larger
        return Decision(
            tested=tested,
            solver=self.solver,
            action=action,
            accepted=accepted,
            evaluations=evaluations,
            measures={"adaptation_difference": difference},
        )

    def state(self) -> dict[str, Any]:
        """Return the tolerance and the evaluations at the last checks."""
        return {"tolerance": self._tolerance, "evaluations": self._evaluations}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with a tolerance."""
        self.solver = _with_tolerance(self.solver, state["tolerance"])
        self._evaluations = list(state["evaluations"])

    @property
    def _tolerance(self) -> float:
        assert self.solver.rtol is not None
        return self.solver.rtol

    def _test(self, probe: Probe, training_evaluations: float) -> tuple[Measured, float]:
        """Return the test solver's accuracy, and the evaluations it took to find a solver that works harder."""
        tolerance = self._tolerance / TEST_TOLERANCE_DIVISORS[self.solver.method]
        test = probe.accuracy(_test_solver(tolerance), exact=True)
        evaluations = test.evaluations
        for _ in range(self._spec.test_divisions):
            tolerance /= 10
            if test.evaluations > training_evaluations or tolerance < ROUNDING_ERRORS * FLOAT64_EPS:
                break
            test = probe.accuracy(_test_solver(tolerance), exact=True)
            evaluations += test.evaluations
        return test, evaluations

    def _may_grow(self, iteration: int) -> bool:
        settling = iteration >= self._iterations * (1 - self._spec.settle_fraction)
        without_effect = len(self._evaluations) == self._spec.plateau_checks and len(set(self._evaluations)) == 1
        return not settling and not without_effect and self._tolerance < self._spec.max_tolerance


def _with_tolerance(solver: SolverSpec, tolerance: float) -> SolverSpec:
    return solver.model_copy(update={"rtol": tolerance, "atol": tolerance})


def _test_solver(tolerance: float) -> SolverSpec:
    return SolverSpec(method=TEST_METHOD, rtol=tolerance, atol=tolerance)
