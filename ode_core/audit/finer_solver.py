"""The same solver a notch finer, and how far the difference tells the error. Without torch."""

import math

from ode_core.specs.solver import MAX_FIXED_STEPS, SolverSpec

TOLERANCE_RATIO = 10.0
_DIGITS = 12  # of a tolerance: 1e-6 and not the 1.0000000000000002e-06 that a tenth of 1e-5 is
# Than by the order of the estimate. With random weights and tolerances from 1e-1 to 1e-5 steps grew by up to 3.3 times
# for order 1 and twice for order 4, where the orders alone say 3.2 and 1.6.
_MORE_STEPS = 1.25


def finer_solver(solver: SolverSpec, end_time: float) -> SolverSpec:
    """Return the same method with twice the steps on ``[0, end_time]``, or with a tenth of the tolerances.

    The bound on an adaptive solver's steps grows by what those may: twice for an error estimate of order 4 or more,
    three and four times for those of order 2 and 1.

    Raises:
        ValueError: twice the steps are more than a grid may have.
    """
    if solver.rtol is not None and solver.atol is not None:
        finer: dict[str, float] = {"rtol": _tenth(solver.rtol), "atol": _tenth(solver.atol)}
        if solver.max_steps is not None:
            finer["max_steps"] = min(MAX_FIXED_STEPS, solver.max_steps * _growth_of_steps(solver))
        return SolverSpec.model_validate(solver.document() | finer)
    return solver.with_steps(2 * solver.fixed_steps(0.0, end_time))


def _tenth(tolerance: float) -> float:
    return float(f"{tolerance / TOLERANCE_RATIO:.{_DIGITS}g}")


def _growth_of_steps(solver: SolverSpec) -> int:
    """Return by how much the steps may grow: the estimate of one of size ``h`` is of size ``h^(q + 1)``."""
    facts = solver.facts
    order = min(facts.order, facts.embedded_order or facts.order)
    growth: float = TOLERANCE_RATIO ** (1 / (order + 1))
    return math.ceil(_MORE_STEPS * growth)


def error_per_difference(solver: SolverSpec) -> float:
    """Return by what the difference to the finer solution is to be multiplied to estimate the coarser one's error.

    With steps of half the length the error of a method of order ``p`` is ``2^-p`` of what it was, which leaves
    ``1 - 2^-p`` of it in the difference (Richardson's extrapolation). An adaptive solver's error is taken to follow its
    tolerance.

    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.4.
    """
    remaining = 1 / TOLERANCE_RATIO if solver.adaptive else 0.5**solver.facts.order
    return 1 / (1 - remaining)
