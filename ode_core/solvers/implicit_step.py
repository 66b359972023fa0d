"""A step of a diagonally implicit method in an adaptive solve, each sample solving its stages by itself."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ode_core.solvers.adaptive_step import Attempt, Limits, Plan, Walk
from ode_core.solvers.implicit_tableaus import DiagonallyImplicitTableau
from ode_core.solvers.newton import SHORT, StageSolver, round_off
from ode_core.solvers.solution import Field, broadcast_to_state
from ode_core.solvers.stage_derivative import attach_derivative
from ode_core.solvers.step_control import error_ratio
from ode_core.solvers.step_polynomial import combine

# What Newton's iteration may leave of the error that the tolerances allow a step. The error estimate is a difference
# of stages, so it is off by about as much: too little to change the step. Hairer and Wanner use 0.1 to 0.001.
_NEWTON_SHARE = 0.01


class ImplicitStep:
    """A step of a method whose first stage is the last one of the step before. For one solve.

    A step with a stage that Newton's iteration does not solve has an infinite error, so it is rejected and the next
    try is a fifth as long; a sample for which that happens until the step has no length ends with
    ``STEP_UNDERFLOW``. Evaluations of an attempt: one an iteration, as many as the state has numbers for a dense
    Jacobian, or one a product with it where the state is large; with a gradient one more for each implicit stage.
    The solves backwards are not counted.
    """

    first_same_as_last = True

    def __init__(
        self, field: Field, z0: Tensor, tableau: DiagonallyImplicitTableau, max_evaluations: int | None
    ) -> None:
        assert tableau.first_same_as_last
        assert tableau.a[-1] == tableau.b
        self.control_order = tableau.error_order
        self.least_evaluations = tableau.stages - 1
        self._newton = StageSolver(field, z0, SHORT, max_evaluations)
        self._gamma = float(tableau.gamma)
        self._rows = [[float(w) for w in row] for row in tableau.a]
        self._c = [float(c) for c in tableau.c]
        self._error = [float(w) for w in tableau.error]

    def attempt(self, field: Field, walk: Walk, plan: Plan, limits: Limits, direction: float) -> Attempt:
        """Try the planned step of every sample that is still on its way."""
        newton = self._newton
        newton.forget_failures()
        newton.evaluations = walk.evaluations
        newton.differentiable = walk.slope.requires_grad

        def allowed(base: Tensor, increment: Tensor) -> Tensor:
            """Newton's share of the tolerance, or what round-off leaves undecided where that is more."""
            tolerated = limits.atol + limits.rtol * torch.maximum(walk.z.abs(), (base + increment).abs())
            return torch.maximum(_NEWTON_SHARE * tolerated, round_off(base, increment))

        scale = self._scale(walk, plan, direction)
        slopes, base = [walk.slope], walk.z
        for i in range(1, len(self._rows)):
            t, base = self._stage(i, slopes, walk, plan, direction)
            slopes.append(newton.stage(t, base, scale, slopes[-1], walk.running, allowed))
        z_new = base + broadcast_to_state(scale, base) * slopes[-1]
        with torch.no_grad():
            signed = broadcast_to_state(direction * plan.length, base).to(base.dtype)
            ratio = error_ratio(signed * combine(slopes, self._error), walk.z, z_new, limits.rtol, limits.atol)
            ratio = torch.where(newton.failed, torch.inf, ratio)
        evaluations = newton.evaluations - walk.evaluations
        return Attempt(tuple(slopes), z_new, ratio, evaluations, diverged=newton.diverged, exhausted=newton.exhausted)

    def repeated(self, field: Field, walk: Walk, plan: Plan, attempt: Attempt, direction: float) -> Attempt:
        """Return an attempt again with some steps of length 0; the stages of the others are solved already."""
        scale = self._scale(walk, plan, direction)
        standing = broadcast_to_state(plan.length == 0, walk.z)
        slopes, base = [walk.slope], walk.z
        for i in range(1, len(self._rows)):
            t, base = self._stage(i, slopes, walk, plan, direction)
            k = torch.where(standing, walk.slope.detach(), attempt.slopes[i].detach())
            slopes.append(attach_derivative(field, t, base, scale, k))
        z_new = base + broadcast_to_state(scale, base) * slopes[-1]
        return attempt._replace(slopes=tuple(slopes), z_new=z_new)

    def _scale(self, walk: Walk, plan: Plan, direction: float) -> Tensor:
        return (direction * self._gamma * plan.length).to(walk.z.dtype)

    def _stage(
        self, stage: int, slopes: Sequence[Tensor], walk: Walk, plan: Plan, direction: float
    ) -> tuple[Tensor, Tensor]:
        """Return the time of a stage, and what the stages before contribute to its state."""
        c = self._c[stage]
        t = plan.target if c == 1.0 else walk.t + c * (direction * plan.length)
        signed = broadcast_to_state(direction * plan.length, walk.z).to(walk.z.dtype)
        base = walk.z + signed * combine(slopes, self._rows[stage])
        return broadcast_to_state(t, walk.z).to(walk.z.dtype), base
