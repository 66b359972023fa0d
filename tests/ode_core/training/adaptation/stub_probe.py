"""A model in training that answers by hand."""

from ode_core.specs import SolverSpec
from ode_core.training.adaptation.rule import Flips, Measured


class StubProbe:
    """Answers nothing; a test overrides what its rule may ask."""

    estimated_step: float | None = None
    reference_evaluations: float = 0.0

    def accuracy(self, solver: SolverSpec, *, exact: bool = False) -> Measured:
        raise AssertionError(f"this rule asks for no accuracy, but did for {solver.label}")

    def first_step(self, order: int, max_steps: int) -> float:
        assert self.estimated_step is not None, "this rule has a step already"
        return self.estimated_step

    def flips(self, solver: SolverSpec) -> Flips:
        raise AssertionError(f"this rule asks for no flips, but did for {solver.label}")
