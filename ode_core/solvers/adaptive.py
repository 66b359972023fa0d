"""Embedded Runge-Kutta methods with step control for each sample by itself.

Every sample has its own time, step, error norm, status and counts, so its result does not depend on
the other samples of the batch. Steps land exactly on every output time and on the end; the field is
never called outside the interval.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ode_core.solvers.initial_step import initial_step
from ode_core.solvers.output_times import snapped_to_ends
from ode_core.solvers.solution import Field, Solution, broadcast_to_state, finite_samples
from ode_core.solvers.status import SolveStatus
from ode_core.solvers.step_control import IntegralControl, error_ratio
from ode_core.solvers.tableaus import TABLEAUS, ButcherTableau
from ode_core.specs.methods import MethodName

RUNNING = -1

# A step that would end this close before a stop is stretched to it: the sliver left over would cost a whole
# step. As in Hairer's DOPRI5.
_STRETCH = 1.01


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

    Gradients flow through the accepted steps, not through the choice of their lengths.
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
        self.running = torch.ones(batch, dtype=torch.bool, device=device)
        self.evaluations = torch.zeros_like(self.status)
        self.accepted = torch.zeros_like(self.status)
        self.rejected = torch.zeros_like(self.status)
        self.last_step = torch.zeros_like(self.t)
        self.control = IntegralControl(order=(tableau.embedded_order or 0) + 1)
        # Equal output times are one stop. The last stop is the end itself; a sample past it is done.
        distinct, self._stop_of_output = _distinct_times(times, t0, t1)
        self.stops = torch.tensor([*distinct, t1], dtype=torch.float64, device=device)
        self.next_stop = torch.zeros_like(self.status)
        self._arrivals: list[tuple[Tensor, Tensor, Tensor]] = []  # stops, samples, states
        self._a = [[float(w) for w in row] for row in tableau.a]
        self._b, self._error = [float(w) for w in tableau.b], [float(w) for w in tableau.error]
        self._c = torch.tensor([float(c) for c in tableau.c], dtype=torch.float64, device=device).unsqueeze(1)
        self._at_end = self._c == 1.0

    def run(self) -> Solution:
        """Walk until every sample has arrived or failed."""
        cheapest = 2 + self.tableau.stages - 1
        if self.max_evaluations is not None and self.max_evaluations < cheapest:
            self._fail(self.running, SolveStatus.BUDGET_EXCEEDED)
        else:
            self._pass_stops(self.running)
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
            trajectory=self._trajectory(),
        )

    def _walk(self) -> None:
        slope = self._start()
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
        while bool(self.running.any()):
            stop = self.stops[self.next_stop]
            to_stop = (stop - self.t).abs()
            landing = h * _STRETCH >= to_stop
            # A sample that has ended takes steps of length 0: the field is asked only where it was before.
            length = torch.where(landing, to_stop, h) * self.running
            target = torch.where(landing & self.running, stop, self.t + self.direction * length)
            slopes, z_new, error = self._attempt(slope, length, target)
            self.evaluations += self._attempt_evaluations() * self.running
            ratio = error_ratio(error, self.z, z_new, self.rtol, self.atol)
            broken = self.running & ~(torch.isfinite(ratio) & finite_samples(z_new))
            if z_new.requires_grad:
                broken |= self.running & ~_finite_stages(slopes)
                if bool(broken.any()):
                    slopes, z_new, _ = self._attempt_without(broken, slope, length, target)
            ratio = torch.where(broken, torch.inf, ratio)
            accept = self.running & (ratio <= 1)
            reject = self.running & ~accept
            factor = self.control.factor(ratio, accept, rejected_before)
            # A step cut short by a stop says nothing against the longer one the controller had in mind.
            proposed = length * factor
            h = torch.where(accept & landing, torch.maximum(h, proposed), proposed)
            rejected_before = reject
            slope = self._move(accept, length, target, z_new, slope, slopes)
            self.rejected += reject
            self._fail_underflow(reject, h, broken)
            self._pass_stops(accept & landing)
            self._fail_exhausted(accept)
            if not self.tableau.first_same_as_last:
                slope = self._renew(slope, accept & self.running)

    def _start(self) -> Tensor:
        """Return the slope at the start; a sample without a finite one fails there."""
        slope = self._evaluate(self.t, self.z)
        self.evaluations += self.running
        broken = self.running & ~(finite_samples(slope) & finite_samples(self.z))
        self._fail(broken, SolveStatus.NON_FINITE)
        if slope.requires_grad and bool(broken.any()):
            # Backwards, NaN times the zero that reaches it is NaN: a failed sample would spoil the gradient
            # of all. So it is put out of the way, where the field is most likely finite.
            self.z = torch.where(broadcast_to_state(broken, self.z), 0.0, self.z)
            slope = self._evaluate(self.t, self.z)
        return slope

    def _attempt(self, slope: Tensor, length: Tensor, target: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return the slopes of all stages, the new state and the error estimate of one step."""
        z, tableau = self.z, self.tableau
        signed = broadcast_to_state(self.direction * length, z).to(z.dtype)
        times = torch.where(self._at_end, target, self.t + self._c * (self.direction * length))
        times = times.to(z.dtype).reshape(tableau.stages, -1, *(1 for _ in z.shape[1:]))
        slopes = [slope]
        z_stage = z
        for t, row in zip(times[1:].unbind(), self._a[1:], strict=True):
            z_stage = z + signed * _combine(slopes, row)
            slopes.append(self.field(t, z_stage))
        z_new = z_stage if tableau.first_same_as_last else z + signed * _combine(slopes, self._b)
        with torch.no_grad():
            error = signed * _combine(slopes, self._error)
        return slopes, z_new, error

    def _attempt_evaluations(self) -> int | Tensor:
        """Return the evaluations of the last attempt, for every sample or for each."""
        return self.tableau.stages - 1

    def _attempt_without(
        self, broken: Tensor, slope: Tensor, length: Tensor, target: Tensor
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Repeat a step with length 0 for samples that broke in it.

        Only where gradients are wanted: their inf and NaN must not be in the graph, where backwards they
        would turn the zero that reaches them into NaN. The others compute the same numbers again, which
        are not counted.
        """
        return self._attempt(slope, torch.where(broken, 0.0, length), torch.where(broken, self.t, target))

    def _move(
        self, accept: Tensor, length: Tensor, target: Tensor, z_new: Tensor, slope: Tensor, slopes: Sequence[Tensor]
    ) -> Tensor:
        """Move the accepted samples; return the slope at each sample's state, where it is known."""
        mask = broadcast_to_state(accept, self.z)
        self.z = torch.where(mask, z_new, self.z)
        self.t = torch.where(accept, target, self.t)
        self.last_step = torch.where(accept, length, self.last_step)
        self.accepted += accept
        return torch.where(mask, slopes[-1], slope) if self.tableau.first_same_as_last else slope

    def _renew(self, slope: Tensor, moved: Tensor) -> Tensor:
        if not bool(moved.any()):
            return slope
        fresh = self._evaluate(self.t, self.z)
        self.evaluations += moved
        return torch.where(broadcast_to_state(moved, self.z), fresh, slope)

    def _evaluate(self, t: Tensor, z: Tensor) -> Tensor:
        return self.field(broadcast_to_state(t, z).to(z.dtype), z)

    def _pass_stops(self, landed: Tensor) -> None:
        """Remember the states of samples that stand on a stop, and end those that stand on the last."""
        if not bool(landed.any()):
            return
        landed = landed & (self.t == self.stops[self.next_stop])
        last = len(self.stops) - 1
        at_output = landed & (self.next_stop < last)
        if last > 0 and bool(at_output.any()):
            samples = torch.nonzero(at_output).flatten()
            self._arrivals.append((self.next_stop[samples], samples, self.z[samples]))
            self.next_stop = self.next_stop + at_output
            landed = landed & (self.t == self.stops[self.next_stop])  # the last output may be the end itself
        done = landed & (self.next_stop == last)
        self._end(done, SolveStatus.SUCCESS)

    def _trajectory(self) -> Tensor | None:
        if self._stop_of_output is None:
            return None
        outputs = self.z.new_full((len(self.stops) - 1, *self.z.shape), torch.nan)
        if self._arrivals:
            stops, samples, states = (torch.cat(parts) for parts in zip(*self._arrivals, strict=True))
            outputs = outputs.index_put((stops, samples), states)
        return outputs[self._stop_of_output.to(self.z.device)]

    def _end(self, which: Tensor, status: SolveStatus) -> None:
        self.status = torch.where(which, int(status), self.status)
        self.running = self.status == RUNNING

    def _fail(self, which: Tensor, status: SolveStatus) -> None:
        self._end(which & self.running, status)

    def _fail_underflow(self, rejected: Tensor, h: Tensor, broken: Tensor) -> None:
        """Give up samples whose next try would be too short to move ``t`` in the state's precision."""
        eps = torch.finfo(self.z.dtype).eps
        # Around t = 0 floating point resolves far shorter steps than anything on the interval is worth.
        smallest = 10 * eps * self.t.abs() + eps**2 * abs(self.t1 - self.t0)
        too_small = rejected & (h < smallest)
        self._fail(too_small & broken, SolveStatus.NON_FINITE)
        self._fail(too_small, SolveStatus.STEP_UNDERFLOW)

    def _fail_exhausted(self, accept: Tensor) -> None:
        self._fail(self.accepted + self.rejected >= self.max_steps, SolveStatus.MAX_STEPS_REACHED)
        if self.max_evaluations is not None:
            next_step = self.evaluations + self.tableau.stages - 1
            if not self.tableau.first_same_as_last:
                next_step = next_step + accept
            self._fail(next_step > self.max_evaluations, SolveStatus.BUDGET_EXCEEDED)


def _distinct_times(times: Tensor | None, t0: float, t1: float) -> tuple[list[float], Tensor | None]:
    """Return the output times without repetitions, and for each output which of them it is."""
    if times is None:
        return [], None
    distinct, inverse = torch.unique_consecutive(snapped_to_ends(times, t0, t1).cpu(), return_inverse=True)
    return distinct.tolist(), inverse


def _combine(slopes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total: Tensor | None = None
    for k, w in zip(slopes, weights, strict=False):
        if w != 0.0:
            total = k * w if total is None else torch.add(total, k, alpha=w)
    assert total is not None
    return total


def _finite_stages(slopes: Sequence[Tensor]) -> Tensor:
    """``(batch,)`` of bool: every slope is finite."""
    return torch.stack([finite_samples(slope) for slope in slopes]).all(dim=0)
