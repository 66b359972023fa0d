"""Embedded Runge-Kutta methods with step control for each sample by itself.

Every sample has its own time, step, error norm, status and counts, so its result does not depend on
the other samples of the batch. Steps land exactly on every output time and on the end; the field is
never called outside the interval.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ode_core.solvers.initial_step import initial_step, sample_rms
from ode_core.solvers.solution import Field, Solution, broadcast_to_state
from ode_core.solvers.status import SolveStatus
from ode_core.solvers.step_control import IntegralControl
from ode_core.solvers.tableaus import TABLEAUS, ButcherTableau
from ode_core.specs.methods import MethodName

RUNNING = -1


def solve_adaptive(
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

    A step is accepted when the root mean square over the sample of
    ``error / (atol + rtol max(|z|, |z_new|))`` is at most 1. Evaluations: 2 at the start (the slope and
    the initial step), then ``stages - 1`` a step; a method whose last stage is not the next first one
    needs one more after every accepted step but the last.
    """
    walk = _AdaptiveWalk(field, z0, TABLEAUS[method], rtol, atol, max_steps, t0, t1, times, max_evaluations)
    return walk.run()


class _AdaptiveWalk:
    """One adaptive solve of a batch; all bookkeeping is ``(batch,)`` in float64 or int64."""

    def __init__(
        self,
        field: Field,
        z0: Tensor,
        tableau: ButcherTableau,
        rtol: float,
        atol: float,
        max_steps: int,
        t0: float,
        t1: float,
        times: Tensor | None,
        max_evaluations: int | None,
    ) -> None:
        self.field, self.tableau, self.rtol, self.atol = field, tableau, rtol, atol
        self.max_steps, self.max_evaluations = max_steps, max_evaluations
        self.t0, self.t1, self.direction = t0, t1, 1.0 if t1 >= t0 else -1.0
        self.z, self.times = z0, times
        batch, device = z0.shape[0], z0.device
        self.t = torch.full((batch,), t0, dtype=torch.float64, device=device)
        self.status = torch.full((batch,), RUNNING, dtype=torch.int64, device=device)
        self.evaluations = torch.zeros(batch, dtype=torch.int64, device=device)
        self.accepted = torch.zeros_like(self.evaluations)
        self.rejected = torch.zeros_like(self.evaluations)
        self.last_step = torch.zeros_like(self.t)
        self.control = IntegralControl(order=(tableau.embedded_order or 0) + 1)
        outputs = [] if times is None else times.double().tolist()
        # The last stop is the end itself; a sample past it is done.
        self.stops = torch.tensor([*outputs, t1], dtype=torch.float64, device=device)
        self.next_stop = torch.zeros_like(self.evaluations)
        self.trajectory = None if times is None else z0.new_full((len(outputs), *z0.shape), torch.nan)
        self._a = [[float(w) for w in row] for row in tableau.a]
        self._b, self._error = [float(w) for w in tableau.b], [float(w) for w in tableau.error]
        self._c = torch.tensor([float(c) for c in tableau.c], dtype=torch.float64, device=device)

    def run(self) -> Solution:
        """Walk until every sample has arrived or failed."""
        self._pass_stops(torch.ones_like(self.status, dtype=torch.bool))
        if bool(self.running.any()):
            self._walk()
        succeeded = broadcast_to_state(self.status == SolveStatus.SUCCESS, self.z)
        return Solution(
            final=torch.where(succeeded, self.z, torch.nan),
            status=self.status,
            evaluations=self.evaluations,
            accepted=self.accepted,
            rejected=self.rejected,
            last_step=self.last_step,
            times=self.times,
            trajectory=self.trajectory,
        )

    @property
    def running(self) -> Tensor:
        """``(batch,)`` of bool: samples on their way."""
        return self.status == RUNNING

    def _walk(self) -> None:
        slope = self._evaluate(self.t, self.z, self.running)
        self._fail(self.running & ~_finite(slope), SolveStatus.NON_FINITE)
        h = initial_step(
            self.field,
            self.z.detach(),
            slope.detach(),
            self.t,
            (self.stops[-1] - self.t).abs(),
            direction=self.direction,
            order=self.control.order,
            rtol=self.rtol,
            atol=self.atol,
        )
        self.evaluations += self.running
        rejected_before = torch.zeros_like(self.running)
        while True:
            self._fail_exhausted()
            running = self.running
            if not bool(running.any()):
                return
            stop = self.stops[self.next_stop.clamp(max=len(self.stops) - 1)]
            to_stop = (stop - self.t).abs()
            landing = h >= to_stop
            length = torch.where(landing, to_stop, h)
            target = torch.where(landing, stop, self.t + self.direction * length)
            slopes, z_new, error = self._attempt(slope, length, target, running)
            scale = self.atol + self.rtol * torch.maximum(self.z.detach().abs(), z_new.detach().abs())
            ratio = sample_rms(error.detach() / scale).double()
            accept = running & (ratio <= 1) & _finite(z_new)
            reject = running & ~accept
            self._fail_underflow(reject, length, ratio)
            # A step cut short by a stop says nothing against the longer one the controller had in mind.
            factor = self.control.factor(ratio, accept, rejected_before)
            h = torch.where(accept & landing, torch.maximum(h, length * factor), length * factor)
            h = torch.where(running, h, length)
            slope = self._accept(accept, z_new, slope, slopes)
            self.t = torch.where(accept, target, self.t)
            self.last_step = torch.where(accept, length, self.last_step)
            self.accepted += accept
            self.rejected += reject
            rejected_before = reject
            self._pass_stops(accept & landing)
            if not self.tableau.first_same_as_last:
                slope = self._renew(slope, accept & self.running)

    def _attempt(
        self, slope: Tensor, length: Tensor, target: Tensor, running: Tensor
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return the slopes of all stages, the new state and the error estimate of one step."""
        signed = broadcast_to_state(self.direction * length, self.z).to(self.z.dtype)
        slopes = [slope]
        for i in range(1, self.tableau.stages):
            t = self.t + self.direction * self._c[i] * length
            # A stage at the right end is at the target exactly: round-off must not carry it beyond.
            t = target if float(self._c[i]) == 1.0 else t
            slopes.append(self._evaluate(t, self.z + signed * _combine(slopes, self._a[i]), running))
        return slopes, self.z + signed * _combine(slopes, self._b), signed * _combine(slopes, self._error)

    def _accept(self, accept: Tensor, z_new: Tensor, slope: Tensor, slopes: Sequence[Tensor]) -> Tensor:
        """Move the accepted samples; return the slope at each sample's state, where it is known."""
        mask = broadcast_to_state(accept, self.z)
        self.z = torch.where(mask, z_new, self.z)
        return torch.where(mask, slopes[-1], slope) if self.tableau.first_same_as_last else slope

    def _renew(self, slope: Tensor, moved: Tensor) -> Tensor:
        if not bool(moved.any()):
            return slope
        fresh = self._evaluate(self.t, self.z, moved)
        return torch.where(broadcast_to_state(moved, self.z), fresh, slope)

    def _evaluate(self, t: Tensor, z: Tensor, counted: Tensor) -> Tensor:
        self.evaluations += counted
        return self.field(broadcast_to_state(t, z).to(z.dtype), z)

    def _pass_stops(self, landed: Tensor) -> None:
        """Store the state of samples that stand on a stop, and end those that stand on the last."""
        while bool(landed.any()):
            landed = landed & (self.next_stop < len(self.stops))
            landed &= self.t == self.stops[self.next_stop.clamp(max=len(self.stops) - 1)]
            outputs = landed & (self.next_stop < len(self.stops) - 1)
            if self.trajectory is not None and bool(outputs.any()):
                samples = torch.nonzero(outputs).flatten()
                self.trajectory.index_put_((self.next_stop[samples], samples), self.z[samples])
            self.next_stop = self.next_stop + landed
            done = landed & (self.next_stop == len(self.stops))
            self.status = torch.where(done, int(SolveStatus.SUCCESS), self.status)
            landed = landed & ~done

    def _fail(self, which: Tensor, status: SolveStatus) -> None:
        self.status = torch.where(which, int(status), self.status)

    def _fail_underflow(self, rejected: Tensor, length: Tensor, ratio: Tensor) -> None:
        # The field sees t in the state's precision; a step below that would not move it.
        smallest = 4 * torch.finfo(self.z.dtype).eps * torch.maximum(self.t.abs(), self.stops[-1].abs())
        too_small = rejected & (length <= smallest.clamp(min=1e-300))
        self._fail(too_small & torch.isfinite(ratio), SolveStatus.STEP_UNDERFLOW)
        self._fail(too_small & ~torch.isfinite(ratio), SolveStatus.NON_FINITE)

    def _fail_exhausted(self) -> None:
        self._fail(self.running & (self.accepted + self.rejected >= self.max_steps), SolveStatus.MAX_STEPS_REACHED)
        if self.max_evaluations is not None:
            over = self.evaluations + self.tableau.stages - 1 > self.max_evaluations
            self._fail(self.running & over, SolveStatus.BUDGET_EXCEEDED)


def _combine(slopes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total: Tensor | None = None
    for k, w in zip(slopes, weights, strict=False):
        if w != 0.0:
            total = k * w if total is None else torch.add(total, k, alpha=w)
    assert total is not None
    return total


def _finite(values: Tensor) -> Tensor:
    return torch.isfinite(values.detach()).flatten(1).all(dim=1)
