"""The stages of implicit methods by Newton's iteration, each sample by itself.

A stage is a slope ``k`` with ``k = f(t, base + s k)``, where ``base`` holds what the stages before contribute and
``s`` is the signed step times the diagonal element of the tableau.

Sources: Hairer, Wanner, Solving Ordinary Differential Equations II, IV.8 (the simplified iteration and when to stop
it); Kelley, Solving Nonlinear Equations with Newton's Method, 2003, chapter 3 (the matrix-free one).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core.solvers.linearisation import FORCING, linearisation
from ode_core.solvers.solution import Field, broadcast_to_state, finite_samples, per_sample
from ode_core.solvers.stage_derivative import attach_derivative
from ode_core.solvers.step_control import sample_rms

# Updates this many times what is asked for that no longer shrink are round-off: a stiff field's Jacobian magnifies
# the rounding of its argument.
_NOISE = 100.0

# Iterations with Jacobians of the stage itself that did not shrink the update, after which it counts as hopeless.
_STALLS = 6

# Iterations to go at which new Jacobians are taken however dear they are.
_FEW = 8

Allowed = Callable[[Tensor, Tensor], Tensor]
"""From ``base`` and ``s k``, ``(batch, *state)``, to the error allowed in their sum; broadcasts against it."""


def round_off(base: Tensor, increment: Tensor) -> Tensor:
    """Return what rounding leaves undecided in ``base + increment``: a few units of the numbers that go into it.

    They are each component's own, and the largest of the sample's sum. Not the largest that any component adds: a
    stiff one adds, and takes away again, numbers that are larger than the state by as much as it is stiff.
    """
    largest = per_sample(base + increment).abs().amax(dim=1)
    eps, smallest = torch.finfo(base.dtype).eps, torch.finfo(base.dtype).tiny
    own = base.abs() + increment.abs()
    return (4 * eps * torch.maximum(own, broadcast_to_state(largest, base))).clamp(min=smallest)


@dataclass(frozen=True)
class Patience:
    """When Newton's iteration gives up.

    Attributes:
        iterations: iterations of one stage.
        growth: an update this many times as large as the one before, with a Jacobian of this stage, ends it.
        forcing: what GMRES leaves of a right side, relative to it.
        every_component: whether each component must be solved as well as is allowed, or their mean square. What GMRES
            left is held against what is allowed, too: a component that it neglects has no update.
    """

    iterations: int
    growth: float
    forcing: float
    every_component: bool


# A step that can be shortened should be so early: what diverges at first rarely recovers.
SHORT = Patience(iterations=12, growth=2.0, forcing=FORCING, every_component=False)
# A fixed step has no other chance, and goes on to round-off. What GMRES leaves is small beside the whole right side,
# of which stiff components make nearly all: by their share the others are solved worse.
LONG = Patience(iterations=50, growth=math.inf, forcing=1e-5, every_component=True)


class StageSolver:
    """Solves the stages of one solve, one after another.

    Jacobians are kept from stage to stage and from step to step. They are taken anew, at the current iterate, for
    samples whose iteration diverges, or contracts so slowly that the iterations to go would take more evaluations
    than new Jacobians. Large states have no Jacobians to keep: every iterate is linearised by products.

    Attributes:
        evaluations: ``(batch,)``, evaluations of the field so far; a product with a Jacobian counts as one.
        diverged: ``(batch,)`` of bool, samples with a stage that was not solved since ``forget_failures``.
        non_finite: those of which the field was not finite where the iteration began.
        exhausted: those that the budget stopped.
        differentiable: whether the solve has a gradient, by the start or by the field's parameters.
    """

    def __init__(self, field: Field, z: Tensor, patience: Patience, budget: int | None) -> None:
        self.field, self.patience, self.budget = field, patience, budget
        self.differentiable = False
        self.evaluations = torch.zeros(z.shape[0], dtype=torch.int64, device=z.device)
        self._nobody = torch.zeros_like(self.evaluations, dtype=torch.bool)
        self._system = linearisation(field, z, patience.forcing)
        self._linearised = self._nobody  # whose Jacobians are worth keeping
        self.forget_failures()

    def forget_failures(self) -> None:
        """Start a new step."""
        self.diverged = self.non_finite = self.exhausted = self._nobody

    @property
    def failed(self) -> Tensor:
        """``(batch,)`` of bool, samples with a stage that was not solved, for whatever reason."""
        return self.diverged | self.non_finite | self.exhausted

    def evaluate(self, t: Tensor, z: Tensor, which: Tensor) -> Tensor:
        """Return the field at ``(t, z)``, counted for those of ``which`` that can afford it."""
        which = self._affordable(which, 1)
        self.evaluations = self.evaluations + which
        return self.field(t, z) if bool(which.any()) else torch.zeros_like(z)

    def stage(self, t: Tensor, base: Tensor, scale: Tensor, guess: Tensor, wanted: Tensor, allowed: Allowed) -> Tensor:
        """Return the slopes of one stage, with their gradient where one is wanted; see ``solve``.

        A sample whose stage is not solved has slope 0, so that it stays among the numbers.
        """
        k = self.solve(t, base.detach(), scale, guess.detach(), wanted, allowed)
        k = torch.where(broadcast_to_state(self.failed, k), 0.0, k)
        if not (self.differentiable and torch.is_grad_enabled()):
            return k
        self.evaluations = self.evaluations + self._affordable(wanted & ~self.failed, 1)
        return attach_derivative(self.field, t, base, scale, k)

    @torch.no_grad()
    def solve(self, t: Tensor, base: Tensor, scale: Tensor, guess: Tensor, wanted: Tensor, allowed: Allowed) -> Tensor:
        """Return the slopes ``k`` of one stage, ``(batch, *state)``, without a graph.

        Args:
            t: its time, 0-d or ``(batch, 1, ..., 1)``.
            base: ``(batch, *state)``.
            scale: ``(batch,)``, ``s``; the same tensor for as long as its values are the same.
            guess: ``(batch, *state)``, where the iteration begins.
            wanted: ``(batch,)`` of bool, the samples to solve; the others keep their guess.
            allowed: the error allowed in ``base + s k``.
        """
        if base.numel() == 0:
            return guess
        s = broadcast_to_state(scale, base)
        self._system.use_scale(scale)
        k, going, own = guess, wanted & ~self.failed, self._nobody
        last = torch.full_like(scale, torch.nan, dtype=torch.float64)  # no comparison with NaN holds
        stalls = torch.zeros_like(self.evaluations)
        for iteration in range(self.patience.iterations):
            going = self._affordable(going, 1)
            if not bool(going.any()):
                return k
            z = base + s * k
            self.evaluations = self.evaluations + going
            residual = self.field(t, z) - k
            if iteration == 0:
                lost = going & ~finite_samples(residual)
                self.non_finite, going = self.non_finite | lost, going & ~lost
            fresh = going & ~self._linearised
            going = self._renew(t, z, going, fresh)
            # An update with new Jacobians says nothing beside one with those of an earlier stage.
            last = torch.where(fresh & ~own, torch.nan, last)
            own = own | fresh
            change, unsolved, going = self._change(residual, going)
            k = torch.where(broadcast_to_state(going, k), k + change, k)
            size = self._size(s * unsolved / allowed(base, s * k))
            rate = size / last
            done = _converged(rate, size, own) | (per_sample(residual) == 0).all(dim=1)
            grew = going & ~done & ((rate >= 1) | ~torch.isfinite(size))
            if bool(grew.any()):
                noise = grew & own & (self._size(s * unsolved / round_off(base, s * k)) <= _NOISE)
                done, grew = done | noise, grew & ~noise
            stalls = stalls + (grew & own)
            hopeless = grew & own & (~(rate <= self.patience.growth) | (stalls >= _STALLS))
            self.diverged = self.diverged | hopeless
            going = going & ~(done | hopeless)
            # With Jacobians of an earlier stage the iterate went astray: it begins again with its own.
            again = grew & ~own
            k = torch.where(broadcast_to_state(again, k), guess, k)
            last = size
            self._linearised = self._linearised & ~(going & (grew | self._slow(rate, size)))
        self.diverged = self.diverged | going
        return k

    def _renew(self, t: Tensor, z: Tensor, going: Tensor, fresh: Tensor) -> Tensor:
        """Linearise at ``(t, z)`` for the samples ``fresh``; return those of ``going`` that could afford it."""
        if not bool(fresh.any()):
            return going
        affordable = self._affordable(fresh, self._system.cost)
        self._system.renew(t, z, affordable)
        self.evaluations = self.evaluations + self._system.cost * affordable
        if not self._system.follows:
            self._linearised = self._linearised | affordable
        return going & (affordable | ~fresh)

    def _change(self, residual: Tensor, going: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the update of the slopes, its error's measure, and the samples of ``going`` that could afford it.

        The measure is the update itself, or what the linear system left where that is more and counts.
        """
        allowance = None if self.budget is None else self.budget - self.evaluations
        change, left, cost, stopped = self._system.solve(residual, going, allowance)
        self.evaluations = self.evaluations + cost
        self.exhausted = self.exhausted | stopped
        unsolved = (
            change if left is None or not self.patience.every_component else torch.maximum(change.abs(), left.abs())
        )
        return change, unsolved, going & ~stopped

    def _size(self, values: Tensor) -> Tensor:
        """Return ``(batch,)`` in float64, in which squares of what float32 holds do not underflow."""
        if self.patience.every_component:
            return per_sample(values).abs().amax(dim=1).double()
        return sample_rms(values.double())

    def _slow(self, rate: Tensor, size: Tensor) -> Tensor:
        """``(batch,)`` of bool: whose iterations to go at this rate are more than new Jacobians are worth."""
        # In float32's digits, as logarithms may differ in the last bit with the place in the batch.
        still_to_come = rate * size / (1 - rate)
        to_go = (torch.log(still_to_come) / -torch.log(rate)).float()
        # Half of their cost, as the stages that follow use them too.
        return to_go > min(self._system.cost / 2 + 1, _FEW)

    def _affordable(self, which: Tensor, cost: int) -> Tensor:
        """Return the samples that can afford ``cost`` evaluations; the others are exhausted."""
        if self.budget is None:
            return which
        poor = which & (self.evaluations + cost > self.budget)
        self.exhausted = self.exhausted | poor
        return which & ~poor


def _converged(rate: Tensor, size: Tensor, own: Tensor) -> Tensor:
    """``(batch,)`` of bool: what an iteration that goes on like this still adds is within what is allowed.

    After a first update, of which no rate is known, that is so only with Jacobians of the same stage. Older ones may
    have been larger by far, and the update with them therefore too small: on Van der Pol's equation one iteration
    after a jump passed for convergence, and the solution left the true one along a straight line.
    """
    contracting = (rate < 1) & (rate * size <= 1 - rate)
    return torch.where(torch.isnan(rate), own & (size <= 1), contracting)
