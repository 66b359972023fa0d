"""Diagonally implicit Runge-Kutta methods with step control for each sample by itself."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ode_core.solvers.adaptive import _AdaptiveWalk
from ode_core.solvers.implicit_tableaus import IMPLICIT_TABLEAUS, DiagonallyImplicitTableau
from ode_core.solvers.newton import SHORT, StageSolver, attach_gradient, round_off
from ode_core.solvers.solution import Field, Solution, broadcast_to_state
from ode_core.solvers.status import SolveStatus
from ode_core.specs.methods import MethodName

# What Newton's iteration may leave of the error that the tolerances allow a step. The error estimate is a difference
# of stages, so it is off by about as much: too little to change the step. Hairer and Wanner use 0.1 to 0.001.
_NEWTON_SHARE = 0.01


def solve_implicit_adaptive(
    field: Field,
    z0: Tensor,
    method: MethodName,
    *,
    rtol: float,
    atol: float,
    max_steps: int,
    t0: float,
    t1: float,
    times: Tensor | None = None,
    max_evaluations: int | None = None,
) -> Solution:
    """Solve from ``t0`` to ``t1`` with error control; see ``solve`` for the arguments.

    Steps are accepted as those of the explicit methods are. A step with a stage that Newton's iteration does not
    solve is rejected, and the next try is a fifth as long; a sample for which that happens until the step has no
    length ends with ``STEP_UNDERFLOW``. Evaluations: 2 at the start, then those of ``solve_implicit_grid`` a step.

    Gradients are those of the accepted steps, not of the choice of their lengths.
    """
    tableau = IMPLICIT_TABLEAUS[method]
    return _ImplicitWalk(field, z0, tableau, rtol, atol, max_steps, t0, t1, times, max_evaluations).run()


class _ImplicitWalk(_AdaptiveWalk):
    """The adaptive walk with implicit steps of a method whose first stage is the last one of the step before."""

    def __init__(
        self,
        field: Field,
        z0: Tensor,
        tableau: DiagonallyImplicitTableau,
        rtol: float,
        atol: float,
        max_steps: int,
        t0: float,
        t1: float,
        times: Tensor | None,
        max_evaluations: int | None,
    ) -> None:
        super().__init__(field, z0, tableau, rtol, atol, max_steps, t0, t1, times, max_evaluations)
        assert tableau.first_same_as_last
        assert tableau.a[-1] == tableau.b
        self.newton = StageSolver(field, z0, SHORT, max_evaluations)
        self._gamma = float(tableau.gamma)
        self._rows = [[float(w) for w in row] for row in tableau.a]
        self._shares = [float(c) for c in tableau.c]
        self._weights = [float(w) for w in tableau.error]
        self._solved: list[Tensor] = []  # slopes of the last attempt, without a graph

    def _attempt(self, slope: Tensor, length: Tensor, target: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return the slopes of all stages, the new state and the error estimate, infinite where Newton failed."""
        newton = self.newton
        newton.forget_failures()
        newton.evaluations = self.evaluations
        newton.differentiable = slope.requires_grad
        scale = (self.direction * self._gamma * length).to(self.z.dtype)
        slopes, base = [slope], self.z
        for i in range(1, self.tableau.stages):
            base = self._base(slopes, i, length)
            slopes.append(
                newton.stage(self._stage_time(i, length, target), base, scale, slopes[-1], self.running, self._allowed)
            )
        self._solved = [k.detach() for k in slopes]
        z_new = base + broadcast_to_state(scale, base) * slopes[-1]
        with torch.no_grad():
            signed = broadcast_to_state(self.direction * length, base).to(base.dtype)
            error = signed * sum(k * w for k, w in zip(slopes, self._weights, strict=True))
            error = torch.where(broadcast_to_state(newton.failed, error), torch.inf, error)
        return slopes, z_new, error

    def _attempt_evaluations(self) -> Tensor:
        return self.newton.evaluations - self.evaluations

    def _attempt_without(
        self, broken: Tensor, slope: Tensor, length: Tensor, target: Tensor
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Repeat a step with length 0 for samples that broke in it; the others' stages are solved already."""
        length, target = torch.where(broken, 0.0, length), torch.where(broken, self.t, target)
        scale = (self.direction * self._gamma * length).to(self.z.dtype)
        slopes, base = [slope], self.z
        for i in range(1, self.tableau.stages):
            k = torch.where(broadcast_to_state(broken, base), slope.detach(), self._solved[i])
            base = self._base(slopes, i, length)
            slopes.append(attach_gradient(self.field, self._stage_time(i, length, target), base, scale, k))
        return slopes, base + broadcast_to_state(scale, base) * slopes[-1], torch.zeros_like(base)

    def _base(self, slopes: Sequence[Tensor], stage: int, length: Tensor) -> Tensor:
        signed = broadcast_to_state(self.direction * length, self.z).to(self.z.dtype)
        known = zip(slopes, self._rows[stage], strict=False)
        return self.z + signed * sum(k * w for k, w in known)

    def _stage_time(self, stage: int, length: Tensor, target: Tensor) -> Tensor:
        share = self._shares[stage]
        t = target if share == 1.0 else self.t + share * (self.direction * length)
        return broadcast_to_state(t, self.z).to(self.z.dtype)

    def _allowed(self, base: Tensor, increment: Tensor) -> Tensor:
        """Return Newton's share of the tolerance, or what round-off leaves undecided where that is more."""
        tolerated = self.atol + self.rtol * torch.maximum(self.z.abs(), (base + increment).abs())
        return torch.maximum(_NEWTON_SHARE * tolerated, round_off(base, increment))

    def _fail_underflow(self, rejected: Tensor, h: Tensor, broken: Tensor) -> None:
        # Where Newton failed among finite numbers, the step became too small like any other.
        super()._fail_underflow(rejected, h, broken & ~self.newton.diverged)

    def _fail_exhausted(self, accept: Tensor) -> None:
        # What a step will take is not known before; the iteration stops where the budget does.
        self._fail(self.newton.exhausted, SolveStatus.BUDGET_EXCEEDED)
        self._fail(self.accepted + self.rejected >= self.max_steps, SolveStatus.MAX_STEPS_REACHED)
