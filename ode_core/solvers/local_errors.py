"""A solve on a uniform grid that estimates the local error of every step, with gradients through both.

The estimate is the cheapest there is for a method:

* Euler's: the trapezoidal rule takes the slope at the end of the step, which the next step evaluates anyway. The
  difference of the two is ``h/2 (f(z_k) - f(z_(k+1)))``, to leading order Euler's local error.
* A method with an embedded solution: the difference to that, as in step control. Where the embedded solution is of
  lower order this is the error of the less accurate of the two.
* Any other: Richardson's. Two half steps err by ``2^-p`` of what one step does, at order ``p``, so that the error is
  their difference over ``1 - 2^-p``.

Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.4.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.fixed_grid import grid_solution, nothing_done
from ode_core.solvers.interpolants import Row
from ode_core.solvers.solution import Execution, Field, Solution
from ode_core.solvers.status import SolveStatus
from ode_core.solvers.tableaus import ButcherTableau
from ode_core.specs.methods import MethodName
from ode_core.specs.regularisation import local_error_evaluations
from ode_core.specs.solver import SolverSpec

# Of the slope at the start and at the end: Euler's step minus that of the trapezoidal rule.
_EULER_ERROR: Row = (Fraction(1, 2), Fraction(-1, 2))


def solve_with_local_errors(
    field: Field,
    z0: Tensor,
    solver: SolverSpec,
    *,
    t0: float = 0.0,
    t1: float = 1.0,
    max_evaluations: int | None = None,
) -> tuple[Solution, Tensor]:
    """Solve as ``solve`` does, step by step, and estimate what each step errs by.

    Args:
        field: ``f(t, z)``.
        z0: ``(batch, *state)``.
        solver: an explicit method on a uniform grid.
        t0: start time.
        t1: end time.
        max_evaluations: bound on the evaluations of the field for one sample, or None.

    Returns:
        The solution, whose ``evaluations`` include those of the estimate, and the errors ``(steps, batch, *state)``:
        about the step's end minus that of the exact flow from the same start. NaN where the bound does not suffice;
        not finite where the solve is not.

    Raises:
        ValueError: the solver is another one.
    """
    if solver.adaptive or solver.facts.family != "explicit" or solver.grid == "truncate":
        raise ValueError(f"local errors are estimated for explicit methods on uniform grids, not for {solver.label}")
    steps = solver.fixed_steps(t0, t1)
    planned = solver.facts.evaluations(steps) + local_error_evaluations(solver, steps)
    if max_evaluations is not None and planned > max_evaluations:
        return nothing_done(z0, None, SolveStatus.BUDGET_EXCEEDED), z0.new_full((steps, *z0.shape), torch.nan)
    walk = _Walk(field, solver.method, steps, t0, t1)
    final, errors = walk.run(z0)
    assert walk.evaluations == planned
    execution = Execution("eager", reason="the errors of the steps are estimated")
    return grid_solution(z0, final, planned, steps, walk.h, execution), errors


class _Walk:
    """One solve: its grid, and what it has evaluated."""

    def __init__(self, field: Field, method: MethodName, steps: int, t0: float, t1: float) -> None:
        self.field, self.steps, self.t0, self.t1 = field, steps, t0, t1
        self.tableau: ButcherTableau = TABLEAUS[method]
        self.h = (t1 - t0) / steps
        self.evaluations = 0

    def run(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the end and the errors of all steps."""
        weights = self._error_weights()
        # With these the slope at the end of a step, which begins the next one, is the last that the estimate needs.
        slope_at_end = weights is not None and len(weights) > len(self.tableau.grid_rows)
        errors: list[Tensor] = []
        first: Tensor | None = None
        for k in range(self.steps):
            if first is None:
                first = self._evaluate(float(k), z)
            slopes = self._slopes(float(k), 1.0, z, first)
            after = self._advance(z, self.h, slopes)
            if weights is None:
                errors.append(self._doubled(float(k), z, first, after))
                first = None
            else:
                first = self._evaluate(float(k + 1), after) if slope_at_end else None
                known = slopes if first is None else [*slopes, first]
                errors.append(_combined(known, [self.h * float(weight) for weight in weights]))
            z = after
        return z, torch.stack(errors)

    def _error_weights(self) -> Row | None:
        """Return the weights of the error over the slopes of a step, or None for a method without an estimate."""
        if self.tableau.embedded is not None:
            return self.tableau.error
        return _EULER_ERROR if self.tableau.order == 1 else None

    def _doubled(self, position: float, z: Tensor, first: Tensor, after: Tensor) -> Tensor:
        """Return the error of the step from ``z`` to ``after`` by two half steps."""
        half = self.h / 2
        middle = self._advance(z, half, self._slopes(position, 0.5, z, first))
        second = self._slopes(position + 0.5, 0.5, middle, self._evaluate(position + 0.5, middle))
        return (after - self._advance(middle, half, second)) / (1 - 0.5**self.tableau.order)

    def _slopes(self, position: float, share: float, z: Tensor, first: Tensor) -> list[Tensor]:
        """Return the slopes of a step of ``share`` grid steps, beginning ``position`` grid steps from the start."""
        slopes = [first]
        rows = self.tableau.grid_rows
        for c, row in zip(self.tableau.c[1 : len(rows)], rows[1:], strict=True):
            stage = z
            for weight, slope in zip(row, slopes, strict=True):
                if weight:
                    stage = torch.add(stage, slope, alpha=share * self.h * float(weight))
            slopes.append(self._evaluate(position + share * float(c), stage))
        return slopes

    def _advance(self, z: Tensor, h: float, slopes: Sequence[Tensor]) -> Tensor:
        for weight, slope in zip(self.tableau.b[: len(slopes)], slopes, strict=True):
            if weight:
                z = torch.add(z, slope, alpha=h * float(weight))
        return z

    def _evaluate(self, position: float, z: Tensor) -> Tensor:
        self.evaluations += 1
        t = self.t0 + (self.t1 - self.t0) * position / self.steps
        t = min(max(t, min(self.t0, self.t1)), max(self.t0, self.t1))
        return self.field(torch.tensor(t, dtype=z.dtype, device=z.device), z)


def _combined(slopes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the sum of ``slopes`` times ``weights``."""
    total = slopes[0] * weights[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total = torch.add(total, slope, alpha=weight)
    return total
