"""A solver: a method together with its step rule."""

import math
import struct
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ode_core.specs.methods import METHODS, Backend, MethodFacts, MethodName
from ode_core.specs.solver_text import refuse_label, refuse_text
from ode_core.specs.spec import Spec
from ode_core.specs.torchdiffeq_methods import ADAMS_ORDERS, DEFAULT_ADAMS_ORDER, TORCHDIFFEQ_METHODS

MAX_FIXED_STEPS = 100_000
DEFAULT_MAX_STEPS = 10_000

ControllerName = Literal["i", "pi", "pid"]
Steps = Annotated[int, Field(ge=1, le=MAX_FIXED_STEPS)]
Tolerance = Annotated[float, Field(gt=0, le=1)]
Precision = Literal["float32", "float64"]


class SolverSpec(Spec):
    """``{"method", "steps"}``, ``{"method", "step_size"}`` or ``{"method", "rtol", "atol"}``.

    A fixed grid carries an integer number of steps over the whole interval. A ``step_size`` is
    turned into one: the nearest integer within 1e-9 relative, else the next larger.

    ``grid="truncate"`` instead takes the step as it is and cuts the last one short, exactly as torchdiffeq
    does for its option ``step_size``, with the steps of a rounding error that it makes for some sizes.
    """

    method: MethodName
    steps: Steps | None = None
    step_size: Annotated[float, Field(gt=0)] | None = None
    grid: Literal["uniform", "truncate"] | None = Field(
        default=None,
        description="with step_size: equal steps that are at most as long (uniform, the default), or steps of that "
        "size of which the last is cut short, as torchdiffeq makes them (truncate)",
    )
    rtol: Tolerance | None = None
    atol: Tolerance | None = None
    max_steps: Annotated[int, Field(ge=1, le=MAX_FIXED_STEPS)] | None = Field(
        default=None,
        description=f"adaptive: accepted plus rejected steps a sample may take (default {DEFAULT_MAX_STEPS})",
    )
    controller: ControllerName | None = Field(
        default=None, description="adaptive: how the next step follows from the errors (default i)"
    )
    backend: Backend | None = Field(default=None, description="what runs the method; default the method's first")
    max_order: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None,
        description="Adams methods: the order once there is history for it, 3 or 4 for explicit_adams, 4 or 5 for "
        "implicit_adams (default 4)",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_text(cls, solver: Any) -> Any:
        return refuse_text(solver)

    @field_validator("method", mode="before")
    @classmethod
    def _no_label(cls, method: Any) -> Any:
        return refuse_label(method)

    @model_validator(mode="after")
    def _exactly_one_step_rule(self) -> Self:
        fixed = [name for name in ("steps", "step_size") if getattr(self, name) is not None]
        tolerances = [name for name in ("rtol", "atol") if getattr(self, name) is not None]
        if len(fixed) == 2:
            raise ValueError("give either steps or step_size, not both")
        if self.grid is not None and self.step_size is None:
            raise ValueError("grid says what becomes of a step_size: give step_size, or leave grid out")
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

    @model_validator(mode="after")
    def _backend_can_run_it(self) -> Self:
        if self.backend is not None and self.backend not in self.facts.backends:
            raise ValueError(f"{self.backend} does not run {self.method}: leave backend out")
        if self.runs_on == "torchdiffeq" and TORCHDIFFEQ_METHODS[self.method].adaptive and not self.adaptive:
            raise ValueError(
                f"torchdiffeq runs {self.method} with tolerances only: give rtol and atol, or leave backend out"
            )
        if self.runs_on == "torchdiffeq" and self.controller not in (None, "i"):
            raise ValueError("torchdiffeq has the controller i only: leave controller out, or backend")
        return self

    @model_validator(mode="after")
    def _adams_method_has_its_order_and_equal_steps(self) -> Self:
        if self.method != "explicit_adams" and self.method != "implicit_adams":
            if self.max_order is not None:
                raise ValueError(f"max_order belongs to the Adams methods ({', '.join(ADAMS_ORDERS)}): leave it out")
            return self
        orders = ADAMS_ORDERS[self.method]
        if self.max_order is not None and self.max_order not in orders:
            raise ValueError(f"{self.method} has order {' or '.join(map(str, orders))}: choose max_order accordingly")
        if self.grid == "truncate":
            raise ValueError(f"{self.method} needs equal steps, and truncate makes a short one: use the uniform grid")
        return self

    @model_validator(mode="after")
    def _implicit_and_reversible_methods_have_equal_steps(self) -> Self:
        if self.facts.family in ("implicit", "reversible") and self.grid == "truncate":
            raise ValueError(f"{self.method} takes equal steps, and truncate makes a short one: use the uniform grid")
        return self

    @model_validator(mode="after")
    def _a_default_that_is_given_is_as_one_left_out(self) -> Self:
        # Last, so that a setting is refused where it does not apply, even with the value of its default. Two ways to
        # write a solver would otherwise be two solvers: unequal, and with results of their own.
        defaults = {
            "grid": "uniform",
            "controller": "i",
            "backend": self.facts.backends[0],
            "max_order": DEFAULT_ADAMS_ORDER,
        }
        for name, default in defaults.items():
            if getattr(self, name) == default:
                object.__setattr__(self, name, None)
        return self

    @property
    def facts(self) -> MethodFacts:
        """The method's order, stages and so on."""
        return METHODS[self.method]

    @property
    def runs_on(self) -> Backend:
        """What runs the method."""
        return self.backend or self.facts.backends[0]

    @property
    def adaptive(self) -> bool:
        """Whether the step size follows an error estimate."""
        return self.rtol is not None

    def fixed_steps(self, t0: float = 0.0, t1: float = 1.0, precision: Precision = "float32") -> int:
        """Return the integer number of steps on ``[t0, t1]``; only for a fixed grid.

        ``precision`` is the state's. It matters on a ``truncate`` grid alone, whose times are in it: rounding
        decides there whether a step of a rounding error is added.
        """
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
        if self.grid == "truncate":
            return _truncated_steps(self.step_size, t0, t1, precision)
        nearest = round(exact)
        divides = nearest >= 1 and abs(exact - nearest) <= 1e-9 * nearest
        return nearest if divides else max(1, math.ceil(exact))

    def with_steps(self, steps: int) -> "SolverSpec":
        """Return the same method on a grid of ``steps`` steps."""
        return SolverSpec(method=self.method, steps=steps, backend=self.backend, max_order=self.max_order)

    def document(self) -> dict[str, Any]:
        """Return the solver as JSON, as users write it: without the settings that do not apply."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def label(self) -> str:
        """A short name for tables and plots, for example ``euler-2`` or ``dopri5 rtol=1e-05``."""
        if self.steps is not None:
            label = f"{self.method}-{self.steps}"
        elif self.step_size is not None:
            label = f"{self.method} h={self.step_size:g}" + (" truncate" if self.grid == "truncate" else "")
        else:
            controller = "" if self.controller is None else f" {self.controller}"
            label = f"{self.method} rtol={self.rtol:g} atol={self.atol:g}{controller}"
        if self.max_order is not None:
            label += f" order={self.max_order}"
        return label if self.runs_on == self.facts.backends[0] else f"{label} {self.runs_on}"


def _truncated_steps(step_size: float, t0: float, t1: float, precision: Precision) -> int:
    """Return the number of steps torchdiffeq 0.2.5 makes: ``ceil((t1 - t0) / h + 1)`` grid points.

    Every operation is rounded to the precision of the times, as it is there. A quotient a rounding error above
    an integer makes a step more than it should.
    """
    rounded = _float32 if precision == "float32" else float
    length = rounded(abs(rounded(t1) - rounded(t0)))
    quotient = rounded(length / (rounded(step_size) or step_size))
    return max(1, math.ceil(rounded(quotient + 1)) - 1)


def _float32(value: float) -> float:
    """Return the nearest float32. Rounding a float64 sum or quotient of float32 is rounding the exact one."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)
