"""The steps that a solver makes, sample by sample, and what comes of making them.

On a fixed grid all samples make the same steps. With tolerances each makes its own; frozen, its accepted steps are a
fixed grid too, of that sample alone. Samples that need fewer steps than others make steps of length 0 in the end.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core.audit.exact_flow import rows_at_once
from ode_core.solvers.adaptive import solve_adaptive
from ode_core.solvers.record import AcceptedStep
from ode_core.solvers.solution import Field, Solution, broadcast_to_state
from ode_core.solvers.step_map import StepMap, TimeStep
from ode_core.solvers.truncated_grid import precision_of, truncated_grid
from ode_core.specs.solver import SolverSpec


@dataclass(frozen=True)
class StepGrid:
    """Steps of ``n`` samples, each ``(steps, n)`` in float64.

    Attributes:
        starts: the time before each step.
        lengths: with the sign of the direction; 0 for a sample that has arrived.
        ends: the time after each step.
    """

    starts: Tensor
    lengths: Tensor
    ends: Tensor

    @property
    def steps(self) -> int:
        """The most steps that a sample makes."""
        return self.starts.shape[0]

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.starts.shape[1]

    @property
    def arrives(self) -> Tensor:
        """``(n,)``, the time after each sample's last step, in float64; NaN for samples without a step."""
        if self.steps == 0:
            return torch.full((self.samples,), torch.nan, dtype=torch.float64)
        last = torch.where(self.taken, torch.arange(self.steps).unsqueeze(1), 0).amax(dim=0)
        arrives = self.ends.gather(0, last.unsqueeze(0)).squeeze(0)
        return torch.where(self.taken.any(dim=0), arrives, torch.nan)

    @property
    def taken(self) -> Tensor:
        """``(steps, n)`` of bool: which steps are steps, and not the waiting of a sample that has arrived."""
        return self.lengths != 0

    def select(self, samples: Tensor) -> "StepGrid":
        """Return the steps of some samples."""
        return StepGrid(self.starts[:, samples], self.lengths[:, samples], self.ends[:, samples])

    def without_idle_end(self) -> "StepGrid":
        """Return the steps up to the last that a sample makes: what follows was another sample's, or has no length."""
        made = torch.nonzero(self.taken.any(dim=1)).flatten()
        steps = int(made[-1]) + 1 if len(made) else 0
        return StepGrid(self.starts[:steps], self.lengths[:steps], self.ends[:steps])

    def step(self, number: int, samples: Tensor, like: Tensor) -> TimeStep:
        """Return one step of some samples, for states like ``like``."""
        return TimeStep(
            *(
                broadcast_to_state(values[number, samples].to(like.device), like)
                for values in (self.starts, self.lengths, self.ends)
            )
        )


def fixed_grid(solver: SolverSpec, samples: int, end_time: float, dtype: torch.dtype = torch.float64) -> StepGrid:
    """Return the grid from 0 to ``end_time`` of a solver with a number or a size of steps.

    ``dtype`` is that of the states the solver runs with; the times of a ``truncate`` grid are in it.
    """
    steps = solver.fixed_steps(0.0, end_time, precision_of(dtype))
    if solver.grid == "truncate" and solver.step_size is not None:
        times = truncated_grid(solver.step_size, steps, 0.0, end_time, dtype).double()
        lengths = times.diff()
    else:
        times = end_time * torch.arange(steps + 1, dtype=torch.float64) / steps
        times[-1] = end_time
        lengths = torch.full((steps,), end_time / steps, dtype=torch.float64)
    columns = (values.unsqueeze(1).expand(steps, samples) for values in (times[:-1], lengths, times[1:]))
    return StepGrid(*columns)


@torch.no_grad()
def frozen_grid(field: Field, z0: Tensor, solver: SolverSpec, end_time: float) -> tuple[StepGrid, Solution]:
    """Return the steps that a solver with tolerances accepts for each sample of ``z0``, and its solution.

    A sample whose solve fails keeps the steps up to there.
    """
    passes: list[AcceptedStep] = []
    solution = solve_adaptive(field, z0, solver, t0=0.0, t1=end_time, compilation="never", record=passes.append)
    samples = len(z0)
    steps = int(solution.accepted.max()) if samples else 0
    starts = torch.full((steps, samples), end_time, dtype=torch.float64)
    lengths, ends = torch.zeros_like(starts), starts.clone()
    number = torch.zeros(samples, dtype=torch.int64)
    for accepted in passes:
        assert accepted.samples is not None
        assert accepted.t is not None
        assert accepted.length is not None
        assert accepted.end is not None
        who = accepted.samples.cpu()
        row = number[who]
        starts[row, who] = accepted.t.double().cpu()
        lengths[row, who] = accepted.length.double().cpu()
        ends[row, who] = accepted.end.double().cpu()
        number[who] += 1
    return StepGrid(starts, lengths, ends), solution


Advance = Callable[[int, Tensor, Tensor], Tensor]
"""From the number of a step, the samples ``(m,)`` that make it and their states ``(m, *state)`` to the states after."""


@torch.no_grad()
def walk(grid: StepGrid, z0: Tensor, advance: Advance) -> Iterator[Tensor]:
    """Yield the states ``(n, *state)`` before each step and, last, at the end."""
    z = z0
    yield z
    for number in range(grid.steps):
        moving = torch.nonzero(grid.taken[number]).flatten()
        # Not all at once: the activations of a field over images take far more memory than their states.
        for some in torch.split(moving, rows_at_once(z[:1].numel())):
            after = advance(number, some, z[some.to(z.device)])
            z = z.index_copy(0, some.to(z.device), after)
        yield z


def numerical_path(psi: StepMap, grid: StepGrid, z0: Tensor) -> Tensor:
    """Return ``(steps + 1, n, *state)``, the numerical solution at the grid points of each sample."""
    return torch.stack(list(walk(grid, z0, lambda k, who, z: psi(z, grid.step(k, who, z)))))
