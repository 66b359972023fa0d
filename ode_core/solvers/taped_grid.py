"""A fixed grid with a field that keeps its own tape: the whole solve is one node of autograd, derived by hand.

Without a framework's work for every operation, and with the gradients of the weights taken for all evaluations
together, a small field costs little more than its matrix products.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from ode_core.solvers.functional_field import FunctionalField
from ode_core.solvers.solution import is_plain
from ode_core.solvers.tableaus import ButcherTableau


class FieldTape(Protocol):
    """Evaluations of a field into numbered slots, and their derivatives; for one solve.

    The solver adds up states and slopes in the layout of ``pack``. It writes the state of an evaluation to
    ``stage(slot)`` first. Backwards, it writes a cotangent to ``cotangent(slot)`` and pulls it back, in falling order
    of the slots, and then asks for the gradients.
    """

    def pack(self, z: Tensor) -> Tensor:
        """Return ``(batch, *state)`` as a copy in the layout of the tape."""
        ...

    def unpack(self, values: Tensor) -> Tensor:
        """Return values in the layout of the tape as ``(batch, *state)``, a copy."""
        ...

    def stage(self, slot: int) -> Tensor:
        """Return where the state of an evaluation is to be written."""
        ...

    def spread(self, values: Tensor) -> Tensor:
        """Return ``(batch,)`` values in a shape that multiplies states in the layout of ``pack``."""
        ...

    def evaluate(self, slot: int, t: float | Tensor, out: Tensor) -> None:
        """Write the field at time ``t`` and the state of ``slot`` to ``out``.

        ``t`` may be one time for each sample, as ``spread`` returns them; such an evaluation has no derivative.
        """
        ...

    def begin_backward(self) -> None:
        """Begin a backward pass: all gradients are zero."""
        ...

    def cotangent(self, slot: int) -> Tensor:
        """Return where the cotangent of an evaluation's slope is to be written."""
        ...

    def pull_back(self, slot: int, out: Tensor, *, add: bool) -> None:
        """Write the cotangent of the state of ``slot`` to ``out``, or add it there."""
        ...

    def gradients(self) -> tuple[Tensor, ...]:
        """Return the gradients of the field's ``tensors``."""
        ...


class TapedField(Protocol):
    """A field with a tape."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the gradients belong to."""
        ...

    def tape(self, z: Tensor, slots: int) -> FieldTape:
        """Return a tape for ``slots`` evaluations at states of the shape of ``z``."""
        ...

    def functional(self) -> FunctionalField:
        """Return the field as a function of its tensors."""
        ...


def keeps_tape(field: object) -> TypeGuard[TapedField]:
    """Whether a field keeps a tape of its own."""
    return hasattr(type(field), "tape")


def why_not_taped(field: object, z0: Tensor) -> str | None:
    """Return in words why a field cannot be solved with its tape from ``z0``, here and now; None where it can."""
    if not keeps_tape(field) or len(z0) == 0:
        return "the field keeps no tape of its own"
    if torch.is_autocast_enabled(z0.device.type):
        return "under autocast"
    if not all(is_plain(tensor) for tensor in (z0, *field.tensors)):
        return "within a transform of torch.func or with tangents"
    return None


Weights = list[tuple[int, float]]  # (stage, weight) pairs, zeros left out


class GridRule:
    """The numbers of an explicit method on a uniform grid, scaled by the step.

    Attributes:
        steps: of the grid.
        stages: evaluations of a step.
        rows: for each stage the weights of the slopes before it.
        columns: for each stage its weights in the stages after it.
        b: the weights of the slopes in a step.
        shares: the same with zeros, as 0-d tensors: multiplying by a number makes one each time.
        times: of every evaluation, within the interval.
    """

    def __init__(self, tableau: ButcherTableau, steps: int, t0: float, t1: float, dtype: torch.dtype) -> None:
        used, h = tableau.grid_rows, (t1 - t0) / steps
        self.steps, self.stages = steps, len(used)
        rows = [[h * float(w) for w in row] for row in used]
        b = [h * float(w) for w in tableau.b[: len(used)]]
        self.rows = [_nonzero(row) for row in rows]
        self.columns = [_nonzero([row[i] if i < len(row) else 0.0 for row in rows]) for i in range(len(used))]
        self.b = _nonzero(b)
        self.shares = torch.tensor(b, dtype=dtype).unbind()
        c, low, high = [float(c) for c in tableau.c[: len(used)]], min(t0, t1), max(t0, t1)
        times = (t0 + (t1 - t0) * (step + share) / steps for step in range(steps) for share in c)
        self.times = [t if low <= t <= high else min(max(t, low), high) for t in times]


@lru_cache(maxsize=16)
def grid_rule(tableau: ButcherTableau, steps: int, t0: float, t1: float, dtype: torch.dtype) -> GridRule:
    """Return the rule, the same for every iteration of a training, or every prediction."""
    return GridRule(tableau, steps, t0, t1, dtype)


def solve_taped(field: TapedField, z0: Tensor, tableau: ButcherTableau, steps: int, t0: float, t1: float) -> Tensor:
    """Return the state ``(batch, *state)`` at ``t1``; gradients flow to ``z0`` and the field's ``tensors``."""
    rule = grid_rule(tableau, steps, t0, t1, z0.dtype)
    wanted = torch.is_grad_enabled() and (z0.requires_grad or any(w.requires_grad for w in field.tensors))
    if not wanted:
        return walk_taped(field, z0, rule)
    result: Tensor = _TapedSolve.apply(z0, field, rule, *field.tensors)  # type: ignore[no-untyped-call]
    return result


def walk_taped(field: TapedField, z0: Tensor, rule: GridRule) -> Tensor:
    """Return the state ``(batch, *state)`` after all steps of a rule; without gradients."""
    tape = field.tape(z0, rule.stages)
    with torch.no_grad():
        return _walk(tape, z0, rule, remember=False)


class _TapedSolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z0: Tensor, field: TapedField, rule: GridRule, *tensors: Tensor) -> Tensor:
        ctx.field, ctx.rule, ctx.tape = field, rule, field.tape(z0, rule.steps * rule.stages)
        # Saved also to notice when one of them is changed before the backward pass.
        ctx.save_for_backward(z0, *tensors)
        return _walk(ctx.tape, z0, rule, remember=True)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        z0, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted
            return _differentiable_backward(ctx, z0, tensors, cotangents[0])
        tape: FieldTape = ctx.tape
        tape.begin_backward()
        start = _pull_back(tape, cotangents[0], ctx.rule)
        return (tape.unpack(start), None, None, *tape.gradients())


def _differentiable_backward(
    ctx: Any, z0: Tensor, tensors: Sequence[Tensor], cotangent: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients with a graph, from a solve that autograd sees every operation of."""
    final = _walk_with_autograd(ctx.field.functional().function, z0, tensors, ctx.rule)
    inputs = [(i, x) for i, x in enumerate((z0, *tensors)) if x.requires_grad]
    found = torch.autograd.grad(final, [x for _, x in inputs], cotangent, create_graph=True, allow_unused=True)
    gradients = dict(zip((i for i, _ in inputs), found, strict=True))
    return gradients.get(0), None, None, *(gradients.get(i + 1) for i in range(len(tensors)))


def _walk_with_autograd(evaluate: Any, z0: Tensor, tensors: Sequence[Tensor], rule: GridRule) -> Tensor:
    z, times = z0, iter(rule.times)
    for _ in range(rule.steps):
        slopes: list[Tensor] = []
        for row in rule.rows:
            t = torch.tensor(next(times), dtype=z.dtype, device=z.device)
            slopes.append(evaluate(tuple(tensors), t, _sum(z, slopes, row)))
        z = _sum(z, slopes, rule.b)
    return z


def _sum(z: Tensor, slopes: Sequence[Tensor], weights: Weights) -> Tensor:
    for j, w in weights:
        z = torch.add(z, slopes[j], alpha=w)
    return z


def _walk(tape: FieldTape, z0: Tensor, rule: GridRule, *, remember: bool) -> Tensor:
    # The state is written to where its first stage is wanted.
    z = tape.stage(0)
    z.copy_(tape.pack(z0))
    slopes = [torch.empty_like(z, memory_format=torch.contiguous_format) for _ in range(rule.stages)]
    end = torch.empty_like(slopes[0]) if remember else z
    for step in range(rule.steps):
        first = step * rule.stages  # evaluation
        slot = first if remember else 0
        for i in range(rule.stages):
            if i > 0:
                _add_up(z, slopes, rule.rows[i], out=tape.stage(slot + i))
            tape.evaluate(slot + i, rule.times[first + i], slopes[i])
        following = tape.stage(slot + rule.stages) if remember and step + 1 < rule.steps else end
        _add_up(z, slopes, rule.b, out=following)
        z = following
    return tape.unpack(z)


def _pull_back(tape: FieldTape, cotangent: Tensor, rule: GridRule) -> Tensor:
    """Return the cotangent of the start.

    With ``k_i = f(Z_i)``, ``Z_i = z + sum_j a_ij k_j`` and ``z' = z + sum_i b_i k_i`` (h within a and b), backwards
    ``k*_i = b_i z'* + sum_j a_ji Z*_j``, ``Z*_i = J(Z_i)^T k*_i`` and ``z* = z'* + sum_i Z*_i``.
    """
    z = tape.pack(cotangent)
    stages = [torch.empty_like(z) for _ in range(rule.stages)]  # Z*_i
    later = [(i, 1.0) for i in range(1, rule.stages)]
    for slot in range(rule.steps * rule.stages - 1, -1, -1):
        i = slot % rule.stages
        slope = tape.cotangent(slot)
        torch.mul(z, rule.shares[i], out=slope)
        for j, w in rule.columns[i]:
            slope.add_(stages[j], alpha=w)
        if i > 0:
            tape.pull_back(slot, stages[i], add=False)
        else:
            _add_up(z, stages, later, out=z)
            tape.pull_back(slot, z, add=True)
    return z


def _nonzero(weights: Sequence[float]) -> Weights:
    return [(j, w) for j, w in enumerate(weights) if w != 0.0]


def _add_up(z: Tensor, slopes: Sequence[Tensor], weights: Weights, *, out: Tensor) -> None:
    """Write ``z + sum w_j k_j`` to ``out``, which may be ``z``."""
    for j, w in weights:
        z = torch.add(z, slopes[j], alpha=w, out=out)
    if z is not out:
        out.copy_(z)
