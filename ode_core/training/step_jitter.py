"""A number of steps for each iteration, drawn around the solver's."""

import numpy as np

from ode_core.specs.regularisation import StepJitter
from ode_core.specs.solver import SolverSpec

# Keeps the draws apart from all others that begin with a training's seed.
_STREAM = 0x6A697474


def jittered(jitter: StepJitter, solver: SolverSpec, end_time: float, *, seed: int, iteration: int) -> SolverSpec:
    """Return ``solver`` with the number of steps of an iteration.

    A pure function of seed and iteration, like the batches: a resumed run draws the same without any state.
    """
    share = np.random.default_rng([seed, iteration, _STREAM]).random()
    return solver.with_steps(jitter.steps(solver.fixed_steps(0.0, end_time), share))
