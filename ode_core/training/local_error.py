"""How far a solve's steps are from those of a flow, as a part of the loss.

With ``e_k`` the local error of step ``k`` of ``N``, ``N e_k`` is what the whole solve would be off by if every step
erred so. The measure is the mean of its square, over steps, samples and the numbers of a state, relative to the mean
square of the final states. It has no unit and does not grow with ``N`` as a sum would. The final states count as
constants in the gradient: else blowing the states up would be a way to a smaller penalty.
"""

import torch
from torch import Tensor

from ode_core.models.classifier import Classifier, ClassifierOutput
from ode_core.solvers.local_errors import solve_with_local_errors
from ode_core.specs.solver import SolverSpec


def run_with_local_error(
    model: Classifier, inputs: Tensor, solver: SolverSpec, *, max_evaluations: int | None = None
) -> tuple[ClassifierOutput, Tensor]:
    """Return what ``model.run`` does, and the squared relative local error (0-d); gradients flow through both.

    Args:
        model: the model in training.
        inputs: ``(batch, *shape)`` in the data set's own units.
        solver: an explicit method on a uniform grid.
        max_evaluations: bound on the evaluations of the field for one sample, or None.
    """
    z0 = model.initial_state(inputs)
    with model.float32_products():
        solution, errors = solve_with_local_errors(
            model.field.for_states(model.state_shape), z0, solver, t1=model.end_time, max_evaluations=max_evaluations
        )
    return ClassifierOutput(model.head(solution.final), solution), squared_relative_error(errors, solution.final)


def squared_relative_error(errors: Tensor, final: Tensor) -> Tensor:
    """Return the mean square of ``N e_k`` relative to that of the final states.

    Args:
        errors: ``(steps, batch, *state)``, the local errors.
        final: ``(batch, *state)``.
    """
    scale = final.detach().square().mean().clamp(min=torch.finfo(final.dtype).tiny)
    return (len(errors) * errors).square().mean() / scale
