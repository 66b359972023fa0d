"""Passes of an adaptive solve as one compiled graph.

The bookkeeping of a pass is some eighty small operations on ``(batch,)``. Compiled, they and the field of a toy model
are one kernel, and a pass takes a tenth of the time. Batches are padded to a power of two with samples that have
ended, so that batches of all sizes share a few graphs.
"""

from types import FunctionType

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core.solvers.adaptive_step import (
    Limits,
    PassRule,
    Walk,
    broken_samples,
    plan_step,
    renew_slope,
    take_step,
    within_step,
)
from ode_core.solvers.compilation import KindOfStep, kind_of_step
from ode_core.solvers.functional_field import FunctionalField, as_functional
from ode_core.solvers.solution import Field
from ode_core.solvers.status import SolveStatus
from ode_core.solvers.step_history import Pass, StepHistory

# A graph makes several passes: calling it costs as much as two. With more stages fewer, as compiling takes longer.
_MOST_PASSES, _MOST_STAGES = 4, 28
_SMALLEST_BATCH = 16
# Above this many numbers in a batch of states the field's own work is most of a pass, and padding would add to it.
_LARGEST_BATCH = 2**18
_NARROW = 8


PassParts = tuple[Tensor, Tensor, list[Tensor]]  # what a Pass is made of


class CompilablePasses:
    """The passes of one solve, if they are to be compiled.

    Attributes:
        kind: the kind of step they are, shared with other solves.
        ran: whether compiled passes were made.
    """

    def __init__(self, functional: FunctionalField, walk: Walk, limits: Limits, kind: KindOfStep, size: int) -> None:
        self.kind, self.ran = kind, False
        self._functional, self._limits, self._size = functional, _padded_stops(limits), size
        self._batch = len(walk.z)

    def run(self, walk: Walk, history: StepHistory | None) -> Walk:
        """Make passes until every sample has arrived or failed, and return where they stand."""
        standing = torch.arange(self._size, device=walk.z.device)
        walk = _select(walk, standing.clamp(max=self._batch - 1))
        padding = standing >= self._batch
        walk = walk._replace(status=torch.where(padding, int(SolveStatus.SUCCESS), walk.status))
        walk = walk._replace(z=_narrow_by_feature(walk.z), slope=_narrow_by_feature(walk.slope))
        own = slice(None, self._batch)
        going = True
        while going:
            if self._functional.before_evaluation is not None:
                self._functional.before_evaluation()
            walk, running, passes = self.kind.compiled(self._functional.tensors, walk, self._limits)
            if history is not None:
                for t_new, z_new, coefficients in passes:
                    history.append(Pass(t_new[own], z_new[own], [c[own] for c in coefficients]))
            going = bool(running)
        self.ran = True
        # Copies: a part of the padded batch would keep all of it.
        found: Walk = pytree.tree_map(lambda values: values[own].clone(), walk)
        return found


def compilable_passes(
    field: Field, walk: Walk, limits: Limits, rule: PassRule, *, remembered: bool
) -> CompilablePasses | None:
    """Return the passes of a solve for compilation, or None where they are better made eagerly.

    ``remembered``: every pass is to be left in a history, for the outputs.
    """
    functional = as_functional(field)
    if functional is None or walk.z.numel() > _LARGEST_BATCH or getattr(field, "stacked", None):
        return None
    size = max(_SMALLEST_BATCH, 1 << (len(walk.z) - 1).bit_length())
    key = ("passes", functional.key, rule.key, remembered, walk.z.dtype, walk.z.device, walk.z.shape[1:], size)
    stages = rule.method.least_evaluations + 1
    kind = kind_of_step(key, lambda: _some_passes(functional, rule, stages, remembered=remembered))
    return CompilablePasses(functional, walk, limits, kind, size)


def _some_passes(functional: FunctionalField, rule: PassRule, stages: int, *, remembered: bool) -> FunctionType:
    evaluate = functional.function
    count = max(1, min(_MOST_PASSES, _MOST_STAGES // stages))

    def some_passes(tensors: tuple[Tensor, ...], walk: Walk, limits: Limits) -> tuple[Walk, Tensor, list[PassParts]]:
        def field(t: Tensor, z: Tensor) -> Tensor:
            return evaluate(tensors, t, z)

        passes = []
        for _ in range(count):
            plan = plan_step(walk, limits, rule.direction)
            attempt = rule.method.attempt(field, walk, plan, limits, rule.direction)
            broken = broken_samples(walk, attempt)
            new, moved = take_step(walk, plan, attempt, broken, limits, rule.method, rule.control)
            if not rule.method.first_same_as_last:
                new = renew_slope(field, new, moved if rule.needs_end_slope else moved & new.running)
            if remembered:
                passes.append((new.t, new.z, within_step(rule, walk, plan, attempt, new)))
            walk = new
        return walk, walk.running.any(), passes

    assert isinstance(some_passes, FunctionType)
    return some_passes


def _select(walk: Walk, samples: Tensor) -> Walk:
    """Return a walk of these samples, with memory of its own for each of its tensors."""
    selected: Walk = pytree.tree_map(lambda values: values[samples].contiguous(), walk)
    return selected


def _narrow_by_feature(z: Tensor) -> Tensor:
    """Return a batch of narrow vectors so that in memory one feature of all samples follows the other.

    What is computed for every sample then runs over neighbours, also sums over a sample.
    """
    return z.mT.contiguous().mT if z.ndim == 2 and z.shape[1] <= _NARROW else z


def _padded_stops(limits: Limits) -> Limits:
    """Return the limits with the end repeated, so that different numbers of stops share a graph."""
    count = len(limits.stops)
    size = max(4, 1 << (count - 1).bit_length())
    return limits._replace(stops=torch.cat([limits.stops, limits.stops[-1:].expand(size - count)]))
