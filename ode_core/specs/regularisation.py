"""What a training may be asked for besides a small loss: steps like those of a flow."""

import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from ode_core.specs.gradient import GradientMode
from ode_core.specs.solver import MAX_FIXED_STEPS, SolverSpec
from ode_core.specs.spec import Spec


class StepJitter(Spec):
    """Every iteration takes a number of steps of its own: the solver's times a factor between ``low`` and ``high``.

    The logarithm of the factor is uniform, so that as many steps are halved as are doubled.
    """

    low: Annotated[float, Field(ge=0.1, le=1)] = 0.5
    high: Annotated[float, Field(ge=1, le=10)] = 2.0

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low == self.high:
            raise ValueError("low and high are both 1, which is no jitter: give for example low 0.5 and high 2")
        return self

    def steps(self, steps: int, share: float) -> int:
        """Return the number of steps at a ``share``, from 0 to 1, of the range on its logarithmic scale."""
        factor: float = self.low ** (1 - share) * self.high**share
        return max(1, math.floor(steps * factor + 0.5))


class LocalErrorPenalty(Spec):
    """``weight`` times the squared local error of the steps is added to the loss.

    The errors are taken per unit of the interval and relative to the states, so that a relative error ``r`` costs
    ``weight r^2`` whatever the number of steps.
    """

    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0


class Regularisation(Spec):
    """Step-count jitter, a local-error penalty, or both; for explicit methods on a uniform grid."""

    step_jitter: StepJitter | None = None
    local_error: LocalErrorPenalty | None = None

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.step_jitter is None and self.local_error is None:
            raise ValueError(
                'give step_jitter, for example {"low": 0.5, "high": 2}, local_error, for example {"weight": 1}, or '
                "both; or set regularisation to null"
            )
        return self

    def most_steps(self, steps: int) -> int:
        """Return the most steps an iteration may take where the solver makes ``steps``."""
        return steps if self.step_jitter is None else self.step_jitter.steps(steps, 1.0)

    def extra_evaluations(self, solver: SolverSpec, steps: int) -> int:
        """Return the evaluations of the field that the penalty takes beside those of ``steps`` steps."""
        return 0 if self.local_error is None else local_error_evaluations(solver, steps)


def local_error_evaluations(solver: SolverSpec, steps: int) -> int:
    """Return the evaluations of the field for one sample that the errors of ``steps`` steps take beside the steps.

    Euler's method and those whose last stage is the first of the next step need the slope at the end; another embedded
    pair needs nothing; without one each step is repeated as two halves, which share its first slope.
    """
    facts = solver.facts
    if facts.order == 1 or facts.first_same_as_last:
        return 1
    return 0 if facts.adaptive else steps * (2 * facts.stages - 1)


def check_regularisation(
    regularisation: Regularisation,
    solver: SolverSpec,
    gradient: GradientMode,
    steps: int | None,
    most_steps: int | None,
) -> None:
    """Raise ``ValueError`` when a training cannot be regularised so; the message says what to do.

    Args:
        regularisation: what is asked for.
        solver: of the training.
        gradient: of the training.
        steps: that every solve makes; None where an adaptation chooses them, or with tolerances.
        most_steps: the most that an adaptation may come to, or as many; None with tolerances.
    """
    family = solver.facts.family
    if solver.adaptive or family != "explicit" or solver.runs_on != "odeness" or solver.grid == "truncate":
        raise ValueError(
            f"regularisation is for explicit methods with a fixed number of equal steps, not for {solver.label}: give "
            f'for example {{"method": "euler", "steps": 8}} without backend and grid, or set regularisation to null'
        )
    if regularisation.local_error is not None and gradient != "backprop":
        raise ValueError(
            f"the local-error penalty needs the graph of every step, which gradient {gradient} does not keep: use "
            f"backprop, or step_jitter alone"
        )
    jitter = regularisation.step_jitter
    if jitter is None:
        return
    if steps is not None and jitter.steps(steps, 0.0) == jitter.steps(steps, 1.0):
        raise ValueError(
            f"step_jitter from {jitter.low:g} to {jitter.high:g} leaves {steps} steps as they are: widen the range, or "
            f"begin with more steps"
        )
    if most_steps is not None and jitter.steps(most_steps, 1.0) > MAX_FIXED_STEPS:
        raise ValueError(
            f"step_jitter may come to {jitter.steps(most_steps, 1.0)} steps; the limit is {MAX_FIXED_STEPS}: use fewer "
            f"steps, or a smaller high"
        )
