"""The exact derivative of an implicit stage, whatever iteration solved it.

A stage is a slope ``k`` with ``k = f(t, base + s k)``. By the implicit function theorem

    (I - s J) dk = J dbase + df,

whose right side is what automatic differentiation finds for ``f(t, base + s k)`` with ``k`` held fixed. So forwards
the tangent of that value is multiplied by the inverse, and backwards the gradient of ``k`` by the inverse transposed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ode_core.solvers.linearisation import solve_tangent, solve_transposed
from ode_core.solvers.solution import Field, broadcast_to_state


def attach_derivative(field: Field, t: Tensor, base: Tensor, scale: Tensor, k: Tensor) -> Tensor:
    """Return the solution ``k`` of a stage with its derivative by ``base`` and the field's parameters.

    One evaluation of the field. For autograd and, once, for ``jvp`` of ``torch.func``, where ``k`` and ``scale`` have
    no tangent. A sample whose linear system is not solved has NaN for a tangent.

    Args:
        field: the vector field.
        t: time of the stage.
        base: ``(batch, *state)``, with its graph.
        scale: ``(batch,)``.
        k: ``(batch, *state)``, without a graph.
    """
    z = base + broadcast_to_state(scale, base) * k
    stage: Callable[..., Tensor] = _Stage.apply
    return stage(field(t, z), k, field, t, z.detach(), scale)


class _Stage(torch.autograd.Function):
    """``k``, with the linear system between its derivative and that of the field's value."""

    generate_vmap_rule = True  # tangents of all unit vectors at once make a dense derivative

    @staticmethod
    def forward(value: Tensor, k: Tensor, field: Field, t: Tensor, z: Tensor, scale: Tensor) -> Tensor:
        return k.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, ctx.field, t, z, scale = inputs
        ctx.save_for_backward(t, z, scale)
        ctx.save_for_forward(t, z, scale)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: None) -> Tensor:
        t, z, scale = ctx.saved_tensors
        return solve_tangent(ctx.field, t, z, scale, tangent)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        t, z, scale = ctx.saved_tensors
        return solve_transposed(ctx.field, t, z, scale, gradient), None, None, None, None, None
