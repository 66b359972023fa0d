"""How a model in the plane comes to its predictions for some inputs: with a solver, and along the exact flow."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ode_core.audit.crossings import FloatArray, IntArray
from ode_core.audit.exact_flow import ExactFlow, flow
from ode_core.audit.phase_portrait import (
    Plane,
    arrows,
    decision_line,
    has_planar_input,
    has_planar_state,
    inputs_of,
    planar,
    regions_of_states,
    rounded,
)
from ode_core.models.classifier import Classifier
from ode_core.models.predictions import NO_LABEL, labels_of, status_of_answer
from ode_core.specs.repair import affordable_evaluations
from ode_core.specs.solver import SolverSpec

# Of the exact flow, relative to a curve: half a pixel. Somebody waits for it: with ReLU 1e-5 takes eight times as long.
ACCURACY = 1e-3
_TOGETHER = 2.0  # times the width of the solver's own plane
_FAR = 20.0  # times as far as the row in the middle
REGIONS = 61  # cells along an edge of the plane of states, where a class costs a product
INPUT_REGIONS = 25  # of the plane of inputs, where it costs two solves
ARROWS = 21
TIMES = 128  # intervals of a curve, at least
OWN_STEPS = 256  # of a grid, at most, whose states are shown as they are; more are a curve


@torch.no_grad()
def explain(
    model: Classifier, exact: Classifier, inputs: Tensor, solver: SolverSpec, *, max_evaluations: int | None = None
) -> dict[str, Any]:
    """Return what is drawn, as JSON values with arrays.

    Args:
        model: a classifier with states, or else inputs, of two numbers.
        exact: the same in float64.
        inputs: ``(n, *input_shape)``.
        solver: the one to explain.
        max_evaluations: bound on the evaluations of the field for one sample in one solve, or None.

    Raises:
        ValueError: neither its states nor its inputs are points of a plane.
    """
    if has_planar_state(model):
        return _in_states(model, exact, inputs, solver, max_evaluations)
    if has_planar_input(model):
        return _in_inputs(model, exact, inputs, solver, max_evaluations)
    raise ValueError(f"states of shape {list(model.state_shape)} are not points of a plane, and neither are the inputs")


def _in_states(
    model: Classifier, exact: Classifier, inputs: Tensor, solver: SolverSpec, max_evaluations: int | None
) -> dict[str, Any]:
    steps = _own_steps(solver, model)
    intervals = TIMES if steps is None else steps
    between = math.ceil(TIMES / intervals)
    times = torch.linspace(0, model.end_time, intervals + 1, dtype=torch.float64)
    output = model.run(inputs, solver, times=times, outputs="interpolate", max_evaluations=max_evaluations)
    assert output.solution.trajectory is not None
    asked = planar(output.solution.trajectory, len(times))
    found = _exact_flow(exact, inputs, intervals * between + 1, max_evaluations)
    curves = planar(found.converged_curves, intervals * between + 1)
    plane, exact_plane = _planes(asked, curves)
    line = decision_line(model)
    return {
        "of": "states",
        "end_time": model.end_time,
        "plane": _background(model, plane),
        "exact_plane": None if exact_plane is None else _background(model, exact_plane),
        "decision_line": None if line is None else {"normal": list(line[0]), "offset": line[1]},
        "own_steps": steps is not None,
        "times": times.tolist(),
        "states": rounded(asked.swapaxes(0, 1)),
        "exact_times": np.linspace(0, model.end_time, len(curves)).tolist(),
        "exact_states": rounded(curves.swapaxes(0, 1)),
        "exact_labels": _exact_labels(exact, found).tolist(),
        "distances": rounded(_distances(asked, curves[::between], found).T),
    }


def _planes(asked: FloatArray, exact: FloatArray) -> tuple[Plane, Plane | None]:
    """Return a plane for both curves ``(times, n, 2)``, or one for each where one would make the other a dot."""
    near, exact_near = _near(asked), _near(exact)
    both = Plane.around(np.concatenate([asked[:, near].reshape(-1, 2), exact[:, near & exact_near].reshape(-1, 2)]))
    own = Plane.around_most(asked[:, near])
    return (both, None) if both.width <= _TOGETHER * own.width else (own, Plane.around_most(exact[:, exact_near]))


def _near(curves: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which of the rows of ``(times, n, 2)`` do not go so far that the others would be a dot beside them."""
    known = np.isfinite(curves[0]).all(axis=1)
    if not known.any():
        return np.ones(len(known), np.bool_)
    middle = np.median(curves[0, known], axis=0)
    reach = np.nan_to_num(np.abs(curves - middle), nan=0.0, posinf=np.inf).max(axis=(0, 2))
    usual = np.sort(reach[known])[(known.sum() - 1) // 2]
    near: npt.NDArray[np.bool_] = (reach <= _FAR * usual) | (usual == 0)
    return near


def _background(model: Classifier, plane: Plane) -> dict[str, Any]:
    return plane.to_json() | {
        "regions": regions_of_states(model, plane, REGIONS).reshape(REGIONS, REGIONS).tolist(),
        "arrows": rounded(arrows(model, plane, ARROWS)),
    }


def _in_inputs(
    model: Classifier, exact: Classifier, inputs: Tensor, solver: SolverSpec, max_evaluations: int | None
) -> dict[str, Any]:
    points = planar(inputs)
    plane = Plane.around(points)
    grid = inputs_of(exact, plane, INPUT_REGIONS)
    output = model.run(grid.to(model.dtype), solver, max_evaluations=max_evaluations)
    labels = labels_of(output.logits, status_of_answer(output.logits, output.solution.status))
    exact_regions = _exact_labels(exact, _exact_flow(exact, grid, 2, max_evaluations))
    return {
        "of": "inputs",
        "end_time": model.end_time,
        "plane": plane.to_json(),
        "regions": labels.reshape(INPUT_REGIONS, INPUT_REGIONS).tolist(),
        "exact_regions": exact_regions.reshape(INPUT_REGIONS, INPUT_REGIONS).tolist(),
        "points": rounded(points),
        "exact_labels": _exact_labels(exact, _exact_flow(exact, inputs, 2, max_evaluations)).tolist(),
    }


def _own_steps(solver: SolverSpec, model: Classifier) -> int | None:
    """Return the number of a grid's equal steps if they are few enough to be seen, else None."""
    if solver.adaptive or solver.grid == "truncate":
        return None
    steps = solver.fixed_steps(0.0, model.end_time)
    return steps if steps <= OWN_STEPS else None


def _exact_flow(exact: Classifier, inputs: Tensor, points: int, max_evaluations: int | None) -> ExactFlow:
    states = exact.initial_state(inputs)
    return flow(
        exact.field.for_states(exact.state_shape),
        states,
        torch.zeros(len(states)),
        exact.end_time,
        points=points,
        accuracy=ACCURACY,
        max_evaluations=affordable_evaluations(max_evaluations, exact.evaluations_in_field),
    )


def _distances(asked: FloatArray, exact: FloatArray, found: ExactFlow) -> FloatArray:
    """Return how far states ``(times, n, 2)`` are from the exact ones; NaN where that is less than these are known."""
    distances = np.linalg.norm(asked - exact, axis=2)
    return np.where(distances > found.error.cpu().numpy(), distances, np.nan)


def _exact_labels(exact: Classifier, found: ExactFlow) -> IntArray:
    """Return what the exact flow predicts, ``(n,)``; ``NO_LABEL`` where it is not known well enough to tell."""
    logits = exact.head(found.converged_curves[-1])
    leading = logits.topk(2, dim=1)
    weight = exact.head[1].weight
    assert isinstance(weight, Tensor)
    # Each number of the state may be wrong by the error, which moves the two logits apart by no more than this.
    uncertain = (weight[leading.indices[:, 0]] - weight[leading.indices[:, 1]]).abs().sum(dim=1) * found.error
    sure = leading.values[:, 0] - leading.values[:, 1] > uncertain  # false of NaN
    return torch.where(sure, leading.indices[:, 0], NO_LABEL).cpu().numpy()
