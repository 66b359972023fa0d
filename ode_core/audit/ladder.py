"""The test solvers an audit climbs: coarser and finer than the training solver."""

from ode_core.solvers.solve import SMALLEST_TOLERANCE_EPS
from ode_core.specs.methods import METHODS, MethodName
from ode_core.specs.solver import MAX_FIXED_STEPS, SolverSpec

STEP_FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 16.0)
TOLERANCE_FACTORS = (100.0, 10.0, 1.0, 0.1, 0.01, 0.001)
FIXED_METHODS: tuple[MethodName, ...] = ("euler", "midpoint", "rk4")
REFERENCE_GRIDS = (4, 16, 64, 256)
# A rung may cost this many times the training's evaluations; small ones are cheap whatever the training was.
DEAREST_RUNG = 16
CHEAP_EVALUATIONS = 256
FLOAT64_EPS = 2.0**-52


def ladder(train_solver: SolverSpec, end_time: float, *, eps: float = FLOAT64_EPS) -> list[SolverSpec]:
    """Return the test solvers for a model, from coarse to fine, without repetition.

    A model trained on a fixed grid: euler, midpoint, rk4 and the training method at multiples of its
    steps, within the limit on steps and at up to 16 times the training's evaluations. One trained with
    tolerances: the same method at looser and tighter ones, and rk4 grids.

    Args:
        train_solver: what the model was trained with.
        end_time: length of the interval.
        eps: rounding error of the type the model computes in; relative tolerances stay well above it.
    """
    if train_solver.adaptive:
        return _tolerances(train_solver, SMALLEST_TOLERANCE_EPS * eps) + [
            SolverSpec(method="rk4", steps=n) for n in REFERENCE_GRIDS
        ]
    steps = train_solver.fixed_steps(0.0, end_time)
    counts = sorted({min(max(1, round(steps * factor)), MAX_FIXED_STEPS) for factor in STEP_FACTORS})
    methods = list(dict.fromkeys((*FIXED_METHODS, train_solver.method)))
    dearest = max(DEAREST_RUNG * train_solver.facts.evaluations(steps), CHEAP_EVALUATIONS)

    def rung(method: MethodName, count: int) -> SolverSpec:
        if method != train_solver.method:
            return SolverSpec(method=method, steps=count)
        # The training's own steps need not be equal ones, which a number of steps stands for.
        own = count == steps and train_solver.grid == "truncate"
        return train_solver if own else train_solver.with_steps(count)

    return [
        rung(method, count) for method in methods for count in counts if METHODS[method].evaluations(count) <= dearest
    ]


def _tolerances(solver: SolverSpec, smallest: float) -> list[SolverSpec]:
    rtol, atol = solver.rtol, solver.atol
    assert rtol is not None
    assert atol is not None

    def rung(factor: float) -> SolverSpec:
        # The training's own tolerances stay as they are, even where they are too tight.
        scaled = {"rtol": min(1.0, max(min(smallest, rtol), rtol * factor)), "atol": min(1.0, atol * factor)}
        return solver.model_copy(update=scaled)

    return list(dict.fromkeys(rung(factor) for factor in TOLERANCE_FACTORS))
