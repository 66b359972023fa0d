"""Trainings that make a model an ODE whose predictions depend on the solver."""

import math

from ode_core.specs.adaptation import CertifiedAdaptation, samples_without_flips
from ode_core.specs.solver import SolverSpec
from ode_core.specs.training import ModelName, StartFrom, TrainingJobSpec

_LONGEST_NAME = 100  # of ``NAME_PATTERN``
# In so many times ``1 / epsilon`` samples a rate of about a third of epsilon can be certified.
_SAMPLES_OVER_EPSILON = 10
_CHECKS = 10  # in a training, at least


def retraining(
    trained: TrainingJobSpec, solver: SolverSpec, epsilon: float, *, start: StartFrom | None = None
) -> TrainingJobSpec:
    """Return a training under the certified rule, which exports weights whose flip rate is at most ``epsilon``.

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
    adaptation = CertifiedAdaptation(
        interval=max(1, min(default.interval, trained.training.iterations // _CHECKS)),
        epsilon=epsilon,
        climb_threshold=threshold,
        audit_samples=fewest if known is None else max(1, min(wanted, known // 2)),
        max_steps=max(default.max_steps, steps),
        max_tolerance=max(default.max_tolerance, *tolerances),
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
    )
