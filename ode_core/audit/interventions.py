"""Is it the crossing steps that make the predictions, or the sum of small errors? Decided by intervention.

The model is run again with some of its steps replaced by the exact flow over the same time: those that no flow can
make (flagged), and, in a second run, all others. What the first run loses of what the converged solution loses is the
share of crossing, what the second loses that of accumulation. They need not add up to 1; the rest is interaction.

Steps that follow each other are replaced by one flow over all of them. The predictions decide how accurately: as for
the audit's reference the tolerance is tightened until they are settled.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core.audit.exact_flow import flow
from ode_core.audit.reference import FIRST_TOLERANCE, LAST_TOLERANCE, are_settled
from ode_core.audit.step_grid import StepGrid, walk
from ode_core.models.predictions import NO_LABEL
from ode_core.solvers.step_map import StepMap

# Fewer samples than this make no denominator: one sample would be a tenth of a share and more.
FEWEST_SAMPLES = 10

Head = Callable[[Tensor], Tensor]
"""From final states ``(n, *state)`` to logits ``(n, classes)``."""


@dataclass(frozen=True)
class Shares:
    """Parts of what the model loses under a converged solver; None where too few samples tell.

    Attributes:
        crossing: lost when the flagged steps are replaced.
        accumulation: lost when the others are.
        interaction: 1 minus both.
        reason: why there are none, or None.
    """

    crossing: float | None
    accumulation: float | None
    interaction: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Predictions of one run: the accuracy, and the share of samples whose prediction is not the trained one."""

    accuracy: float
    flip_rate: float


@dataclass(frozen=True)
class InterventionalSplit:
    """What the two interventions did.

    Attributes:
        samples: number of samples.
        trained: the model as it is.
        reference: under a converged solver.
        without_crossing: with its flagged steps replaced by the exact flow.
        without_accumulation: with all other steps replaced.
        by_accuracy: shares of the accuracy that is lost. They saturate where it falls to chance.
        by_flips: shares of the predictions that change, which do not.
        unconverged: predictions that did not settle, of both runs.
    """

    samples: int
    trained: Outcome
    reference: Outcome
    without_crossing: Outcome
    without_accumulation: Outcome
    by_accuracy: Shares
    by_flips: Shares
    unconverged: int

    def to_json(self) -> dict[str, Any]:
        """Return the split as JSON values."""
        return asdict(self)


@torch.no_grad()
def intervene(
    psi: StepMap,
    grid: StepGrid,
    z0: Tensor,
    replaced: Tensor,
    *,
    tolerance: float,
    max_evaluations: int | None = None,
) -> Tensor:
    """Return ``(n, *state)``, the ends of a run of the grid from ``z0`` with the exact flow in the place of some steps.

    Args:
        psi: the step.
        grid: the steps.
        z0: ``(n, *state)`` in float64.
        replaced: ``(steps, n)`` of bool, on the CPU.
        tolerance: of each flow, relative to the state. A solve that fails is NaN.
        max_evaluations: bound on the evaluations of the field for one sample in one flow, or None.
    """
    replaced = replaced & grid.taken
    begins, ends = _runs(grid, replaced)

    def advance(number: int, samples: Tensor, z: Tensor) -> Tensor:
        exactly, begin = replaced[number, samples], begins[number, samples]
        here, there = torch.nonzero(~exactly).flatten(), torch.nonzero(begin).flatten()
        after = z.clone()  # in the midst of a run, and already at its end
        if len(here) > 0:
            rows = here.to(z.device)
            after[rows] = psi(z[rows], grid.step(number, samples[here], z))
        if len(there) > 0:
            who, rows = samples[there], there.to(z.device)
            after[rows] = flow(
                psi.field,
                z[rows],
                grid.starts[number, who],
                ends[number, who],
                first_tolerance=tolerance,
                refinements=0,
                max_evaluations=max_evaluations,
            ).ends
        return after

    final = z0
    for state in walk(grid, z0, advance):
        final = state
    return final


def _runs(grid: StepGrid, replaced: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(steps, n)``: which replaced steps follow none, and the time after the last of those that follow it."""
    begins, ends = replaced.clone(), grid.ends.clone()
    begins[1:] &= ~replaced[:-1]
    for number in reversed(range(grid.steps - 1)):
        goes_on = replaced[number] & replaced[number + 1]
        ends[number] = torch.where(goes_on, ends[number + 1], ends[number])
    return begins, ends


def settled_intervention(
    psi: StepMap,
    grid: StepGrid,
    z0: Tensor,
    replaced: Tensor,
    head: Head,
    *,
    max_evaluations: int | None = None,
) -> tuple[Tensor, int]:
    """Return the classes ``(n,)`` that a run with steps replaced predicts, and how many of them did not settle.

    ``NO_LABEL`` where a solve fails; it counts as not settled. See ``intervene`` and ``are_settled``.
    """

    def run(samples: Tensor, tolerance: float) -> Tensor:
        final = intervene(
            psi,
            grid.select(samples),
            z0[samples.to(z0.device)],
            replaced[:, samples],
            tolerance=tolerance,
            max_evaluations=max_evaluations,
        )
        with torch.no_grad():
            return head(final).cpu()

    open_samples, tolerance = torch.arange(len(z0)), FIRST_TOLERANCE
    logits = run(open_samples, tolerance)
    unsettled = torch.ones(len(z0), dtype=torch.bool)
    while len(open_samples) > 0 and tolerance > 1.01 * LAST_TOLERANCE:
        tolerance /= 10
        fine = run(open_samples, tolerance)
        settled = are_settled(logits[open_samples], fine)
        logits[open_samples], unsettled[open_samples] = fine, ~settled
        # A solve that fails does so at a tighter tolerance too.
        open_samples = open_samples[~settled & torch.isfinite(fine).all(dim=1)]
    return labels_of(logits), int(unsettled.sum())


def labels_of(logits: Tensor) -> Tensor:
    """Return the predicted classes ``(n,)``, ``NO_LABEL`` where a logit is no number."""
    return torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), NO_LABEL)


def interventional_split(
    psi: StepMap,
    grid: StepGrid,
    z0: Tensor,
    flagged: Tensor,
    head: Head,
    labels: Tensor,
    trained: Tensor,
    reference: Tensor,
    *,
    max_evaluations: int | None = None,
) -> InterventionalSplit:
    """Replace the flagged steps, then all others, and say what became of the predictions.

    A sample none of whose steps is to be replaced keeps its trained prediction, and one with all of them replaced has
    the reference's, by definition: neither is run again.

    Args:
        psi: the step.
        grid: the steps.
        z0: ``(n, *state)`` in float64.
        flagged: ``(steps, n)`` of bool, on the CPU.
        head: of the model.
        labels: ``(n,)``, the right classes.
        trained: ``(n,)``, those predicted under the training solver.
        reference: ``(n,)``, those predicted under a converged one.
        max_evaluations: bound on the evaluations of the field for one sample in one flow, or None.
    """
    unconverged = 0

    def predictions(replaced: Tensor) -> Tensor:
        nonlocal unconverged
        some, every = replaced.any(dim=0), (replaced | ~grid.taken).all(dim=0)
        predicted = torch.where(some, reference, trained)
        mixed = torch.nonzero(some & ~every).flatten()
        if len(mixed) > 0:
            predicted[mixed], unsettled = settled_intervention(
                psi,
                grid.select(mixed),
                z0[mixed.to(z0.device)],
                replaced[:, mixed],
                head,
                max_evaluations=max_evaluations,
            )
            unconverged += unsettled
        return predicted

    a, b = predictions(flagged & grid.taken), predictions(~flagged & grid.taken)

    def outcome(predicted: Tensor) -> Outcome:
        flips = (predicted != trained) | (predicted == NO_LABEL)
        return Outcome(float((predicted == labels).double().mean()), float(flips.double().mean()))

    outcomes = [outcome(predicted) for predicted in (trained, reference, a, b)]
    samples, (own, converged, without_crossing, without_accumulation) = len(labels), outcomes
    return InterventionalSplit(
        samples=samples,
        trained=own,
        reference=converged,
        without_crossing=without_crossing,
        without_accumulation=without_accumulation,
        by_accuracy=_shares(
            own.accuracy - converged.accuracy,
            own.accuracy - without_crossing.accuracy,
            own.accuracy - without_accumulation.accuracy,
            samples,
            "the accuracy under a converged solver is less by",
        ),
        by_flips=_shares(
            converged.flip_rate,
            without_crossing.flip_rate,
            without_accumulation.flip_rate,
            samples,
            "under a converged solver the predictions change for",
        ),
        unconverged=unconverged,
    )


def _shares(whole: float, crossing: float, accumulation: float, samples: int, what: str) -> Shares:
    lost = round(whole * samples)
    if lost < FEWEST_SAMPLES:
        return Shares(None, None, None, f"{what} {lost} of {samples} samples; shares need at least {FEWEST_SAMPLES}")
    parts = crossing / whole, accumulation / whole
    return Shares(*parts, 1 - sum(parts))
