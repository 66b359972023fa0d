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
* in the last part of the training the solver does not get coarser: there the weights settle on it.

One interval holds with 95 %. The rule looks at many, on the same samples, so a certificate is not an audit on data that
no decision has seen, which is what the test split is for.
"""

from collections.abc import Callable
from typing import Any

from ode_core.specs.adaptation import CertifiedAdaptation
from ode_core.specs.solver import SolverSpec
from ode_core.training.adaptation.rule import COARSER, FINER, STAY, Action, Decision, Flips, Probe
from ode_core.training.adaptation.solver_ladder import SolverLadder


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
        """Return whether to check: every interval, and after the last iteration.

        The check after the last iteration is that iteration's; another one before it would be of its number, too.
        """
        at_end = iteration == self._iterations
        return at_end or (iteration % self._spec.interval == 0 and iteration < self._iterations - 1)

    def check(self, iteration: int, probe: Probe) -> Decision:
        """Compare the predictions with the converged ones; refine, coarsen or stay, and certify or not."""
        tested = self.solver
        seen: dict[SolverSpec, Flips] = {}

        def flips(solver: SolverSpec) -> Flips:
            if solver not in seen:
                seen[solver] = probe.flips(solver)
            return seen[solver]

        found = flips(tested)
        accepted = found.rate <= self._spec.epsilon
        upper = found.interval[1]
        action: Action = STAY
        if iteration < self._iterations:  # nothing is trained after the last check
            if not accepted:
                self.solver = self._refined(flips)
                action = STAY if self.solver == tested else FINER
            elif upper <= self._spec.climb_threshold and not self._only_certifies(iteration):
                coarser = self._ladder.coarser(tested)
                if coarser is not None and self._certifies(flips(coarser)):
                    self.solver, action = coarser, COARSER
        return Decision(
            tested=tested,
            solver=self.solver,
            action=action,
            accepted=accepted,
            evaluations=probe.reference_evaluations + sum(each.evaluations for each in seen.values()),
            measures={"adaptation_flip_rate": found.rate, "adaptation_flip_rate_upper": upper},
            flips=found,
            certified=self._certifies(found),
        )

    def state(self) -> dict[str, Any]:
        """Return the solver."""
        return {"solver": self.solver.model_dump(mode="json", exclude_none=True)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with a solver."""
        self.solver = SolverSpec.model_validate(state["solver"])

    def _certifies(self, flips: Flips) -> bool:
        return flips.interval[1] <= self._spec.epsilon

    def _only_certifies(self, iteration: int) -> bool:
        return iteration >= self._iterations * (1 - self._spec.certify_fraction)

    def _refined(self, flips: Callable[[SolverSpec], Flips]) -> SolverSpec:
        """Return the first finer solver that is not rejected, or the finest."""
        refined = self.solver
        while (finer := self._ladder.finer(refined)) is not None:
            refined = finer
            if flips(refined).rate <= self._spec.epsilon:
                break
        return refined
