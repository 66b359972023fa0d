"""Bracket the coarsest step count with which a model is still an ODE, by bisection over powers of two.

The claim behind bisection is monotonicity: training with a finer step leaves less to be gained by fitting the step,
so a step count at which every seed's model keeps its answers under a fine solver is followed only by such. Nothing
guarantees it for single runs. What was measured is therefore kept apart from what is concluded: ``violations`` names
each seed that passes at one step count and fails at a finer one, and with ``confirm`` the next finer step count is
measured, too, and the search goes on above it if that fails.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Outcomes = Mapping[int, bool]
"""Step count that was trained with -> whether every seed's model passes."""


@dataclass(frozen=True)
class Bracket:
    """Where the critical step count lies.

    Attributes:
        last_failing: the greatest step count measured that fails; None if none was seen to fail.
        first_passing: the least measured above that; None if none was seen to pass there.
    """

    last_failing: int | None
    first_passing: int | None


@dataclass(frozen=True)
class Violation:
    """One seed whose model passes at one step count and fails at a finer one."""

    seed: int
    passes_at: int
    fails_at: int


def powers_of_two(lowest: int, highest: int) -> list[int]:
    """Return the powers of two from ``lowest`` to ``highest``, which are such themselves."""
    return [2**exponent for exponent in range(lowest.bit_length() - 1, highest.bit_length())]


def bracket(candidates: Sequence[int], outcomes: Outcomes) -> Bracket:
    """Return what the outcomes say; of candidates in growing order."""
    failing = [steps for steps in candidates if outcomes.get(steps) is False]
    last_failing = failing[-1] if failing else None
    passing = [steps for steps in candidates if outcomes.get(steps) and (last_failing is None or steps > last_failing)]
    return Bracket(last_failing, passing[0] if passing else None)


def next_steps(candidates: Sequence[int], outcomes: Outcomes, *, confirm: bool = False) -> int | None:
    """Return the step count to train with next, or None when the bracket is as narrow as the candidates allow.

    At most ``floor(log2(n)) + 1`` of ``n`` candidates are asked for, and one more to confirm, unless that fails.

    Args:
        candidates: step counts in growing order.
        outcomes: of those measured so far.
        confirm: whether the candidate above the first passing one has to pass, too.
    """
    found = bracket(candidates, outcomes)
    below = -1 if found.last_failing is None else candidates.index(found.last_failing)
    above = len(candidates) if found.first_passing is None else candidates.index(found.first_passing)
    if above - below > 1:
        return candidates[(below + above) // 2]
    if confirm and above + 1 < len(candidates) and candidates[above + 1] not in outcomes:
        return candidates[above + 1]
    return None


def violations(passed: Mapping[int, Mapping[int, bool]]) -> list[Violation]:
    """Return where single seeds contradict monotonicity: for each seed and finer step count the nearest coarser one.

    Args:
        passed: step count -> seed -> whether the seed's model passes.
    """
    found = []
    for fails_at in sorted(passed):
        for seed, passes in sorted(passed[fails_at].items()):
            coarser = [steps for steps in passed if steps < fails_at and passed[steps].get(seed)]
            if not passes and coarser:
                found.append(Violation(seed, max(coarser), fails_at))
    return found
