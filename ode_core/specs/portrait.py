"""What a portrait asks of a model and of its solvers; known before anything is computed."""

import math

from ode_core.specs.budgets import Budget, BudgetExceeded, check_solve_budget
from ode_core.specs.evaluation import PortraitJobSpec
from ode_core.specs.impossible import Impossible
from ode_core.specs.model import model_state_shape
from ode_core.specs.solver import MAX_FIXED_STEPS, SolverSpec
from ode_core.specs.training import TrainingJobSpec

MAX_STATES = 2_000_000  # of all trajectories together


class PortraitImpossible(Impossible):
    """There is no portrait of this model, or not with this solver; the message says why."""

    code = "portrait_impossible"


def portrait_solvers(
    spec: PortraitJobSpec, trained: TrainingJobSpec, solver: SolverSpec
) -> tuple[SolverSpec, SolverSpec]:
    """Return the two solvers of a portrait.

    Args:
        spec: the portrait.
        trained: the training job of the model version.
        solver: what the version was trained with at the end.

    Raises:
        PortraitImpossible: the state is not two-dimensional, or a solver has no fixed grid.
    """
    shape = model_state_shape(trained.architecture, trained.dataset.input_shape)
    if math.prod(shape) != 2:
        raise PortraitImpossible(
            "model",
            f"a portrait shows a state of two numbers in its plane; the state of {spec.model} has "
            f"{math.prod(shape):,} (shape {list(shape)}): choose a model of two-dimensional data without a stem, or "
            f"one with a linear stem of 2 features",
        )
    chosen = spec.solver or solver
    _require_grid("solver", chosen)
    finer = spec.finer or _with_half_the_step(chosen, trained.architecture.end_time)
    _require_grid("finer", finer)
    return chosen, finer


def check_portrait_budget(
    spec: PortraitJobSpec, part: str, solver: SolverSpec, end_time: float, budget: Budget, *, each: int = 1
) -> None:
    """Raise ``BudgetExceeded`` when the trajectories under one of the solvers are more than ``budget`` allows.

    ``each`` is how often one evaluation of a modified field calls the trained field.
    """
    check_solve_budget(solver, end_time, budget.evaluations_per_solve, 2, each=each)
    states = spec.samples * (solver.fixed_steps(0.0, end_time) + 1)
    if states > MAX_STATES:
        raise BudgetExceeded(
            f"{states:,} states of {spec.samples} trajectories exceed the limit of {MAX_STATES:,}: "
            f"use fewer samples or fewer steps of {part}"
        )


def _require_grid(part: str, solver: SolverSpec) -> None:
    if solver.adaptive:
        raise PortraitImpossible(
            part,
            f"a portrait shows the steps of a fixed grid, and {solver.label} chooses its steps itself: "
            f'name a {part} with steps, for example {{"method": "euler", "steps": 16}}',
        )


def _with_half_the_step(solver: SolverSpec, end_time: float) -> SolverSpec:
    steps = 2 * solver.fixed_steps(0.0, end_time)
    if steps > MAX_FIXED_STEPS:
        raise PortraitImpossible(
            "finer", f"twice the steps are {steps:,}, more than {MAX_FIXED_STEPS:,}: name a finer one"
        )
    return solver.with_steps(steps)
