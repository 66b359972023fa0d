"""What a solve returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ode_core.solvers.status import SolveStatus

Field = Callable[[Tensor, Tensor], Tensor]
"""``f(t, z) -> dz/dt``. ``z`` is ``(batch, *state)``. ``t`` is a 0-d tensor on a fixed grid; in an adaptive
solve every sample has its own time and ``t`` is ``(batch, 1, ..., 1)``, which broadcasts against ``z``."""


ExecutionPath = Literal["eager", "taped", "compiled"]


@dataclass(frozen=True)
class Execution:
    """How the numbers were computed; they are the same to round-off on every path.

    Attributes:
        path: ``eager``: one tensor operation after the other; ``taped``: one autograd node for the whole solve, with
            its derivative by hand; ``compiled``: a step compiled to one graph.
        lowered: the field was run as matrix products instead of the layers it is made of.
        stacked: independent runs that were solved as one.
        reason: why it was this path, in words.
    """

    path: ExecutionPath = "eager"
    lowered: bool = False
    stacked: int = 1
    reason: str = ""


class SolveFailed(RuntimeError):
    """Some samples did not reach the end; the message names the reason and the remedy."""


@dataclass(frozen=True)
class Solution:
    """The end of a solve and how it got there, sample by sample.

    Attributes:
        final: ``(batch, *state)``, the state at ``t1``; NaN for a sample that did not get there.
        status: ``(batch,)``, values of ``SolveStatus``.
        evaluations: ``(batch,)``, evaluations of the field (NFE), the initial-step estimate included.
        accepted: ``(batch,)``, accepted steps.
        rejected: ``(batch,)``, rejected steps.
        last_step: ``(batch,)``, length of the last accepted step, in units of t; 0 when there was none.
        times: ``(times,)`` or None, the output times asked for.
        trajectory: ``(times, batch, *state)`` or None; NaN where a time was not reached.
        execution: which of the equivalent ways of computing it was taken.
    """

    final: Tensor
    status: Tensor
    evaluations: Tensor
    accepted: Tensor
    rejected: Tensor
    last_step: Tensor
    times: Tensor | None = None
    trajectory: Tensor | None = None
    execution: Execution = Execution()

    @property
    def succeeded(self) -> Tensor:
        """``(batch,)`` of bool: which samples reached the end."""
        return self.status == SolveStatus.SUCCESS

    def raise_on_failure(self) -> None:
        """Raise ``SolveFailed`` with the first failing sample's reason unless all samples succeeded."""
        failed = torch.nonzero(~self.succeeded).flatten()
        if failed.numel():
            first = SolveStatus(int(self.status[failed[0]]))
            raise SolveFailed(
                f"{failed.numel()} of {self.status.numel()} samples failed; the first, sample {int(failed[0])}, "
                f"with {first.text}: {first.remedy}"
            )


def broadcast_to_state(values: Tensor, state: Tensor) -> Tensor:
    """Return ``(batch,)`` values as ``(batch, 1, ..., 1)``, to be multiplied with ``(batch, *state)``."""
    return values.reshape(-1, *(1 for _ in state.shape[1:]))


def per_sample(values: Tensor) -> Tensor:
    """Return ``(batch, *state)`` values as ``(batch, n)``, for a reduction over each sample."""
    return values.flatten(1) if values.ndim > 1 else values.unsqueeze(1)


def finite_samples(values: Tensor) -> Tensor:
    """``(batch,)`` of bool: which samples of ``(batch, *state)`` are finite throughout."""
    return (per_sample(values.detach()).abs() < torch.inf).all(dim=1)  # False for NaN; isfinite takes twice as long


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor carries nothing but values and perhaps autograd's graph: no functorch level, no tangent."""
    transformed = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return not transformed and forward_ad.unpack_dual(tensor).tangent is None  # type: ignore[no-untyped-call]
