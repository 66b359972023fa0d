"""The test solvers an audit climbs: coarser and finer than the training solver."""

from ode_core.specs.solver import SolverSpec

STEP_FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 16.0)
TOLERANCE_FACTORS = (100.0, 10.0, 1.0, 0.1, 0.01, 0.001)
FIXED_METHODS = ("euler", "midpoint", "rk4")
SMALLEST_TOLERANCE = 1e-12


def ladder(train_solver: SolverSpec, end_time: float) -> list[SolverSpec]:
    """Return the test solvers for a model, from coarse to fine, without repetition.

    A model trained on a fixed grid: euler, midpoint, rk4 and the training method at multiples of its
    steps. One trained with tolerances: the same method at looser and tighter ones, and rk4 grids.
    """
    if train_solver.adaptive:
        return _tolerances(train_solver) + [SolverSpec(method="rk4", steps=n) for n in (4, 16, 64, 256)]
    steps = train_solver.fixed_steps(0.0, end_time)
    counts = sorted({max(1, round(steps * factor)) for factor in STEP_FACTORS})
    methods = list(dict.fromkeys((*FIXED_METHODS, train_solver.method)))
    return [SolverSpec(method=method, steps=count) for method in methods for count in counts]


def _tolerances(solver: SolverSpec) -> list[SolverSpec]:
    assert solver.rtol is not None
    assert solver.atol is not None
    rungs = [
        solver.model_copy(
            update={
                "rtol": min(1.0, max(SMALLEST_TOLERANCE, solver.rtol * factor)),
                "atol": min(1.0, max(SMALLEST_TOLERANCE, solver.atol * factor)),
            }
        )
        for factor in TOLERANCE_FACTORS
    ]
    return list(dict.fromkeys(rungs))
