"""One step of an explicit Runge-Kutta method as a map of the state, and the derivative of that map.

A solve is the composition of such maps. Seen one by one they can be differentiated, replaced by the exact flow, or
compared with it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp

from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.linearisation import dense_jacobian
from ode_core.solvers.solution import Field
from ode_core.solvers.tableaus import ButcherTableau
from ode_core.specs.methods import METHODS, MethodName


class TimeStep(NamedTuple):
    """Where steps begin and how long they are: 0-d, or ``(batch, 1, ..., 1)`` with a step for each sample.

    Attributes:
        start: the time before the step.
        length: with the sign of the direction; a step of length 0 leaves the state as it is.
        end: the time after it. Round-off does not carry a stage beyond it.
    """

    start: Tensor
    length: Tensor
    end: Tensor

    def stage_time(self, share: float) -> Tensor:
        """Return the time of a stage, within the step where the stage is."""
        time = self.start + share * self.length
        if not 0 <= share <= 1:
            return time
        return torch.clamp(time, torch.minimum(self.start, self.end), torch.maximum(self.start, self.end))


@dataclass(frozen=True)
class StepMap:
    """``Psi_h``: from the state before a step to the state after it.

    Its derivatives are taken by ``torch.func``: there the field may not branch on values of the state, nor mix samples.

    Attributes:
        field: ``f(t, z)``.
        tableau: the method.
    """

    field: Field
    tableau: ButcherTableau

    def __call__(self, z: Tensor, step: TimeStep) -> Tensor:
        """Return ``(batch, *state)``, the states after one step from ``z``."""
        length = step.length.to(z.dtype)
        rows = self.tableau.grid_rows
        slopes: list[Tensor] = []
        for share, row in zip(self.tableau.c[: len(rows)], rows, strict=True):
            stage = z
            for weight, slope in zip(row, slopes, strict=True):
                if weight:
                    stage = stage + (length * float(weight)) * slope
            slopes.append(self.field(step.stage_time(float(share)).to(z.dtype), stage))
        after = z
        for weight, slope in zip(self.tableau.b[: len(rows)], slopes, strict=True):
            if weight:
                after = after + (length * float(weight)) * slope
        return after

    def product(self, z: Tensor, step: TimeStep, v: Tensor) -> Tensor:
        """Return ``(batch, *state)``, the derivative at ``z`` times ``v``."""
        tangent: Tensor = jvp(lambda state: self(state, step), (z,), (v,))[1]
        return tangent

    def jacobian(self, z: Tensor, step: TimeStep) -> Tensor:
        """Return ``(batch, n, n)``, the derivative at ``z``, a row for each number of the result."""
        return dense_jacobian(lambda _, state: self(state, step), step.start, z)


def step_map(field: Field, method: MethodName) -> StepMap:
    """Return the step of a method by name.

    Raises:
        ValueError: the method is not an explicit Runge-Kutta method.
    """
    if METHODS[method].family != "explicit":
        explicit = ", ".join(name for name, facts in METHODS.items() if facts.family == "explicit")
        raise ValueError(f"the step of {method} is not a map known here: the method must be one of {explicit}")
    return StepMap(field, TABLEAUS[method])
