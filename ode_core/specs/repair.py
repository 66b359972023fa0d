"""A model version repaired by a modified field: what it takes, and which solvers serve it."""

from pydantic import Field

from ode_core.specs.evaluation import Version
from ode_core.specs.modified_field import ModifiedFieldSpec
from ode_core.specs.solver import SolverSpec
from ode_core.specs.spec import Spec

# What a repaired version is predicted with where no solver is named: its errors are far below what a coarse training
# solver makes, and above the rounding of float32 that the differences in a modified field magnify.
REPAIRED_SOLVER = SolverSpec(method="dopri5", rtol=1e-5, atol=1e-5)


class RepairSpec(Spec):
    """Put a modified field in the place of a version's field; the weights stay as they are."""

    from_version: Version = Field(description="of the same model; one that is not itself a repair")
    modified_field: ModifiedFieldSpec


def check_repair(field: ModifiedFieldSpec, solver: SolverSpec, end_time: float) -> None:
    """Raise ``ValueError`` unless the modified field is that of the solver a version was trained with.

    Args:
        field: the modified field.
        solver: what the version was trained with at the end.
        end_time: of its interval.
    """
    if solver.adaptive:
        raise ValueError(
            f"the version was trained with {solver.label}, which chooses its steps itself: there is no modified field "
            f"of it. Predict with that solver alone, or fine-tune the model"
        )
    if _steps(field.solver, end_time) != _steps(solver, end_time):
        raise ValueError(
            f"the modified field is of {field.solver.label}, the version was trained with {solver.label}: only that "
            f"solver's gives its predictions"
        )


def steps_of_portrait(field: ModifiedFieldSpec, end_time: float) -> SolverSpec:
    """Return what a repaired version is looked at with: accurate, and with the steps that its field stands for."""
    return SolverSpec(method="rk4", steps=field.solver.fixed_steps(0.0, end_time))


def evaluations_in_field(modified_field: ModifiedFieldSpec | None, state_size: int) -> int:
    """Return how often a model calls its trained field in one evaluation of what it solves.

    Args:
        modified_field: in the field's place, or None.
        state_size: numbers in a state.
    """
    return 1 if modified_field is None else modified_field.evaluations(state_size)


def affordable_evaluations(max_evaluations: int | None, each: int) -> int | None:
    """Return how many evaluations of a modified field there may be, of those of the trained field."""
    return None if max_evaluations is None else max(1, max_evaluations // each)


def _steps(solver: SolverSpec, end_time: float) -> tuple[str, str, bool, int]:
    return solver.method, solver.runs_on, solver.grid == "truncate", solver.fixed_steps(0.0, end_time)
