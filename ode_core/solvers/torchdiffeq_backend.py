"""torchdiffeq as a backend: its Adams methods, an oracle for tests, and its exact behaviour for who wants it.

What differs from the engine here:

* An adaptive solve has one step and one error norm for the whole batch. A sample's result and counts depend on its
  batch mates, and one that cannot go on ends the solve of all.
* ``heun_euler`` and ``fehlberg2`` take their last stage for the slope at the new state, which it is not: they are
  cheaper by an evaluation a step, and their results are those of another method.
* ``dopri8`` is the 13-stage pair of Prince and Dormand of orders 8 and 7, not Hairer's DOP853.
* ``dopri5`` estimates the error by Shampine's weights: a tolerance there is about 1.5 times as loose as ours.
* Gradients of an adaptive solve also flow through the estimate of the first step, and from it into all times.
* Outputs between the points of a fixed grid are cubic Hermite interpolants, as ours; whenever one is wanted, every
  output costs an evaluation.

``implicit_adams`` corrects until all samples' corrections agree to 1e-7, at most four times, and goes on whether they
do or not: the step is then one of an explicit predictor-corrector method of the same order.

Adaptive solves are made to land on the end and, unless they are to be interpolated, on every output time. Without
that torchdiffeq steps beyond and interpolates, with an error far above the tolerance.
"""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torchdiffeq
from torch import Tensor

from ode_core.solvers.output_times import OutputMode, snapped_to_ends
from ode_core.solvers.solution import Field, Solution, broadcast_to_state, finite_samples
from ode_core.solvers.status import SolveStatus
from ode_core.specs.torchdiffeq_methods import DEFAULT_ADAMS_ORDER, TORCHDIFFEQ_METHODS

# Where implicit_adams ends its functional iteration: torchdiffeq's own default, unless the type cannot resolve it.
ITERATION_RTOL, ITERATION_ATOL = 1e-7, 1e-9


def fixed_grid_with_torchdiffeq(
    field: Field,
    z0: Tensor,
    method: str,
    grid: Tensor,
    *,
    t0: float,
    t1: float,
    times: Tensor | None = None,
    max_evaluations: int | None = None,
    order: int | None = None,
    warn: bool = True,
) -> Solution:
    """Solve on ``grid``, ``(steps + 1,)`` on the CPU, from ``t0`` to ``t1``; see ``solve`` for the other arguments.

    Args:
        field: the vector field.
        z0: ``(batch, *state)``.
        method: our name of the method.
        grid: float64, or in the type of the state; it starts at ``t0`` and ends at ``t1`` as they are in its type.
        t0: start time.
        t1: end time.
        times: output times, or None.
        max_evaluations: bound on the evaluations; where it is reached, nothing is returned but the status.
        order: of an Adams method; None is 4. torchdiffeq's ``max_order`` is one more for ``explicit_adams``.
        warn: pass torchdiffeq's warning on that the iteration of ``implicit_adams`` has not converged.
    """
    counted = _Counted(field, t0, t1, max_evaluations)
    # Ends and grid points are put in the grid's type; torchdiffeq wants them to be equal.
    stops, stop_of_output = _distinct(_on_grid(grid, times, t0, t1), float(grid[0]), float(grid[-1]))
    between = not set(stops) <= set(grid.tolist())
    options: dict[str, Any] = {
        "grid_constructor": lambda *_: grid.to(z0.device),
        "interp": "cubic" if between else "linear",
    }
    if method in ("explicit_adams", "implicit_adams"):
        options["max_order"] = (order or DEFAULT_ADAMS_ORDER) + (method == "explicit_adams")
    try:
        with nullcontext() if warn else warnings.catch_warnings():
            if not warn:
                warnings.filterwarnings("ignore", message="Functional iteration did not converge")
            states = torchdiffeq.odeint(
                counted,
                z0,
                torch.tensor(stops, dtype=grid.dtype, device=z0.device),
                rtol=max(ITERATION_RTOL, 10 * torch.finfo(z0.dtype).eps),
                atol=ITERATION_ATOL,
                method=TORCHDIFFEQ_METHODS[method].name,
                options=options,
            )
        status = torch.where(finite_samples(states[-1]), int(SolveStatus.SUCCESS), int(SolveStatus.NON_FINITE))
        steps, last_step = len(grid) - 1, float((grid[-1] - grid[-2]).abs())
    except _Stopped as stopped:
        states = z0.new_full((len(stops), *z0.shape), torch.nan)
        status = torch.full(z0.shape[:1], int(stopped.status), device=z0.device)
        steps, last_step = 0, 0.0
    return _solution(states, status, counted.evaluations, steps, 0, last_step, times, stop_of_output)


def adaptive_with_torchdiffeq(
    field: Field,
    z0: Tensor,
    method: str,
    *,
    rtol: float,
    atol: float,
    max_steps: int,
    t0: float,
    t1: float,
    times: Tensor | None = None,
    outputs: OutputMode = "land",
    max_evaluations: int | None = None,
) -> Solution:
    """Solve with error control over the whole batch; see ``solve`` for the arguments.

    Takes two evaluations at the start and ``TorchdiffeqMethod.evaluations_per_step`` a step. Where it cannot go
    on, samples whose field is not finite are ``NON_FINITE`` and all others have the reason as their status.
    """
    wanted = [] if times is None else snapped_to_ends(times, t0, t1).tolist()
    stops, stop_of_output = _distinct(wanted, t0, t1)
    counted = _CountedSteps(field, t0, t1, max_evaluations, max_steps, stops)
    stop_times = torch.tensor(stops, dtype=torch.float64, device=z0.device)
    try:
        states = torchdiffeq.odeint(
            counted,
            z0,
            stop_times,
            rtol=rtol,
            atol=atol,
            method=TORCHDIFFEQ_METHODS[method].name,
            options={"step_t": stop_times[1:] if outputs == "land" else stop_times[-1:]},
        )
        status = torch.where(finite_samples(states[-1]), int(SolveStatus.SUCCESS), int(SolveStatus.NON_FINITE))
    except _Stopped as stopped:
        nowhere = torch.full_like(z0, torch.nan)
        states = torch.stack([counted.reached.get(stop, nowhere) for stop in stops])
        broken = counted.broken()
        status = torch.full_like(broken, int(stopped.status), dtype=torch.int64)
        if stopped.status == SolveStatus.STEP_UNDERFLOW:
            status = torch.where(broken, int(SolveStatus.NON_FINITE), status)
    return _solution(
        states,
        status,
        counted.evaluations,
        counted.accepted,
        counted.rejected,
        counted.last_step,
        times,
        stop_of_output,
    )


class _Stopped(Exception):
    """Raised out of torchdiffeq's loop to end it."""

    def __init__(self, status: SolveStatus) -> None:
        super().__init__(status.text)
        self.status = status


class _Counted:
    """A field that counts how often it is asked, within a bound, and is never asked outside the interval.

    torchdiffeq's estimate of the first step may lie beyond the end; the field is then asked at the end.
    """

    def __init__(self, field: Field, t0: float, t1: float, max_evaluations: int | None) -> None:
        self.field, self.low, self.high = field, min(t0, t1), max(t0, t1)
        self.direction = 1.0 if t1 >= t0 else -1.0
        self.max_evaluations = max_evaluations
        self.evaluations = 0

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        if self.evaluations == self.max_evaluations:
            raise _Stopped(SolveStatus.BUDGET_EXCEEDED)
        self.evaluations += 1
        return self.field(t.clamp(self.low, self.high), z)


class _CountedSteps(_Counted):
    """The field of an adaptive solve: it also counts the steps, and ends a solve that torchdiffeq would abort.

    torchdiffeq calls ``callback_step`` before it tries a step, and one of the others after it.
    """

    def __init__(
        self,
        field: Field,
        t0: float,
        t1: float,
        max_evaluations: int | None,
        max_steps: int,
        stops: Sequence[float],
    ) -> None:
        super().__init__(field, t0, t1, max_evaluations)
        self.max_steps, self.stops = max_steps, set(stops)
        self.accepted = self.rejected = 0
        self.last_step = 0.0
        self.reached: dict[float, Tensor] = {}
        self._first: Tensor | None = None
        self._latest: Tensor | None = None

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        slope = super().__call__(t, z)
        self._latest = slope.detach()
        if self._first is None:
            self._first = self._latest
        return slope

    def callback_step(self, t0: Tensor, z0: Tensor, dt: Tensor) -> None:
        """End the solve where the step does not move the time, or is one too many."""
        t, length = float(t0.detach()), float(dt.detach())
        if t in self.stops:
            self.reached[t] = z0
        if t + self.direction * length == t or not bool(torch.isfinite(z0).all()):
            raise _Stopped(SolveStatus.STEP_UNDERFLOW)
        if self.accepted + self.rejected >= self.max_steps:
            raise _Stopped(SolveStatus.MAX_STEPS_REACHED)

    def callback_accept_step(self, t0: Tensor, z0: Tensor, dt: Tensor) -> None:
        """Count the step."""
        self.accepted += 1
        self.last_step = float(dt.detach())

    def callback_reject_step(self, t0: Tensor, z0: Tensor, dt: Tensor) -> None:
        """Count the step."""
        self.rejected += 1

    def broken(self) -> Tensor:
        """``(batch,)`` of bool: samples whose field was not finite at the start or, if all were, in the last stage.

        From a start that is not finite torchdiffeq spoils the states of all samples at once.
        """
        assert self._first is not None
        assert self._latest is not None
        at_start = ~finite_samples(self._first)
        return at_start if bool(at_start.any()) else ~finite_samples(self._latest)


def uniform_grid(steps: int, t0: float, t1: float) -> Tensor:
    """Return ``steps + 1`` times of equal distance, ``(steps + 1,)`` in float64, on the CPU, by formula."""
    grid = t0 + (t1 - t0) * torch.arange(steps + 1, dtype=torch.float64) / steps
    grid[-1] = t1
    return grid


def _on_grid(grid: Tensor, times: Tensor | None, t0: float, t1: float) -> list[float]:
    """Return the output times in the grid's type; one that is a grid point up to rounding is exactly that."""
    if times is None:
        return []
    wanted = snapped_to_ends(times, t0, t1).cpu()
    nearest = (wanted[:, None] - grid.double()).abs().min(dim=1)
    rounding = 4 * max(torch.finfo(times.dtype).eps, torch.finfo(grid.dtype).eps) * max(abs(t0), abs(t1))
    points = torch.where(nearest.values <= rounding, grid[nearest.indices].double(), wanted)
    # The last step of a truncated grid may lead back to the end.
    points = points.clamp(float(grid[[0, -1]].min()), float(grid[[0, -1]].max()))
    on_grid: list[float] = points.to(grid.dtype).tolist()
    return on_grid


def _distinct(wanted: Sequence[float], start: float, end: float) -> tuple[list[float], list[int]]:
    """Return start, output times and end without repetitions, and for each output which of them it is."""
    stops = [start]
    stop_of_output = []
    for t in wanted:
        if t != stops[-1]:
            stops.append(t)
        stop_of_output.append(len(stops) - 1)
    if stops[-1] != end:
        stops.append(end)
    return stops, stop_of_output


def _solution(
    states: Tensor,
    status: Tensor,
    evaluations: int,
    accepted: int,
    rejected: int,
    last_step: float,
    times: Tensor | None,
    stop_of_output: Sequence[int],
) -> Solution:
    """Return the states ``(stops, batch, *state)`` as a solution; every sample has the counts of the batch."""
    reached = torch.stack([broadcast_to_state(finite_samples(row), row) for row in states])
    states = torch.where(reached, states, torch.nan)
    succeeded = broadcast_to_state(status == SolveStatus.SUCCESS, states[-1])
    return Solution(
        final=torch.where(succeeded, states[-1], torch.nan),
        status=status,
        evaluations=torch.full_like(status, evaluations),
        accepted=torch.full_like(status, accepted),
        rejected=torch.full_like(status, rejected),
        last_step=torch.full_like(status, last_step, dtype=torch.float64),
        times=times,
        trajectory=None if times is None else states[list(stop_of_output)],
    )
