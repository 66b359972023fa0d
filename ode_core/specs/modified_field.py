"""Which modified field: the field whose exact flow is what a coarse solver computed."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ode_core.specs.methods import DENSE_JACOBIAN
from ode_core.specs.solver import SolverSpec
from ode_core.specs.spec import Spec

# Of Newton's iteration for a stage to round-off, and of Jacobians: so many for a first step and for each after it. For
# perceptrons on 2 to 64 numbers with 8 steps this is 0.7 to 1.4 times what was counted; long steps take up to 4 times.
ITERATIONS, FIRST_JACOBIANS, FURTHER_JACOBIANS = 5, 2.5, 1.0

ModifiedFieldKind = Literal["series", "iterates", "local_error"]


class ModifiedFieldSpec(Spec):
    """``{"solver": {"method": "euler", "steps": 16}, "kind": "series", "terms": 3}``.

    ``series``: the first terms in powers of the step, from derivatives of the field; for Euler's method. ``iterates``:
    as many terms from differences of repeated steps, for every Runge-Kutta method and without derivatives.
    ``local_error``: the field plus the local error of a step over its length, for every Runge-Kutta method; as good as
    the first term that the method's order leaves.
    """

    solver: SolverSpec = Field(description="what the exact flow is to reproduce: a Runge-Kutta method with equal steps")
    kind: ModifiedFieldKind = "series"
    terms: Annotated[int, Field(ge=1, le=8)] | None = Field(
        default=None, description="series: 2 or 3 (default 3), the field itself counted; iterates: 1 to 8 (default 4)"
    )
    substeps: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="local_error: steps of rk4 that stand for the exact flow (default 16)"
    )

    @model_validator(mode="after")
    def _solver_makes_equal_steps(self) -> Self:
        solver = self.solver
        if solver.adaptive or solver.grid == "truncate":
            raise ValueError(
                "a modified field belongs to one step size: give a solver with equal steps. What was trained with "
                "tolerances is kept by its solver alone"
            )
        if solver.facts.family not in ("explicit", "implicit") or solver.runs_on != "odeness":
            raise ValueError(
                f"{solver.label} does not make Runge-Kutta steps of our own: there is no modified field for it"
            )
        if self.kind == "series" and solver.method != "euler":
            raise ValueError(f"the series is known for euler: for {solver.method} take kind iterates or local_error")
        return self

    @model_validator(mode="after")
    def _settings_belong_to_the_kind(self) -> Self:
        if self.terms is not None and self.kind == "local_error":
            raise ValueError("local_error has no terms: leave them out, or take kind iterates")
        if self.kind == "series" and self.terms not in (None, 2, 3):
            raise ValueError(f"the series has 2 or 3 terms, not {self.terms}: for more take kind iterates")
        if self.substeps is not None and self.kind != "local_error":
            raise ValueError("substeps belong to kind local_error: leave them out")
        return self

    @property
    def used_terms(self) -> int:
        """The number of terms, of a kind that has them."""
        return self.terms or (3 if self.kind == "series" else 4)

    @property
    def used_substeps(self) -> int:
        """The steps of rk4 that stand for the exact flow."""
        return self.substeps or 16

    def evaluations(self, state_size: int = 0) -> int:
        """Return how often one evaluation calls the model's field; in a series up to three of them with derivatives.

        With an implicit method it is a usual number. Its Jacobians, for a state of ``state_size`` numbers, or the
        products with one, are among them only where that is given.
        """
        if self.kind == "series":
            return 2 if self.used_terms == 2 else 4
        if self.kind == "iterates":
            return self._steps(self.used_terms, state_size)
        return 1 + self._steps(1, state_size) + 4 * self.used_substeps

    def _steps(self, steps: int, state_size: int) -> int:
        """Return what the solver's steps, one after another, take."""
        facts = self.solver.facts
        if facts.family == "explicit":
            return steps * facts.stages
        explicit = int(facts.first_same_as_last)
        iterated = steps * (explicit + (facts.stages - explicit) * ITERATIONS)
        if state_size > DENSE_JACOBIAN:
            return iterated + steps * DENSE_JACOBIAN
        return iterated + math.ceil((FIRST_JACOBIANS + (steps - 1) * FURTHER_JACOBIANS) * state_size)

    @property
    def label(self) -> str:
        """A short name, for example ``series-3 of euler-16``."""
        size = self.used_substeps if self.kind == "local_error" else self.used_terms
        return f"{self.kind}-{size} of {self.solver.label}"
