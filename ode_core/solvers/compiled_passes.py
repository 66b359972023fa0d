"""Passes of an adaptive solve as one compiled graph.

The bookkeeping of a pass is some eighty small operations on ``(batch,)``. Compiled, they and the field of a toy model
are one kernel, and a pass takes a tenth of the time. Small batches are padded to a power of two with samples that have
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
    slope_at,
    stale_slopes,
    take_step,
    with_renewed_slope,
    within_step,
)
from ode_core.solvers.compilation import KindOfStep, kind_of_step
from ode_core.solvers.functional_field import FunctionalField, as_functional
from ode_core.solvers.packed_walk import (
    PackedLimits,
    PackedWalk,
    flat_if_narrow,
    packed_limits,
    packed_passes,
    packed_walk,
    unpacked_limits,
    unpacked_walk,
)
from ode_core.solvers.solution import Field, is_plain
from ode_core.solvers.status import SolveStatus
from ode_core.solvers.step_history import Passes, StepHistory

# A graph makes several passes: calling it costs as much as two. With more stages fewer, as compiling takes longer.
_MOST_PASSES, _MOST_STAGES = 4, 28
_SMALLEST_BATCH = 16
# Up to this many numbers in a batch of states padding costs less than a graph of its own would.
_PADDED_BATCH = 2**14
# Above this many the field's own work is all of a pass.
_LARGEST_BATCH = 2**18


class CompilablePasses:
    """The passes of one solve, if they are to be compiled.

    Attributes:
        kind: the kind of step they are, shared with other solves.
        ran: whether compiled passes were made.
    """

    def __init__(
        self,
        functional: FunctionalField,
        rule: PassRule,
        limits: Limits,
        kind: KindOfStep,
        *,
        shape: torch.Size,
        batch: int,
        size: int,
        remembered: bool,
    ) -> None:
        self.kind, self.ran = kind, False
        self._functional, self._rule, self._limits = functional, rule, packed_limits(limits)
        self._shape, self._batch, self._size, self._remembered = shape, batch, size, remembered

    def run(self, walk: Walk, history: StepHistory | None) -> Walk:
        """Make passes until every sample has arrived or failed, or the graph fails; return where they stand."""
        packed = packed_walk(self._padded(walk))
        going = True
        while going:
            if self._functional.before_evaluation is not None:
                self._functional.before_evaluation()
            made = self.kind.compiled(self._build, self._functional.tensors, packed, self._limits)
            if made is None:
                break
            packed, running, passes = made
            if history is not None:
                history.append(passes if self._batch == self._size else passes.of_first(self._batch))
            self.ran, going = True, bool(running)
        return _first(unpacked_walk(packed, self._shape), self._batch)

    def _build(self) -> FunctionType:
        stages = self._rule.method.least_evaluations + 1
        return _some_passes(self._functional, self._rule, self._shape, stages, remembered=self._remembered)

    def _padded(self, walk: Walk) -> Walk:
        if self._batch == self._size:
            return walk
        standing = torch.arange(self._size, device=walk.z.device)
        padded: Walk = pytree.tree_map(lambda values: values[standing.clamp(max=self._batch - 1)], walk)
        padding = standing >= self._batch
        return padded._replace(status=torch.where(padding, int(SolveStatus.SUCCESS), padded.status))


def compilable_passes(
    field: Field, walk: Walk, limits: Limits, rule: PassRule, *, remembered: bool
) -> CompilablePasses | None:
    """Return the passes of a solve for compilation, or None where they are better made eagerly.

    ``remembered``: every pass is to be left in a history, for the outputs.
    """
    functional = as_functional(field)
    if functional is None or not 0 < walk.z.numel() <= _LARGEST_BATCH or getattr(field, "stacked", None):
        return None
    if not all(is_plain(tensor) for tensor in functional.tensors):
        return None
    size = len(walk.z)
    if functional.by_sample and walk.z.numel() <= _PADDED_BATCH:
        size = max(_SMALLEST_BATCH, 1 << (size - 1).bit_length())
    limits = _padded_stops(limits)
    shape = (walk.z.dtype, walk.z.device, walk.z.shape[1:], size, len(limits.stops))
    kind = kind_of_step(("passes", functional.key, rule.key, remembered, *shape), functional.owner)
    return CompilablePasses(
        functional, rule, limits, kind, shape=walk.z.shape[1:], batch=len(walk.z), size=size, remembered=remembered
    )


def _some_passes(
    functional: FunctionalField, rule: PassRule, shape: torch.Size, stages: int, *, remembered: bool
) -> FunctionType:
    evaluate = functional.function
    count = max(1, min(_MOST_PASSES, _MOST_STAGES // stages))

    def some_passes(
        tensors: tuple[Tensor, ...], packed: PackedWalk, bounds: PackedLimits
    ) -> tuple[PackedWalk, Tensor, Passes | None]:
        def field(t: Tensor, z: Tensor) -> Tensor:
            if z.shape[1:] == shape:
                return evaluate(tensors, t, z)
            each = (len(z), *(1 for _ in shape))
            return evaluate(tensors, t.reshape(each), z.reshape(len(z), *shape)).reshape(z.shape)

        walk, limits = unpacked_walk(packed, flat_if_narrow(shape)), unpacked_limits(bounds)
        passes = []
        for _ in range(count):
            plan = plan_step(walk, limits, rule.direction)
            attempt = rule.method.attempt(field, walk, plan, limits, rule.direction)
            broken = broken_samples(walk, attempt)
            new, moved = take_step(walk, plan, attempt, broken, limits, rule)
            if not rule.method.first_same_as_last:
                new = with_renewed_slope(walk, new, slope_at(field, new), stale_slopes(walk, new, moved, rule))
            passes.append((new.t, [new.z, *within_step(rule, walk, plan, attempt, new)]))
            walk = new
        return packed_walk(walk), walk.running.any(), packed_passes(passes) if remembered else None

    assert isinstance(some_passes, FunctionType)
    return some_passes


def _first(walk: Walk, batch: int) -> Walk:
    found: Walk = pytree.tree_map(lambda values: values[:batch], walk)
    return found


def _padded_stops(limits: Limits) -> Limits:
    """Return the limits with the end repeated, so that different numbers of stops share a graph."""
    count = len(limits.stops)
    size = max(4, 1 << (count - 1).bit_length())
    return limits._replace(stops=torch.cat([limits.stops, limits.stops[-1:].expand(size - count)]))
