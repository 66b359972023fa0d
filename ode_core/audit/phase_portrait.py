"""The phase plane of a model with a two-dimensional state: trajectories, the field's arrows, the classes' regions."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ode_core.audit.crossings import FloatArray, IntArray
from ode_core.models.classifier import Classifier
from ode_core.models.predictions import NO_LABEL
from ode_core.solvers.truncated_grid import precision_of, truncated_grid
from ode_core.specs.solver import SolverSpec

_PADDING = 0.08  # of a plane's width, on each side
_MANY = 20  # samples; fewer are all shown
_MOST = 0.85  # of the samples; a few run far away where a field grows, and would leave the others a dot
_WORTH_LEAVING_OUT = 1.5  # times smaller the plane has to be without them
_SMALLEST_WIDTH = 1e-6
_FLATTEST = 0.1  # the shorter side over the longer
_DIGITS = 7  # of written numbers; float32 has no more


@dataclass(frozen=True)
class Plane:
    """A rectangle in the plane: its edges along both axes."""

    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, points: FloatArray) -> "Plane":
        """Return the rectangle that holds all finite points, ``(..., 2)``, with some space around them."""
        rows = points.reshape(-1, 2)
        rows = rows[np.isfinite(rows).all(axis=1)]
        if len(rows) == 0:
            return cls((-0.5, 0.5), (-0.5, 0.5))
        low, high = rows.min(axis=0), rows.max(axis=0)
        # A side is not much shorter than the other: what is flat should look flat.
        smallest = max(float((high - low).max()) * _FLATTEST, _SMALLEST_WIDTH)
        half = np.maximum(high - low, smallest) * (0.5 + _PADDING)
        middle = (low + high) / 2
        (x0, y0), (x1, y1) = (middle - half).tolist(), (middle + half).tolist()
        return cls((x0, x1), (y0, y1))

    @classmethod
    def around_most(cls, states: FloatArray) -> "Plane":
        """Return the rectangle around the ``(times, n, 2)`` states of most samples.

        Of 20 and more, the 15 % that go furthest from the middle are left out if it is much smaller without them.
        """
        everything = cls.around(states)
        seen = states[:, [bool(np.isfinite(sample).all(axis=1).any()) for sample in states.swapaxes(0, 1)]]
        if seen.shape[1] < _MANY:
            return everything
        middle = np.nanmedian(np.where(np.isfinite(seen), seen, np.nan).reshape(-1, 2), axis=0)
        furthest = np.abs(np.nan_to_num(seen, nan=np.inf) - middle).max(axis=(0, 2))
        most = cls.around(seen[:, furthest <= np.quantile(furthest, _MOST, method="lower")])
        return most if most.width * _WORTH_LEAVING_OUT <= everything.width else everything

    @property
    def width(self) -> float:
        """The length of the longer side."""
        return max(self.x[1] - self.x[0], self.y[1] - self.y[0])

    def grid(self, count: int) -> FloatArray:
        """Return ``(count * count, 2)`` middles of cells, row by row from the lowest, each from left to right."""
        shares = (np.arange(count) + 0.5) / count
        x, y = np.meshgrid(*(low + shares * (high - low) for low, high in (self.x, self.y)))
        return np.stack([x.ravel(), y.ravel()], axis=1)

    def to_json(self) -> dict[str, Any]:
        """Return the edges as JSON values."""
        return {"x": list(self.x), "y": list(self.y)}


@dataclass(frozen=True)
class Trajectories:
    """States of some samples at common times.

    Attributes:
        times: ``(times,)``.
        states: ``(times, samples, 2)``; NaN from where a sample is not finite.
    """

    times: FloatArray
    states: FloatArray


@dataclass(frozen=True)
class FinalStates:
    """Where samples end, ``(n, 2)`` (NaN where a solve failed), and what is predicted, ``(n,)``."""

    states: FloatArray
    predictions: IntArray


def in_float64(model: Classifier) -> Classifier:
    """Return a copy of the model that computes in float64, for exact solutions."""
    return copy.deepcopy(model).double()


def grid_times(solver: SolverSpec, end_time: float, dtype: torch.dtype) -> Tensor:
    """Return the ``(steps + 1,)`` times of a fixed grid on ``[0, end_time]``, in float64 or the grid's own type."""
    steps = solver.fixed_steps(0.0, end_time, precision_of(dtype))
    if solver.grid == "truncate" and solver.step_size is not None:
        grid = truncated_grid(solver.step_size, steps, 0.0, end_time, dtype)
        return torch.minimum(grid, grid[-1])  # a last step of a rounding error may lead backwards
    return torch.linspace(0, end_time, steps + 1, dtype=torch.float64)


@torch.no_grad()
def trajectories(
    model: Classifier, inputs: Tensor, solver: SolverSpec, times: Tensor, *, max_evaluations: int | None = None
) -> Trajectories:
    """Return the states of ``inputs`` ``(n, *sample_shape)`` at ``times``; the solver's steps are what they are."""
    solution = model.run(inputs.to(model.device), solver, times=times, max_evaluations=max_evaluations).solution
    assert solution.trajectory is not None
    return Trajectories(times.double().numpy(), planar(solution.trajectory, len(times)))


@torch.no_grad()
def final_states(
    model: Classifier, inputs: Tensor, solver: SolverSpec, *, max_evaluations: int | None = None
) -> FinalStates:
    """Return where ``inputs`` ``(n, *sample_shape)`` end and what the model predicts for them."""
    output = model.run(inputs.to(model.device), solver, max_evaluations=max_evaluations)
    right = output.solution.succeeded & torch.isfinite(output.logits).all(dim=1)
    labels = torch.where(right, output.logits.argmax(dim=1), NO_LABEL)
    return FinalStates(planar(output.solution.final), labels.cpu().numpy())


@torch.no_grad()
def arrows(model: Classifier, plane: Plane, count: int) -> FloatArray:
    """Return the field at time 0 on the plane's grid, ``(count * count, 2)``."""
    states = states_of(model, plane.grid(count))
    time = torch.zeros((), dtype=states.dtype, device=states.device)
    with model.float32_products():
        return planar(model.field.for_states(model.state_shape)(time, states))


@torch.no_grad()
def regions_of_states(model: Classifier, plane: Plane, count: int) -> IntArray:
    """Return the class the model reads from each final state on the plane's grid, ``(count * count,)``."""
    logits: Tensor = model.head(states_of(model, plane.grid(count)))
    return logits.argmax(dim=1).cpu().numpy()


def inputs_of(model: Classifier, plane: Plane, count: int) -> Tensor:
    """Return the inputs on the grid of a plane of inputs, ``(count * count, 2)``, in the data set's own units."""
    return torch.from_numpy(plane.grid(count)).to(model.dtype)


def decision_line(model: Classifier) -> tuple[tuple[float, float], float] | None:
    """Return unit normal and offset of the line ``normal . z + offset = 0`` at which the class changes from 0 to 1.

    None with other than two classes, or where the head does not depend on the state.
    """
    linear = model.head[1]
    assert isinstance(linear, torch.nn.Linear)
    if linear.out_features != 2:
        return None
    weight, bias = linear.weight.detach().double(), linear.bias.detach().double()
    normal, offset = weight[1] - weight[0], float(bias[1] - bias[0])
    length = float(normal.norm())
    if length == 0:
        return None
    return (float(normal[0]) / length, float(normal[1]) / length), offset / length


def last_turn(states: FloatArray, angle: float) -> int:
    """Return the first index from which no curve turns by more than ``angle`` (radians, all turns added up) to its end.

    Args:
        states: ``(times, n, 2)``, curves so finely sampled that they turn by less than half a circle a step.
        angle: allowed.
    """
    steps = np.nan_to_num(np.diff(states, axis=0))
    u, v = steps[:-1], steps[1:]
    turns = np.abs(np.arctan2(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0], (u * v).sum(axis=-1)))
    left = np.cumsum(turns[::-1], axis=0)[::-1].max(axis=1, initial=0.0)
    return int(np.searchsorted(-left, -angle))


def states_of(model: Classifier, points: FloatArray) -> Tensor:
    """Return points of the plane ``(n, 2)`` as states ``(n, *state_shape)`` of the model."""
    return torch.from_numpy(points).to(model.device, model.dtype).reshape(-1, *model.state_shape)


def planar(values: Tensor, *leading: int) -> FloatArray:
    """Return two-dimensional states ``(*leading, n, *state_shape)`` as ``(*leading, n, 2)`` in float64."""
    return np.asarray(values.detach().double().cpu().reshape(*leading, -1, 2).numpy())


def has_planar_state(model: Classifier) -> bool:
    """Return whether a state is a point of the plane."""
    return math.prod(model.state_shape) == 2


def has_planar_input(model: Classifier) -> bool:
    """Return whether an input is a point of the plane."""
    return math.prod(model.input_shape) == 2


def rounded(values: FloatArray) -> Any:
    """Return nested lists of numbers with seven digits; None in place of those that are not finite."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(part) for part in value]
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None

    return short(np.asarray(values).tolist())
