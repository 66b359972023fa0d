"""One step of a Runge-Kutta method as a map of the state, and the derivative of that map.

A solve is the composition of such maps. Seen one by one they can be differentiated, replaced by the exact flow, or
compared with it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp

from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.implicit_tableaus import IMPLICIT_TABLEAUS, DiagonallyImplicitTableau
from ode_core.solvers.interpolants import Row
from ode_core.solvers.linearisation import dense_jacobian
from ode_core.solvers.newton import LONG, StageSolver, round_off
from ode_core.solvers.solution import Field, broadcast_to_state, finite_samples, is_plain
from ode_core.solvers.stage_derivative import attach_derivative
from ode_core.solvers.tableaus import ButcherTableau
from ode_core.specs.methods import DENSE_JACOBIAN, METHODS, Family, MethodName

KNOWN_FAMILIES: tuple[Family, ...] = ("explicit", "implicit")
"""Whose steps are maps of the state alone: those of Runge-Kutta methods."""

Product = Callable[[Tensor, Tensor], Tensor]
"""From vectors ``(m, *state)`` and the samples ``(m,)`` they belong to, to the derivatives of those samples' steps
times the vectors."""


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

    def of(self, samples: Tensor) -> "TimeStep":
        """Return the steps of some samples, where each has its own."""
        return TimeStep(*(values if values.ndim == 0 else values[samples] for values in self))


class StepMap(ABC):
    """``Psi_h``: from the state before a step to the state after it.

    Its derivatives are taken by ``torch.func``: there the field may not branch on values of the state, nor mix samples.

    Attributes:
        field: ``f(t, z)``.
    """

    field: Field

    @abstractmethod
    def __call__(self, z: Tensor, step: TimeStep) -> Tensor:
        """Return ``(batch, *state)``, the states after one step from ``z``; NaN for a sample that has no such state."""

    def repeated(self, z: Tensor, steps: Sequence[TimeStep]) -> list[Tensor]:
        """Return the states after the first step from ``z``, after the second, and so on."""
        states = [z]
        for step in steps:
            states.append(self(states[-1], step))
        return states[1:]

    def product(self, z: Tensor, step: TimeStep, v: Tensor) -> Tensor:
        """Return ``(batch, *state)``, the derivative at ``z`` times ``v``."""
        tangent: Tensor = jvp(lambda state: self(state, step), (z,), (v,))[1]
        return tangent

    def jacobian(self, z: Tensor, step: TimeStep) -> Tensor:
        """Return ``(batch, n, n)``, the derivative at ``z``, a row for each number of the result."""
        return dense_jacobian(lambda _, state: self(state, step), step.start, z)

    def products(self, z: Tensor, step: TimeStep) -> Product:
        """Return the derivative at ``z`` for many products."""
        return lambda v, samples: self.product(z[samples], step.of(samples), v)


@dataclass(frozen=True)
class ExplicitStepMap(StepMap):
    """The step of an explicit method.

    Attributes:
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
            stage = _added(z, length, row, slopes)
            slopes.append(self.field(step.stage_time(float(share)).to(z.dtype), stage))
        return _added(z, length, self.tableau.b[: len(rows)], slopes)


@dataclass(frozen=True)
class ImplicitStepMap(StepMap):
    """The step of a diagonally implicit method, its stages solved to round-off, each sample by itself.

    The derivative is that of the stages' equations and not of the iteration. A sample with a stage that Newton's
    iteration does not solve has NaN for state and derivative. Jacobians are kept from step to step only within
    ``repeated``: the state after a step depends on the state before, and on nothing else.

    Attributes:
        tableau: the method.
    """

    field: Field
    tableau: DiagonallyImplicitTableau

    def __call__(self, z: Tensor, step: TimeStep) -> Tensor:
        """Return ``(batch, *state)``, the states after one step from ``z``; NaN where it has no solution."""
        return self._step(self._newton(z), z, step)[0]

    def repeated(self, z: Tensor, steps: Sequence[TimeStep]) -> list[Tensor]:
        """Return the states after the first step from ``z``, after the second, and so on."""
        newton, states = self._newton(z), [z]
        for step in steps:
            states.append(self._step(newton, states[-1], step)[0])
        return states[1:]

    def products(self, z: Tensor, step: TimeStep) -> Product:
        """Return the derivative at ``z`` for many products: a matrix, or with the stages solved once."""
        if math.prod(z.shape[1:]) <= DENSE_JACOBIAN:
            matrices = self.jacobian(z, step)
            return lambda v, samples: (matrices[samples] @ v.flatten(1).unsqueeze(2)).reshape(v.shape)
        slopes = self._step(self._newton(z), z, step)[1]

        def product(v: Tensor, samples: Tensor) -> Tensor:
            own, solved = step.of(samples), [slope[samples] for slope in slopes]
            newton = self._newton(z[samples])
            tangent: Tensor = jvp(lambda state: self._step(newton, state, own, solved)[0], (z[samples],), (v,))[1]
            return tangent

        return product

    def _newton(self, z: Tensor) -> StageSolver:
        return StageSolver(self.field, z.detach(), LONG, None)

    def _step(
        self, newton: StageSolver, z: Tensor, step: TimeStep, solved: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the states after the step and the slopes of its stages, which may be ``solved`` already."""
        length = step.length.to(z.dtype)
        scale = (length * float(self.tableau.gamma)).expand(len(z), *length.shape[1:]).reshape(len(z))
        everyone = torch.ones_like(scale, dtype=torch.bool)
        slopes: list[Tensor] = []
        state = z.detach()
        for i, (implicit, share, row) in enumerate(
            zip(self.tableau.implicit, self.tableau.c, self.tableau.a, strict=True)
        ):
            time, base = step.stage_time(float(share)).to(z.dtype), _added(z, length, row[:-1], slopes)
            if not implicit:
                slopes.append(self.field(time, base))
                continue
            if solved:
                slope = solved[i]
            else:
                # As on a grid: from the stage before, not along its slope, which may lead to another solution.
                s = broadcast_to_state(scale, state)
                guess = torch.where(s == 0, 0.0, (state - base.detach()) / s)
                slope = newton.stage(time, base.detach(), scale, guess, everyone, round_off)
                state = base.detach() + s * slope
            if torch.is_grad_enabled() or not is_plain(base):
                slope = attach_derivative(self.field, time, base, scale, slope)
            slopes.append(slope)
        after = _added(z, length, self.tableau.b, slopes)
        # A factor, so that the derivative is no number either.
        fails = newton.failed | ~finite_samples(after.detach())
        return after * torch.where(broadcast_to_state(fails, after), torch.nan, 1.0), slopes


def _added(z: Tensor, length: Tensor, weights: Row, slopes: Sequence[Tensor]) -> Tensor:
    """Return ``z + length * sum_i w_i k_i``."""
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            z = z + (length * float(weight)) * slope
    return z


def step_map(field: Field, method: MethodName) -> StepMap:
    """Return the step of a method by name.

    Raises:
        ValueError: the method is not a Runge-Kutta method.
    """
    if METHODS[method].family not in KNOWN_FAMILIES:
        known = ", ".join(name for name, facts in METHODS.items() if facts.family in KNOWN_FAMILIES)
        raise ValueError(f"the step of {method} is not a map of the state alone: the method must be one of {known}")
    implicit = IMPLICIT_TABLEAUS.get(method)
    return ExplicitStepMap(field, TABLEAUS[method]) if implicit is None else ImplicitStepMap(field, implicit)
