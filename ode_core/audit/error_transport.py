"""Which step moved a sample to where it ended: the error of each step, carried to the end by the exact flow.

From every state ``z_k`` of a numerical solution the exact flow is followed to the end ``T``, where it is at ``V_k``.
The first is the exact solution, the last the numerical one. So ``V_{k+1} - V_k`` is the error that step ``k`` alone
makes in the end, and

    z_N - phi_T(z_0) = sum_k (V_{k+1} - V_k),    m(z_N) - m(phi_T(z_0)) = sum_k (m(V_{k+1}) - m(V_k))

for any number ``m`` that is read off the end, the margin between two classes for one. In any dimension, and on grids of
each sample's own. With stretches of several steps the same holds for each stretch.

Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section I.7 (Lady Windermere's fan).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core.audit.exact_flow import flow
from ode_core.audit.step_grid import StepGrid
from ode_core.models.predictions import NO_LABEL
from ode_core.solvers.solution import Field, per_sample
from ode_core.specs.methods import MethodName

TOP = 0.1
# Relative to the state. Ten times tighter changed no contribution by a thousandth and took three times the evaluations.
ACCURACY = 1e-3
# Accuracies that two methods may differ by: at kinks both estimate their errors from few steps. And that of the second.
_AGREEMENT, _CHECK = 10, 3
_LOOSE = 1e-4


def _other_method(accuracy: float) -> MethodName:
    """Return a method that checks what dopri5 found; at kinks one of low order takes half as many evaluations."""
    return "bosh3" if accuracy >= _LOOSE else "dopri8"


# Roundings, relative to the size of what is added up.
_ROUNDINGS = 64


@dataclass(frozen=True)
class ErrorTransport:
    """The errors of ``n`` samples' steps, carried to the end; in float64.

    Attributes:
        bounds: the numbers of the steps at which a stretch begins, and last the number of steps.
        ends: ``(stretches + 1, n, *state)``, ``V`` at the bounds; the last is the numerical end.
        error: ``(n,)``, how far a ``V`` is off at most, in the units of the state (an estimate from above).
        missing: ``(n,)``, how far the first is from the exact end by another method (largest number of the state).
        converged: ``(n,)`` of bool: whether every ``V`` was found to the accuracy, and the two methods agree to
            ten times that.
        evaluations: of the field, for all samples together.
    """

    bounds: list[int]
    ends: Tensor
    error: Tensor
    missing: Tensor
    converged: Tensor
    evaluations: int

    @property
    def contributions(self) -> Tensor:
        """``(stretches, n, *state)``, the error of each stretch as it arrives at the end."""
        return self.ends[1:] - self.ends[:-1]

    def residual(self) -> Tensor:
        """Return ``(n,)``: how far the contributions are from adding up to the whole error, relative to their size.

        Raises:
            ArithmeticError: by more than round-off, which would be a mistake in this program.
        """
        parts = self.contributions.flatten(2)
        whole = (self.ends[-1] - self.ends[0]).flatten(1)
        size = torch.maximum(parts.abs().sum(dim=(0, 2)), self.ends.flatten(2).abs().amax(dim=(0, 2)))
        missing = (parts.sum(dim=0) - whole).abs().amax(dim=1)
        residual = torch.where(missing == 0, 0.0, missing / size)
        limit = _ROUNDINGS * len(parts) * torch.finfo(residual.dtype).eps
        if bool((residual > limit).any()):  # NaN is a solve that failed, and not this
            raise ArithmeticError(f"the contributions miss the error by {float(residual.nan_to_num(0.0).max()):.1e}")
        return residual

    def read(self, head: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``(stretches + 1, n, *numbers)``: what is read off states ``(m, *state)``, at each ``V``."""
        with torch.no_grad():
            return torch.stack([head(states) for states in self.ends])


@torch.no_grad()
def error_transport(
    field: Field,
    grid: StepGrid,
    states: Tensor,
    *,
    stretches: int | None = None,
    accuracy: float = ACCURACY,
    max_evaluations: int | None = None,
) -> ErrorTransport:
    """Return what each step of a numerical solution contributes to the end.

    Args:
        field: ``f(t, z)``, evaluated in float64.
        grid: the steps.
        states: ``(steps + 1, n, *state)``, the numerical solution.
        stretches: at most so many parts of the grid; None takes each step by itself.
        accuracy: of each ``V``, relative to the state.
        max_evaluations: bound on the evaluations of the field for one sample in one flow, or None.
    """
    states = states.double()
    steps, n, device = grid.steps, grid.samples, states.device
    stride = 1 if stretches is None else -(-steps // stretches)
    bounds = [*range(0, steps, stride), steps]
    ends = states[-1:].expand(len(bounds), *states.shape[1:]).clone()
    error = torch.zeros(n, dtype=torch.float64, device=device)
    converged = torch.isfinite(states.flatten(2)).all(dim=2).all(dim=0)
    # Where a sample has arrived, V is its end.
    row, sample = torch.nonzero(grid.taken[bounds[:-1]], as_tuple=True)
    start = torch.tensor(bounds)[row]
    times, last = grid.starts[start, sample], grid.ends[-1, sample]
    found = flow(
        field,
        states[start.to(device), sample.to(device)],
        times,
        last,
        accuracy=accuracy,
        max_evaluations=max_evaluations,
    )
    row, sample = row.to(device), sample.to(device)
    ends[row, sample] = found.ends
    error.scatter_reduce_(0, sample, found.error, "amax")
    converged = converged.index_put((sample[~found.converged],), torch.tensor(False, device=device))
    exact = flow(
        field,
        states[0],
        grid.starts[0],
        grid.ends[-1],
        accuracy=_CHECK * accuracy,
        max_evaluations=max_evaluations,
        method=_other_method(accuracy),
    )
    missing = per_sample(ends[0] - exact.ends).abs().amax(dim=1)
    size = torch.maximum(per_sample(states[0]).abs().amax(dim=1), per_sample(ends[0]).abs().amax(dim=1))
    # Comparisons with NaN are False.
    converged = converged & (missing <= _AGREEMENT * accuracy * size)
    transport = ErrorTransport(bounds, ends, error, missing, converged, found.evaluations + exact.evaluations)
    transport.residual()
    return transport


@dataclass(frozen=True)
class MarginAttribution:
    """The margin of the trained class over its rival at each ``V``, and what each stretch added to it.

    Attributes:
        margins: ``(stretches + 1, n)``, from the exact solution to the numerical one.
        rivals: ``(n,)``, the class compared with.
        flipped: ``(n,)`` of bool: the exact solution predicts another class.
        turning: ``(n,)``, the stretch that moved a flipped sample across the boundary for the last time; -1 for others.
    """

    margins: Tensor
    rivals: Tensor
    flipped: Tensor
    turning: Tensor

    @property
    def contributions(self) -> Tensor:
        """``(stretches, n)``; a sample's add up to the margin it has minus the one it would have."""
        return self.margins[1:] - self.margins[:-1]

    def to_json(self) -> dict[str, Any]:
        """Return the sums over samples as JSON values; samples without numbers are left out."""
        parts = self.contributions
        kept = torch.isfinite(parts).all(dim=0)
        parts = parts[:, kept]
        count = max(1, parts.shape[1])
        turned = torch.bincount(self.turning[self.turning >= 0], minlength=len(self.contributions))
        return {
            "samples": int(kept.sum()),
            "flipped": int(self.flipped.sum()),
            "mean_by_step": (parts.sum(dim=1) / count).tolist(),
            "mean_size_by_step": (parts.abs().sum(dim=1) / count).tolist(),
            "turned_by_step": turned.tolist(),
            "in_top_tenth_of_steps": concentration(parts.abs().sum(dim=1)),
            "in_top_tenth_of_samples": concentration(parts.abs().sum(dim=0)),
        }


def margin_attribution(
    transport: ErrorTransport, head: Callable[[Tensor], Tensor], reference: Tensor | None = None
) -> MarginAttribution:
    """Return what the steps added to the margin of the class that the numerical solution predicts.

    Args:
        transport: of the errors.
        head: from states ``(m, *state)`` to logits ``(m, classes)``.
        reference: ``(n,)``, the classes a converged solver predicts; None takes those at the exact end. Where they are
            the trained ones, the rival is the runner-up of the numerical solution.
    """
    logits = transport.read(head).cpu()
    own, runner_up = logits[-1].topk(2, dim=1).indices.unbind(dim=1)
    predicted = logits[0].argmax(dim=1) if reference is None else reference.cpu()
    flipped = (predicted != own) & (predicted != NO_LABEL)
    rivals = torch.where(flipped, predicted, runner_up)

    def of_class(classes: Tensor) -> Tensor:
        return logits.gather(2, classes.expand(len(logits), -1).unsqueeze(2)).squeeze(2)

    margins = of_class(own) - of_class(rivals)
    wrong_side = margins[:-1] <= 0
    last = torch.arange(len(wrong_side)).unsqueeze(1).expand_as(wrong_side)
    turning = torch.where(wrong_side, last, -1).amax(dim=0)
    return MarginAttribution(margins, rivals, flipped, torch.where(flipped, turning, -1))


def concentration(sizes: Tensor, top: float = TOP) -> float | None:
    """Return the share of a total that the largest tenth of its parts ``(parts,)`` makes up; None for nothing.

    At least one part counts, so of few the share of the largest.
    """
    sizes = sizes[torch.isfinite(sizes)]
    total = float(sizes.sum())
    if len(sizes) == 0 or total <= 0:
        return None
    return float(sizes.sort(descending=True).values[: math.ceil(top * len(sizes))].sum()) / total
