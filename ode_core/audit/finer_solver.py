"""The same solver a notch finer, and how far the difference tells the error. Without torch."""

from ode_core.specs.solver import SolverSpec

TOLERANCE_RATIO = 10.0


def finer_solver(solver: SolverSpec, end_time: float) -> SolverSpec:
    """Return the same method with twice the steps on ``[0, end_time]``, or with a tenth of the tolerances.

    Raises:
        ValueError: twice the steps are more than a grid may have.
    """
    if solver.rtol is not None and solver.atol is not None:
        finer = {"rtol": solver.rtol / TOLERANCE_RATIO, "atol": solver.atol / TOLERANCE_RATIO}
        return SolverSpec.model_validate(solver.document() | finer)
    return solver.with_steps(2 * solver.fixed_steps(0.0, end_time))


def error_per_difference(solver: SolverSpec) -> float:
    """Return by what the difference to the finer solution is to be multiplied to estimate the coarser one's error.

    With steps of half the length the error of a method of order ``p`` is ``2^-p`` of what it was, which leaves
    ``1 - 2^-p`` of it in the difference (Richardson's extrapolation). An adaptive solver's error is taken to follow its
    tolerance.

    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.4.
    """
    remaining = 1 / TOLERANCE_RATIO if solver.adaptive else 0.5**solver.facts.order
    return 1 / (1 - remaining)
