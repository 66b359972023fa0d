"""Our own rule: the flip rate against a converged solution, with confidence, on samples that are not trained on.

The paper's rule takes the accuracy of one training batch under a test solver that is little finer than the training
solver. Both can be fooled: errors of either sign cancel in an accuracy, and a model survives twice its steps and still
breaks under a converged solver. And each check that passes makes the step larger, so that the step climbs until the
model has begun to adapt to it. Here

* the signal is that of an audit: predictions that differ from a converged reference, on an audit batch;
* to refine costs only time, to miss a collapse costs the model: the point estimate is enough to refine, and the step is
  halved until the rate is small again;
* to call weights certified, or to get coarser, takes confidence: the upper end of the exact interval. Getting coarser
  needs a much lower rate than being certified, and the coarser solver would have to be certified as well;
* in the last part of the training the solver does not get coarser, and where a check passes without a certificate it
  gets finer until the weights have one. That changes next to no prediction, as few differ from the converged ones.

One interval holds with 95 %. The rule looks at many, on the same samples, so a certificate is not an audit on data that
no decision has seen, which is what the test split is for.
"""

from collections.abc import Callable
from typing import Any

from ode_core.specs.adaptation import CertifiedAdaptation
from ode_core.specs.solver import SolverSpec
from ode_core.training.adaptation.rule import COARSER, FINER, STAY, Action, Certificate, Decision, Flips, Probe
from ode_core.training.adaptation.solver_ladder import SolverLadder

FlipsOf = Callable[[SolverSpec], Flips]


class CertifiedRule:
    """Refines on evidence, coarsens and certifies on proof.

    Args:
        spec: thresholds.
        solver: the training solver to begin with.
        ladder: where to go from a solver.
        iterations: of the whole training.
    """

    name = "certified"

    def __init__(self, spec: CertifiedAdaptation, solver: SolverSpec, ladder: SolverLadder, iterations: int) -> None:
        self.solver = solver
        self._spec, self._ladder, self._iterations = spec, ladder, iterations

    def due(self, iteration: int) -> bool:
        """Return whether to check: every interval from the beginning of the checks, and after the last iteration.

        The check after the last iteration is that iteration's; another one before it would be of its number, too.
        """
        if iteration == self._iterations:
            return True
        begun = iteration >= self._spec.begin_fraction * self._iterations
        return begun and iteration % self._spec.interval == 0 and iteration < self._iterations - 1

    def check(self, iteration: int, probe: Probe) -> Decision:
        """Compare the predictions with the converged ones; refine, coarsen or stay, and certify or not."""
        tested = self.solver
        seen: dict[SolverSpec, Flips] = {}

        def flips(solver: SolverSpec) -> Flips:
            if solver not in seen:
                seen[solver] = probe.flips(solver)
            return seen[solver]

        found = flips(tested)
        certificate = Certificate(tested, found) if self._certifies(found) else None
        action: Action = STAY
        if iteration < self._iterations * (1 - self._spec.certify_fraction):
            self.solver, action = self._adapted(tested, flips)
        elif certificate is None:
            finer = self._refined(tested, flips, self._would_certify)
            if self._passes(found) and self._certifies(flips(finer)):
                certificate = Certificate(finer, flips(finer))
            if iteration < self._iterations or certificate is not None:  # nothing is trained after the last check
                self.solver, action = finer, STAY if finer == tested else FINER
        return Decision(
            tested=tested,
            solver=self.solver,
            action=action,
            accepted=self._passes(found),
            evaluations=probe.reference_evaluations + sum(each.evaluations for each in seen.values()),
            measures={"adaptation_flip_rate": found.rate, "adaptation_flip_rate_upper": found.interval[1]},
            flips=found,
            certificate=certificate,
        )

    def state(self) -> dict[str, Any]:
        """Return the solver."""
        return {"solver": self.solver.document()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with a solver."""
        self.solver = SolverSpec.model_validate(state["solver"])

    def _passes(self, flips: Flips) -> bool:
        return flips.rate <= self._spec.epsilon

    def _certifies(self, flips: Flips) -> bool:
        return flips.show_at_most(self._spec.epsilon)

    def _would_certify(self, flips: Flips) -> bool:
        # A reference that is not settled is no fault of the training solver, and a finer one does not mend it.
        return flips.show_at_most_if_settled(self._spec.epsilon)

    def _adapted(self, tested: SolverSpec, flips: FlipsOf) -> tuple[SolverSpec, Action]:
        """Return the solver to go on with before the last part of the training."""
        found = flips(tested)
        if not self._passes(found):
            finer = self._refined(tested, flips, self._passes)
            return finer, STAY if finer == tested else FINER
        if found.show_at_most(self._spec.climb_threshold):
            coarser = self._ladder.coarser(tested)
            if coarser is not None and self._certifies(flips(coarser)):
                return coarser, COARSER
        return tested, STAY

    def _refined(self, solver: SolverSpec, flips: FlipsOf, good_enough: Callable[[Flips], bool]) -> SolverSpec:
        """Return the solver if it is good enough, else the first finer one that is, or the finest."""
        while not good_enough(flips(solver)) and (finer := self._ladder.finer(solver)) is not None:
            solver = finer
        return solver
