"""A solver: a method together with its step rule."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ode_core.specs.methods import METHODS, MethodFacts, MethodName
from ode_core.specs.spec import Spec

MAX_FIXED_STEPS = 100_000
DEFAULT_MAX_STEPS = 10_000

ControllerName = Literal["i", "pi", "pid"]
Steps = Annotated[int, Field(ge=1, le=MAX_FIXED_STEPS)]
Tolerance = Annotated[float, Field(gt=0, le=1)]


class SolverSpec(Spec):
    """``{"method", "steps"}``, ``{"method", "step_size"}`` or ``{"method", "rtol", "atol"}``.

    A fixed grid carries an integer number of steps over the whole interval. A ``step_size`` is
    turned into one: the nearest integer within 1e-9 relative, else the next larger.
    """

    method: MethodName
    steps: Steps | None = None
    step_size: Annotated[float, Field(gt=0)] | None = None
    rtol: Tolerance | None = None
    atol: Tolerance | None = None
    max_steps: Annotated[int, Field(ge=1, le=MAX_FIXED_STEPS)] | None = Field(
        default=None,
        description=f"adaptive: accepted plus rejected steps a sample may take (default {DEFAULT_MAX_STEPS})",
    )
    controller: ControllerName | None = Field(
        default=None, description="adaptive: how the next step follows from the errors (default i)"
    )

    @model_validator(mode="after")
    def _exactly_one_step_rule(self) -> Self:
        fixed = [name for name in ("steps", "step_size") if getattr(self, name) is not None]
        tolerances = [name for name in ("rtol", "atol") if getattr(self, name) is not None]
        if len(fixed) == 2:
            raise ValueError("give either steps or step_size, not both")
        if fixed and (tolerances or self.max_steps is not None or self.controller is not None):
            raise ValueError(f"{fixed[0]} makes a fixed grid; leave out rtol, atol, max_steps and controller")
        if not fixed and not self.facts.adaptive:
            adaptive = ", ".join(name for name, facts in METHODS.items() if facts.adaptive)
            raise ValueError(
                f"{self.method} has no error estimate: give steps (for example 16), "
                f"or choose an adaptive method ({adaptive})"
            )
        if not fixed and len(tolerances) != 2:
            raise ValueError(f"{self.method} needs steps, or both rtol and atol (for example 1e-5)")
        return self

    @property
    def facts(self) -> MethodFacts:
        """The method's order, stages and so on."""
        return METHODS[self.method]

    @property
    def adaptive(self) -> bool:
        """Whether the step size follows an error estimate."""
        return self.rtol is not None

    def fixed_steps(self, t0: float = 0.0, t1: float = 1.0) -> int:
        """Return the integer number of steps on ``[t0, t1]``; only for a fixed grid."""
        if self.steps is not None:
            return self.steps
        if self.step_size is None:
            raise ValueError(f"{self.label} chooses its steps itself")
        exact = abs(t1 - t0) / self.step_size
        if exact > MAX_FIXED_STEPS * (1 + 1e-9):  # also for infinity, which has no nearest integer
            raise ValueError(
                f"step_size {self.step_size:g} makes {exact:.3g} steps on [{t0:g}, {t1:g}]; "
                f"the limit is {MAX_FIXED_STEPS}: use a larger step_size"
            )
        nearest = round(exact)
        divides = nearest >= 1 and abs(exact - nearest) <= 1e-9 * nearest
        return nearest if divides else max(1, math.ceil(exact))

    def with_steps(self, steps: int) -> "SolverSpec":
        """Return the same method on a grid of ``steps`` steps."""
        return SolverSpec(method=self.method, steps=steps)

    @property
    def label(self) -> str:
        """A short name for tables and plots, for example ``euler-2`` or ``dopri5 rtol=1e-05``."""
        if self.steps is not None:
            return f"{self.method}-{self.steps}"
        if self.step_size is not None:
            return f"{self.method} h={self.step_size:g}"
        controller = "" if self.controller in (None, "i") else f" {self.controller}"
        return f"{self.method} rtol={self.rtol:g} atol={self.atol:g}{controller}"
