"""The modified field: the field whose exact flow is what a coarse solver computed.

A step ``Psi_h`` of a solver for ``z' = f`` is, up to high powers of ``h``, the exact flow over ``h`` of another field
``f~``. Under an accurate solver ``f~`` gives what the coarse solver gave with ``f``. For Euler's method

    f~ = f - h/2 f'f + h^2/12 f''(f, f) + h^2/3 f'f'f + O(h^3).

The logarithm of the step gives the same for every method from the states ``z, Psi z, Psi Psi z, ...`` alone,

    h f~ = log Psi = sum_j (-1)^(j+1)/j (Psi - 1)^j,

where a power means repeated differences of these states: it is the derivative at ``z`` of the polynomial through them.
Both are series about the identity and useful for ``h f'`` up to about 1. The numbers of an implicit method's steps are
those of its stages solved to round-off; a sample whose stages have no solution has NaN for a field.

Where the field depends on the time, ``(t, z)`` is the state and ``(1, f)`` its field, whose first component every
method solves exactly: derivatives become total ones, and repeated steps go on in time. So the field is called up to
``terms`` steps beyond the time that is asked for, and by ``local_error`` up to one, beyond the interval's end too.
Weights that jump in time have no such series.

Source: Hairer, Lubich, Wanner, Geometric Numerical Integration, IX.1 (the series).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import jvp

from ode_core.fields.model_field import ModelField
from ode_core.solvers.solution import Field
from ode_core.solvers.step_map import StepMap, TimeStep, step_map
from ode_core.specs.modified_field import ModifiedFieldSpec


@dataclass(frozen=True)
class ModifiedFlow:
    """A modified field as a function ``f~(t, z)`` for any solver; ``t`` is 0-d or ``(batch, 1, ..., 1)``.

    Series are taken by ``torch.func``: the field may not branch on values of the state, nor mix samples.

    Attributes:
        field: ``f(t, z)``.
        spec: which modified field.
        length: the step ``h``.
    """

    field: Field
    spec: ModifiedFieldSpec
    length: float

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``f~``, of the shape and type of ``z``."""
        if self.spec.kind == "series":
            series = euler_two_terms if self.spec.used_terms == 2 else euler_three_terms
            return series(self.field, t, z, self.length)
        psi = step_map(self.field, self.spec.solver.method)
        if self.spec.kind == "iterates":
            return iterated_steps(psi, t, z, self.length, self.spec.used_terms)
        return with_local_error(psi, t, z, self.length, self.spec.used_substeps)


def euler_two_terms(field: Field, t: Tensor, z: Tensor, h: float) -> Tensor:
    """Return ``f - h/2 f'f``, the modified field of Euler's method to ``O(h^2)``."""
    slope = field(t, z)
    return slope - h / 2 * _along(field, t, z, torch.ones_like(t), slope)


def euler_three_terms(field: Field, t: Tensor, z: Tensor, h: float) -> Tensor:
    """Return ``f - h/2 f'f + h^2/12 f''(f, f) + h^2/3 f'f'f``, to ``O(h^3)``; ``f''`` is 0 between kinks of ReLU."""
    slope, one = field(t, z), torch.ones_like(t)

    def derivative(time: Tensor, state: Tensor) -> Tensor:
        return _along(field, time, state, torch.ones_like(time), field(time, state))

    # The second is the third derivative of the solution: f''(f, f) + f'f'f.
    second, third = jvp(derivative, (t, z), (one, slope))[:2]
    repeated = _along(field, t, z, torch.zeros_like(t), second)
    result: Tensor = slope - h / 2 * second + h**2 / 12 * third + h**2 / 4 * repeated
    return result


def iterated_steps(psi: StepMap, t: Tensor, z: Tensor, h: float, terms: int) -> Tensor:
    """Return the modified field of a step to ``O(h^terms)``, from ``terms`` steps one after another."""
    states = [z, *psi.repeated(z, [_step(t + number * h, h) for number in range(terms)])]
    result = torch.zeros_like(z)
    for power in range(1, terms + 1):
        states = [after - before for before, after in itertools.pairwise(states)]
        result = result + (-1) ** (power + 1) / (power * h) * states[0]
    return result


def with_local_error(psi: StepMap, t: Tensor, z: Tensor, h: float, substeps: int) -> Tensor:
    """Return ``f + (Psi_h - phi_h)/h``, the flow by steps of rk4; to ``O(h^(p+1))`` for order ``p``."""
    exact, fine = z, step_map(psi.field, "rk4")
    for number in range(substeps):
        exact = fine(exact, _step(t + number * h / substeps, h / substeps))
    return psi.field(t, z) + (psi(z, _step(t, h)) - exact) / h


def _step(t: Tensor, h: float) -> TimeStep:
    return TimeStep(t, torch.full_like(t, h), t + h)


def _along(field: Field, t: Tensor, z: Tensor, dt: Tensor, dz: Tensor) -> Tensor:
    """Return the derivative of the field in a direction of time and state."""
    tangent: Tensor = jvp(field, (t, z), (dt, dz))[1]
    return tangent


class ModifiedField(nn.Module):
    """A modified field in the place of a model's field; without parameters of its own.

    Attributes:
        field: the field ``f`` that was trained.
        spec: which modified field.
        length: the step ``h``.
    """

    def __init__(self, field: ModelField, spec: ModifiedFieldSpec, end_time: float) -> None:
        super().__init__()
        self.field, self.spec = field, spec
        self.length = end_time / spec.solver.fixed_steps(0.0, end_time)

    @property
    def before_evaluation(self) -> Callable[[], None] | None:
        """Called before every evaluation of ``f``; see ``VectorField``."""
        return self.field.before_evaluation

    @before_evaluation.setter
    def before_evaluation(self, call: Callable[[], None] | None) -> None:
        self.field.before_evaluation = call

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``f~(t, z)``."""
        return ModifiedFlow(self.field, self.spec, self.length)(t, z)

    def for_states(self, state_shape: tuple[int, ...]) -> ModifiedFlow:
        """Return the field prepared for many calls with states of one shape; see ``VectorField``."""
        return ModifiedFlow(self.field.for_states(state_shape), self.spec, self.length)
