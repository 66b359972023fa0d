"""Which samples an audit takes apart: the first, or where few of these change all that do and others drawn at random.

Shares of changed predictions and a repair are known by the samples that change. Where one in a hundred does, the first
two hundred hold too few of them, and the audit knows of more.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ode_core.audit.interventions import FEWEST_SAMPLES

Choice = Literal["first", "changed_and_others"]


@dataclass(frozen=True)
class LookedAt:
    """Samples of an audit.

    Attributes:
        numbers: ``(n,)``, ascending.
        choice: how they were chosen.
        weights: ``(n,)`` of float64, how many of the audit's samples each stands for, in a draw from those that change
            and one from the others; None of the first.
    """

    numbers: Tensor
    choice: Choice
    weights: Tensor | None


def looked_at(changed: Tensor, solved: Tensor, samples: int) -> LookedAt:
    """Choose ``samples`` of an audit's.

    The first, where at least 10 of these change or no choice would hold as many. Else all that change, at most half of
    ``samples`` and then drawn at random, and others drawn at random. The same for the same arguments.

    Args:
        changed: ``(n,)`` of bool: whose prediction is another one under a converged solver.
        solved: ``(n,)`` of bool: whose training solve succeeded; the steps of others cannot be taken apart.
        samples: how many, at most ``n``.
    """
    wanted = torch.nonzero(changed & solved).flatten()
    others = torch.nonzero(~(changed & solved)).flatten()
    in_first = int((wanted < samples).sum())
    taken = min(len(wanted), samples // 2)
    if in_first >= FEWEST_SAMPLES or taken < FEWEST_SAMPLES:
        return LookedAt(torch.arange(samples), "first", None)
    generator = torch.Generator().manual_seed(0)
    weights = torch.zeros(len(changed), dtype=torch.float64)
    for stratum, size in ((wanted, taken), (others, samples - taken)):
        drawn = stratum[torch.randperm(len(stratum), generator=generator)[:size]]
        weights[drawn] = len(stratum) / size
    numbers = torch.nonzero(weights).flatten()
    return LookedAt(numbers, "changed_and_others", weights[numbers])
