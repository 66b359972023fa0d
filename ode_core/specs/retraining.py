"""Trainings that make a model an ODE whose predictions depend on the solver."""

import math

from ode_core.specs.adaptation import CertifiedAdaptation, samples_without_flips
from ode_core.specs.regularisation import LocalErrorPenalty, Regularisation
from ode_core.specs.solver import SolverSpec
from ode_core.specs.training import ModelName, StartFrom, TrainingJobSpec

_LONGEST_NAME = 100  # of ``NAME_PATTERN``
# In so many times ``1 / epsilon`` samples a rate of about a third of epsilon can be certified.
_SAMPLES_OVER_EPSILON = 10
_CHECKS = 10  # in a training, at least
# What a model that is no ODE is fine-tuned with: at its own step first, as at the finest step, where its first check
# would lead, the penalty is nothing. Tried with Euler's method; docs/regularisation.md has the numbers.
_PENALISED_METHOD = "euler"
_PENALTY = Regularisation(local_error=LocalErrorPenalty(weight=1.0))
_BEFORE_CHECKS = 0.5


def retraining(
    trained: TrainingJobSpec, solver: SolverSpec, epsilon: float, *, start: StartFrom | None = None
) -> TrainingJobSpec:
    """Return a training under the certified rule, which exports weights whose flip rate is at most ``epsilon``.

    Fine-tuning a model of Euler's method on a grid begins with a local-error penalty and without checks.

    Args:
        trained: the training that made the model.
        solver: what it was trained with at the end; the new one begins with it.
        epsilon: largest flip rate.
        start: the version to fine-tune; None: from the beginning.

    Raises:
        ValueError: the rule is not for this solver, or the training split is too small for ``epsilon``.
    """
    ending = "adapted" if start is None else "fine-tuned"
    name: ModelName = f"{trained.name[: _LONGEST_NAME - len(ending) - 1]}-{ending}"
    default, tolerances = CertifiedAdaptation(), (solver.rtol or 0.0, solver.atol or 0.0)
    threshold = min(default.climb_threshold, 0.75 * epsilon)
    fewest, known = max(default.audit_samples, samples_without_flips(threshold)), trained.dataset.train_samples
    wanted = max(fewest, math.ceil(_SAMPLES_OVER_EPSILON / epsilon))
    steps = 1 if solver.adaptive else solver.fixed_steps(0.0, trained.architecture.end_time)
    penalised = start is not None and _can_be_penalised(trained, solver)
    adaptation = CertifiedAdaptation(
        interval=max(1, min(default.interval, trained.training.iterations // _CHECKS)),
        epsilon=epsilon,
        climb_threshold=threshold,
        audit_samples=fewest if known is None else max(1, min(wanted, known // 2)),
        max_steps=max(default.max_steps, steps),
        max_tolerance=max(default.max_tolerance, *tolerances),
        begin_fraction=_BEFORE_CHECKS if penalised else 0.0,
    )
    return TrainingJobSpec(
        name=name,
        dataset=trained.dataset,
        model=trained.model,
        solver=solver,
        training=trained.training,
        adaptation=adaptation,
        start_from=start,
        gradient=trained.gradient,
        regularisation=_PENALTY if penalised else trained.regularisation,
    )


def _can_be_penalised(trained: TrainingJobSpec, solver: SolverSpec) -> bool:
    on_our_grid = not solver.adaptive and solver.grid != "truncate" and solver.runs_on == "odeness"
    return solver.method == _PENALISED_METHOD and on_our_grid and trained.gradient == "backprop"
