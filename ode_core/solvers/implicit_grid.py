"""Diagonally implicit Runge-Kutta methods on a uniform grid of an integer number of steps."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from ode_core.solvers.fixed_grid import grid_positions
from ode_core.solvers.implicit_tableaus import IMPLICIT_TABLEAUS, DiagonallyImplicitTableau
from ode_core.solvers.newton import LONG, StageSolver, round_off
from ode_core.solvers.solution import Execution, Field, Solution, broadcast_to_state, finite_samples
from ode_core.solvers.status import SolveStatus
from ode_core.solvers.step_polynomial import HermiteCubic, evaluate_polynomial
from ode_core.specs.methods import MethodName

_RUNNING = -1


def solve_implicit_grid(
    field: Field,
    z0: Tensor,
    method: MethodName,
    steps: int,
    *,
    t0: float,
    t1: float,
    times: Tensor | None = None,
    max_evaluations: int | None = None,
) -> Solution:
    """Solve with ``steps`` equal steps from ``t0`` to ``t1``; see ``solve`` for the arguments.

    Every stage is solved to round-off. How many evaluations that takes depends on the sample: one at the start, one
    an iteration, as many as the state has numbers for a dense Jacobian, or one a product with it where the state is
    large. With a gradient each implicit stage takes one more; the solves backwards are not counted.

    Between grid points the output is the cubic Hermite interpolant of the states and their derivatives, as for the
    explicit methods. The derivative at a grid point is the last stage, where that is the next first one, else an
    evaluation.
    """
    walk = _ImplicitGridWalk(field, z0, IMPLICIT_TABLEAUS[method], steps, t0, t1, max_evaluations)
    trajectory = walk.run(None if times is None else grid_positions(times, steps, t0, t1))
    return Solution(
        final=walk.reached(walk.z),
        status=torch.where(walk.status == _RUNNING, int(SolveStatus.SUCCESS), walk.status),
        evaluations=walk.newton.evaluations,
        accepted=walk.accepted,
        rejected=torch.zeros_like(walk.accepted),
        last_step=(walk.accepted > 0) * abs(walk.h),
        times=times,
        trajectory=trajectory,
        execution=Execution(reason="an implicit step iterates as often as its samples need"),
    )


class _ImplicitGridWalk:
    """One solve on the grid; a sample that fails stays where it was."""

    def __init__(
        self,
        field: Field,
        z0: Tensor,
        tableau: DiagonallyImplicitTableau,
        steps: int,
        t0: float,
        t1: float,
        max_evaluations: int | None,
    ) -> None:
        self.field, self.tableau, self.steps, self.t0, self.t1 = field, tableau, steps, t0, t1
        self.h = (t1 - t0) / steps
        self.z = z0
        self.newton = StageSolver(field, z0, LONG, max_evaluations)
        self.status = torch.full((z0.shape[0],), _RUNNING, dtype=torch.int64, device=z0.device)
        self.accepted = torch.zeros_like(self.status)
        self._scale = z0.new_full((z0.shape[0],), self.h * float(tableau.gamma))
        self._rows = [[self.h * float(w) for w in row] for row in tableau.a]
        self._b = [self.h * float(w) for w in tableau.b]
        self._c = [float(c) for c in tableau.c]
        self._slope = z0  # the last slope there is, of which the next guess is made
        self._is_here = False  # whether it is the field at the current state

    def run(self, outputs: Sequence[tuple[int, float]] | None) -> Tensor | None:
        """Walk to ``t1``; return the states at the output positions ``(k, s)``, in order."""
        shares = defaultdict(list)
        for k, s in outputs or ():
            shares[k].append(s)
        self._start()
        states: list[Tensor] = []
        for k in range(self.steps):
            states += self._step_with_outputs(k, shares[k])
        if outputs is None:
            return None
        return torch.stack([*states, *(self.reached(self.z) for _ in shares[self.steps])])

    @property
    def running(self) -> Tensor:
        """``(batch,)`` of bool: samples that have not failed."""
        return self.status == _RUNNING

    def reached(self, values: Tensor) -> Tensor:
        """Return the values of the samples that have not failed, NaN for the others."""
        return torch.where(broadcast_to_state(self.running, values), values, torch.nan)

    def _start(self) -> None:
        slope = self._slope_here(0)
        self._fail(self.newton.exhausted, SolveStatus.BUDGET_EXCEEDED)
        self._fail(~(finite_samples(slope) & finite_samples(self.z)), SolveStatus.NON_FINITE)
        self.newton.differentiable = slope.requires_grad

    def _step_with_outputs(self, k: int, shares: Sequence[float]) -> list[Tensor]:
        """Do step ``k``; return the states at some shares of it."""
        start = self.z
        arrived = self.reached(start) if shares else start
        if not any(shares):
            self._step(k)
            return [arrived] * len(shares)
        slope = self._slope_here(k)
        self._step(k)
        end_slope = self._slope_here(k + 1)
        self._fail(self.newton.exhausted, SolveStatus.BUDGET_EXCEEDED)
        cubic = HermiteCubic().coefficients(self.h, start, [slope], self.z, end_slope)
        return [
            self.reached(evaluate_polynomial(start, cubic, start.new_tensor(s))) if s > 0 else arrived for s in shares
        ]

    def _step(self, k: int) -> None:
        newton, slopes = self.newton, list[Tensor]()
        newton.forget_failures()
        z_stage = self.z
        for implicit, row, c in zip(self.tableau.implicit, self._rows, self._c, strict=True):
            if not implicit:
                slopes.append(self._slope_here(k))
                continue
            base = _added(self.z, slopes, row)
            # From the stage before, not along its slope: with a large step that leads far away, to another solution.
            guess = (z_stage - base) / row[-1]
            slopes.append(newton.stage(self._time(k + c), base, self._scale, guess, self.running, round_off))
            z_stage = base + row[-1] * slopes[-1]
        at_end = self.tableau.a[-1] == self.tableau.b
        z_new = z_stage if at_end else _added(self.z, slopes, self._b)
        self._fail(newton.exhausted, SolveStatus.BUDGET_EXCEEDED)
        self._fail(newton.non_finite | ~finite_samples(z_new), SolveStatus.NON_FINITE)
        self._fail(newton.diverged, SolveStatus.NEWTON_DIVERGED)
        self.z = torch.where(broadcast_to_state(self.running, z_new), z_new, self.z)
        self.accepted = self.accepted + self.running
        self._slope, self._is_here = slopes[-1], self.tableau.first_same_as_last

    def _slope_here(self, k: int) -> Tensor:
        """Return the field at grid point ``k`` and the current state."""
        if not self._is_here:
            self._slope = self.newton.evaluate(self._time(k), self.z, self.running)
            self._is_here = True
        return self._slope

    def _time(self, position: float) -> Tensor:
        """Return the time after ``position`` steps, 0-d."""
        t = self.t1 if position == self.steps else self.t0 + (self.t1 - self.t0) * position / self.steps
        # Round-off must not carry a stage beyond the end, where the field need not be defined.
        t = min(max(t, min(self.t0, self.t1)), max(self.t0, self.t1))
        return torch.tensor(t, dtype=self.z.dtype, device=self.z.device)

    def _fail(self, which: Tensor, status: SolveStatus) -> None:
        self.status = torch.where(which & self.running, int(status), self.status)


def _added(z: Tensor, slopes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return ``z + sum_i w_i k_i`` over the slopes there are."""
    for slope, w in zip(slopes, weights, strict=False):
        if w != 0.0:
            z = torch.add(z, slope, alpha=w)
    return z
