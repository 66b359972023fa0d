"""Accepts jobs that predict whole data sets: everything a worker needs is written into the spec."""

import math
from dataclasses import asdict
from typing import Any

from api.budget_problems import within_budget
from api.chosen_solver import choose_solver
from api.identifiers import find_version
from api.impossible_problems import possible
from api.inference.prediction_call import AutoSolver
from api.problems import invalid
from api.uploaded_datasets import filled_in, require_dataset
from ode_core.audit.solver_choice import SolverChoice
from ode_core.specs import (
    ModifiedFieldSpec,
    PredictJobSpec,
    SolverSpec,
    TrainingJobSpec,
    check_prediction_budget,
    check_solve_budget,
    evaluations_in_field,
    model_state_shape,
    samples_to_predict,
)
from store.jobs import Job
from store.models import ModelVersion
from store.settings import Settings
from store.unit_of_work import Transaction

_OF_AUTO = ("agreement", "evidence", "by", "otherwise")


def submit_prediction(tx: Transaction, settings: Settings, spec: PredictJobSpec) -> Job:
    """Store the job with its version, solver and data set named.

    Raises:
        Problem: there is no such version or data set, no solver is known to agree, they do not fit, or the job is more
            than the budget allows.
    """
    version = find_version(tx, spec.model, spec.version)
    trained = TrainingJobSpec.model_validate(version.training_spec)
    field = None if version.modified_field is None else ModifiedFieldSpec.model_validate(version.modified_field)
    solver, asked = _solver(tx, spec, version)
    dataset = trained.dataset if spec.dataset is None else filled_in(tx, spec.dataset, "dataset")
    with possible():
        samples = samples_to_predict(spec, trained, dataset)
    require_dataset(dataset, settings)
    state_size = math.prod(model_state_shape(trained.architecture, trained.dataset.input_shape))
    budget, each = settings.budget, evaluations_in_field(field, state_size)
    with within_budget("solver"):
        check_solve_budget(solver, trained.architecture.end_time, budget.evaluations_per_solve, state_size, each=each)
    with within_budget("samples"):
        check_prediction_budget(spec, trained, solver, samples, budget, each=each)
    # A spec that can be sent again: what was asked of auto would not fit the solver's name.
    document = spec.model_dump(mode="json", exclude=set(_OF_AUTO)) | {
        "version": version.version,
        "solver": solver.document(),
        "chosen_by": asked,
        "dataset": dataset.model_dump(mode="json"),
    }
    return tx.jobs.submit(spec.kind, document, model=spec.model, model_version=version.version, total=samples)


def _solver(tx: Transaction, spec: PredictJobSpec, version: ModelVersion) -> tuple[SolverSpec, dict[str, Any] | None]:
    """Return the solver to use; where it was to be chosen with all that was asked of it, and the reason."""
    own = SolverSpec.model_validate(version.solver)
    given = {name: getattr(spec, name) for name in _OF_AUTO}
    given = {name: value for name, value in given.items() if value is not None}
    if spec.chosen_by is not None and not isinstance(spec.solver, SolverSpec):
        raise invalid("chosen_by", "goes with the solver that was chosen: leave it out, or name that solver")
    if isinstance(spec.solver, str):
        stored = tx.solver_choices.of_version(version.id)
        choice = None if stored is None else SolverChoice.from_json(stored.choice)
        asked = AutoSolver(**given)
        solver, chosen = choose_solver(choice, version, own, asked)
        return solver, asdict(asked) | {"reason": chosen.reason}
    for name in given:
        raise invalid(name, 'is for "solver": "auto" alone: leave it out, or let the solver be chosen')
    return spec.solver or own, None if spec.chosen_by is None else spec.chosen_by.model_dump(mode="json")
