"""Limits on what one job or request may cost; checked when it is accepted and again where it runs."""

import math
from typing import get_args

from pydantic import Field

from ode_core.specs.adaptation import CertifiedAdaptation, ceiling_steps
from ode_core.specs.evaluation import PredictJobSpec, SweepJobSpec
from ode_core.specs.gradient import GRADIENTS
from ode_core.specs.model import evaluation_operations, model_state_shape, parameter_count
from ode_core.specs.prediction import prediction_bytes
from ode_core.specs.solver import DEFAULT_MAX_STEPS, Precision, SolverSpec
from ode_core.specs.spec import Spec
from ode_core.specs.torchdiffeq_methods import TORCHDIFFEQ_METHODS
from ode_core.specs.training import TrainingJobSpec

# Of a converged reference for one sample: a usual number, over all the tolerances it tries.
_REFERENCE_EVALUATIONS = 1000
# Of an adaptive solve: how many it takes is not known beforehand.
_USUAL_STEPS = 100


class BudgetExceeded(ValueError):
    """A job or request would cost more than its budget allows; the message says which part."""


class Budget(Spec):
    """The limits. Settings may change each (``ODENESS_BUDGET__PARAMETERS`` and so on)."""

    parameters: int = Field(default=50_000_000, ge=1)
    state_size: int = Field(default=1_000_000, ge=1, description="numbers in one sample's state")
    batch_states: int = Field(default=100_000_000, ge=1, description="batch size times state size")
    evaluations_per_solve: int = Field(default=100_000, ge=1, description="calls of the field in one solve")
    training_operations: float = Field(
        default=1e17, gt=0, description="multiplications of a whole training job, estimated"
    )
    inference_rows: int = Field(default=4096, ge=1, description="inputs in one predict request")
    inference_evaluations: int = Field(
        default=20_000, ge=1, description="calls of the field in one predict request's solve"
    )
    prediction_operations: float = Field(
        default=1e17, gt=0, description="multiplications of a job that predicts a data set, estimated"
    )
    prediction_bytes: int = Field(default=2**30, ge=1, description="stored predictions of one job")


def check_training_budget(spec: TrainingJobSpec, budget: Budget) -> None:
    """Raise ``BudgetExceeded`` when the training job is larger than ``budget`` allows."""
    shape, classes = spec.dataset.input_shape, spec.dataset.classes
    architecture = spec.architecture
    state_size = math.prod(model_state_shape(architecture, shape))
    evaluations = solve_evaluations(spec.solver, architecture.end_time, state_size)
    ceiling = None if spec.adaptation is None else ceiling_steps(spec.adaptation, spec.solver)
    if ceiling is not None:
        evaluations = max(evaluations, spec.solver.facts.evaluations(ceiling))
    if spec.regularisation is not None:
        steps = spec.solver.fixed_steps(0.0, architecture.end_time)
        steps = spec.regularisation.most_steps(max(steps, ceiling or 0))
        evaluations = spec.solver.facts.evaluations(steps) + spec.regularisation.extra_evaluations(spec.solver, steps)
    typical = _adaptive_evaluations(spec.solver, _USUAL_STEPS, state_size) if spec.solver.adaptive else evaluations
    forward = evaluation_operations(architecture, shape) * typical * spec.training.batch_size
    _refuse_above("parameters", parameter_count(architecture, shape, classes), budget.parameters, "a smaller model")
    _refuse_above("numbers in the state", state_size, budget.state_size, "a smaller stem or data set")
    _refuse_above(
        "numbers in a batch of states",
        state_size * spec.training.batch_size,
        budget.batch_states,
        "a smaller batch_size",
    )
    if _is_bounded_beforehand(spec.solver):
        _refuse_above("evaluations in a solve", evaluations, budget.evaluations_per_solve, _remedy(spec.solver))
    training = GRADIENTS[spec.gradient].cost * forward * spec.training.iterations
    checks = evaluation_operations(architecture, shape) * _evaluations_of_checks(spec, typical)
    _refuse_above(
        "multiplications in the whole training",
        training,
        budget.training_operations,
        "fewer iterations, fewer steps or a smaller batch_size",
    )
    _refuse_above(
        "multiplications in the training and the checks of its adaptation",
        training + checks,
        budget.training_operations,
        "a longer interval between checks or fewer audit_samples",
    )


def check_model_budget(spec: TrainingJobSpec, budget: Budget) -> None:
    """Raise ``BudgetExceeded`` when a model with its solver, trained elsewhere, is larger than ``budget`` allows."""
    shape, classes = spec.dataset.input_shape, spec.dataset.classes
    state_size = math.prod(model_state_shape(spec.architecture, shape))
    parameters = parameter_count(spec.architecture, shape, classes)
    _refuse_above("parameters", parameters, budget.parameters, "a smaller model")
    _refuse_above("numbers in the state", state_size, budget.state_size, "a smaller stem or data set")
    check_solve_budget(spec.solver, spec.architecture.end_time, budget.evaluations_per_solve, state_size)


def _evaluations_of_checks(spec: TrainingJobSpec, evaluations: float) -> float:
    """Return about how many evaluations of the field, for one sample each, certified checks take in all."""
    rule = spec.adaptation
    if not isinstance(rule, CertifiedAdaptation):
        return 0.0  # a check is a few solves of one batch
    checks = spec.training.iterations / rule.interval + 1
    return checks * rule.audit_samples * (_REFERENCE_EVALUATIONS + evaluations)


def check_sweep_budget(
    spec: SweepJobSpec, end_time: float, budget: Budget, state_size: int = 0, *, each: int = 1
) -> None:
    """Raise ``BudgetExceeded`` when one of the sweep's solves is larger than ``budget`` allows."""
    for solver in spec.solvers:
        check_solve_budget(solver, end_time, budget.evaluations_per_solve, state_size, each=each)


def check_prediction_budget(
    spec: PredictJobSpec, trained: TrainingJobSpec, solver: SolverSpec, samples: int, budget: Budget, *, each: int = 1
) -> None:
    """Raise ``BudgetExceeded`` when predicting ``samples`` samples is more work or storage than ``budget`` allows.

    Args:
        spec: the job.
        trained: the training job of the model version.
        solver: what the job predicts with; ``check_solve_budget`` has checked one solve.
        samples: how many the job predicts.
        budget: the limits.
        each: how often one evaluation of a modified field calls the trained field.
    """
    architecture, shape = trained.architecture, trained.dataset.input_shape
    state_size = math.prod(model_state_shape(architecture, shape))
    if solver.adaptive:
        evaluations = _adaptive_evaluations(solver, min(solver.max_steps or _USUAL_STEPS, _USUAL_STEPS), state_size)
    else:
        evaluations = solve_evaluations(solver, architecture.end_time, state_size)
    _refuse_above(
        "multiplications in all predictions",
        evaluation_operations(architecture, shape) * each * evaluations * samples,
        budget.prediction_operations,
        "fewer samples, fewer steps or looser tolerances",
    )
    _refuse_above(
        "bytes of stored predictions",
        samples * prediction_bytes(trained.dataset.classes, logits=spec.logits),
        budget.prediction_bytes,
        "fewer samples, or leave the logits out" if spec.logits else "fewer samples",
    )


def check_solve_budget(solver: SolverSpec, end_time: float, limit: int, state_size: int = 0, *, each: int = 1) -> None:
    """Raise ``BudgetExceeded`` when a solve on ``[0, end_time]`` may take more evaluations than ``limit``.

    The default number of steps of an adaptive solver is far more than it takes and refuses nothing: such a solve, and
    that of an implicit method, whose number is an estimate, gets ``limit`` as its ``max_evaluations``, too.

    ``each`` is how often one evaluation of a modified field calls the trained field, whose evaluations are limited.
    """
    if _is_bounded_beforehand(solver):
        evaluations = each * solve_evaluations(solver, end_time, state_size)
        of = solver.label if each == 1 else f"{solver.label}, {each} for one of the modified field,"
        _refuse_above(f"evaluations of {of}", evaluations, limit, _remedy(solver))


def solve_evaluations(solver: SolverSpec, end_time: float, state_size: int = 0) -> int:
    """Return the evaluations of the field in one solve: an upper bound, exact for explicit methods on a
    uniform grid.

    For an implicit method it is the usual number for as many steps; those for its Jacobians, which depend on
    ``state_size``, the numbers in a state, are among them only where that is given.
    """
    if solver.adaptive:
        # Two more for the initial step.
        return _adaptive_evaluations(solver, solver.max_steps or DEFAULT_MAX_STEPS, state_size) + 2
    steps = max(solver.fixed_steps(0.0, end_time, precision) for precision in get_args(Precision))
    return solver.facts.evaluations(steps, state_size)


def _adaptive_evaluations(solver: SolverSpec, steps: int, state_size: int) -> int:
    if solver.runs_on == "torchdiffeq":
        return steps * (TORCHDIFFEQ_METHODS[solver.method].evaluations_per_step or 0)
    return solver.facts.evaluations(steps, state_size)


def _is_bounded_beforehand(solver: SolverSpec) -> bool:
    return not solver.adaptive or solver.max_steps is not None


def _remedy(solver: SolverSpec) -> str:
    return "a smaller max_steps" if solver.adaptive else "fewer steps"


def _refuse_above(what: str, value: float, limit: float, remedy: str) -> None:
    if value > limit:
        raise BudgetExceeded(f"{value:,.0f} {what} exceed the budget of {limit:,.0f}: use {remedy}")
