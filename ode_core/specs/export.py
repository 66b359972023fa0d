"""What can be exported: a model version with equal steps of an explicit method; known before anything is computed."""

import math

from ode_core.specs.evaluation import ExportJobSpec
from ode_core.specs.impossible import Impossible
from ode_core.specs.model import model_state_shape
from ode_core.specs.modified_field import ModifiedFieldSpec
from ode_core.specs.repair import evaluations_in_field, steps_of_portrait
from ode_core.specs.solver import SolverSpec
from ode_core.specs.training import TrainingJobSpec

# Evaluations of the trained field in one step. The file holds one step, written out, and a loop around it: so many take
# a minute to write and make a file of about a megabyte.
MOST_EVALUATIONS_IN_STEP = 64


class ExportImpossible(Impossible):
    """This model cannot be exported, or not with this solver; the message says why and what can be."""

    code = "export_impossible"


def export_solver(
    spec: ExportJobSpec, trained: TrainingJobSpec, solver: SolverSpec, modified_field: ModifiedFieldSpec | None
) -> SolverSpec:
    """Return the solver of an export.

    Args:
        spec: the export.
        trained: the training job of the model version.
        solver: what the version was trained with at the end.
        modified_field: of a repaired version.

    Raises:
        ExportImpossible: the solver takes no equal explicit steps, or the model computes in a way that has no export.
    """
    _require_exportable_arithmetic(spec, trained)
    own = solver if modified_field is None else steps_of_portrait(modified_field, trained.architecture.end_time)
    chosen = spec.solver or own
    _require_equal_explicit_steps(chosen)
    state_size = math.prod(model_state_shape(trained.architecture, trained.dataset.input_shape))
    if modified_field is not None:
        _require_exportable_field(spec, modified_field, state_size)
    in_step = chosen.facts.evaluations(1) * evaluations_in_field(modified_field, state_size)
    if in_step > MOST_EVALUATIONS_IN_STEP:
        raise ExportImpossible(
            "solver",
            f"one step of {chosen.label} takes {in_step} evaluations of the field, and an export has at most "
            f"{MOST_EVALUATIONS_IN_STEP} in a step: use a method with fewer stages, for example midpoint or euler",
        )
    return chosen


def _require_exportable_arithmetic(spec: ExportJobSpec, trained: TrainingJobSpec) -> None:
    if trained.architecture.field_arithmetic == "bfloat16":
        raise ExportImpossible(
            "model",
            f"the field of {spec.model} computes in bfloat16, which runtimes round differently: their answers would "
            f"not be this server's. Train it with field_arithmetic full or tf32, or start_from it with one of these",
        )


def _require_equal_explicit_steps(solver: SolverSpec) -> None:
    example = 'name a solver with steps, for example {"method": "rk4", "steps": 16}'
    if solver.adaptive:
        raise ExportImpossible(
            "solver",
            f"an exported model takes the same steps for every input, and {solver.label} chooses its steps itself: "
            f"{example}; of an audited version, solver-choice lists those that agree",
        )
    if solver.facts.family != "explicit":
        raise ExportImpossible(
            "solver",
            f"an exported model makes explicit Runge-Kutta steps, and {solver.method} is "
            f"{_FAMILIES[solver.facts.family]}: {example}",
        )
    if solver.grid == "truncate":
        raise ExportImpossible(
            "solver", f"an exported model takes equal steps, and {solver.label} makes a short one: {example}"
        )


_FAMILIES = {"implicit": "implicit", "multistep": "a multistep method", "reversible": "a leapfrog"}


def _require_exportable_field(spec: ExportJobSpec, field: ModifiedFieldSpec, state_size: int) -> None:
    if field.solver.facts.family == "implicit":
        raise ExportImpossible(
            "model",
            f"{spec.model} is repaired with {field.label}, whose steps are solved by Newton's iteration, which has no "
            f"export: export the version that was repaired, or serve this one here",
        )
    if field.kind == "series":
        raise ExportImpossible(
            "model",
            f"{spec.model} is repaired with {field.label}, whose derivatives in forward mode cannot be exported: make "
            f'the repair with {{"kind": "iterates"}}, which takes none',
        )
    evaluations = field.evaluations(state_size)
    if evaluations > MOST_EVALUATIONS_IN_STEP:
        raise ExportImpossible(
            "model",
            f"{spec.model} is repaired with {field.label}, which evaluates the field {evaluations} times, and an "
            f"export has at most {MOST_EVALUATIONS_IN_STEP} in a step: make the repair with "
            f'{{"kind": "iterates"}}',
        )
