"""One step of any one-step method as a solve of its own, so that it can be repeated with a graph.

A step from ``t`` to ``end`` of ``z' = f(t, z)`` is a step from 0 to 1 of ``z' = h f(t + s h, z)``, for each sample
with its own ``t`` and ``h``. So one solve with one step on a uniform grid repeats a step of a fixed grid and of an
adaptive solve alike, whatever the method, to round-off.
"""

from typing import Protocol

import torch
from torch import Tensor

from ode_core.solvers.output_times import OutputMode
from ode_core.solvers.record import Record
from ode_core.solvers.solution import Field, Solution, broadcast_to_state
from ode_core.specs.solver import SolverSpec


class Run(Protocol):
    """A solve as ``solve`` makes it, without its checks and without a gradient mode."""

    def __call__(
        self,
        field: Field,
        z0: Tensor,
        solver: SolverSpec,
        *,
        t0: float,
        t1: float,
        times: Tensor | None = None,
        outputs: OutputMode = "land",
        max_evaluations: int | None = None,
        record: Record | None = None,
    ) -> Solution:
        """Return the solution."""
        ...


def unit_step_field(field: Field, t: Tensor, length: Tensor, end: Tensor) -> Field:
    """Return the field whose step from 0 to 1 is the step of ``field`` from ``t`` to ``end``.

    Args:
        field: the vector field.
        t: time before the step in float64, 0-d or ``(batch,)``.
        length: the step with the sign of its direction, of the same shape.
        end: time after the step, of the same shape.
    """

    def unit(s: Tensor, z: Tensor) -> Tensor:
        # lerp is exact at both ends and never leaves them: the field need not be defined outside.
        now, h = torch.lerp(t, end, s.to(t)), length
        if now.ndim:
            now, h = broadcast_to_state(now, z), broadcast_to_state(h, z)
        return field(now.to(z.dtype), z) * h.to(z.dtype)

    return unit
