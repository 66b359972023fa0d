"""A model with a two-dimensional state, seen at two step sizes and exactly: what its figures are drawn from."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ode_core.audit.class_separation import separate
from ode_core.audit.crossings import Crossings, FloatArray, IntArray, crossings_within_steps
from ode_core.audit.error_fan import ErrorFan, error_fan
from ode_core.audit.exact_flow import FIGURE_ACCURACY, METHOD, ExactFlow, flow_to_end
from ode_core.audit.phase_portrait import (
    FinalStates,
    Plane,
    Trajectories,
    arrows,
    decision_line,
    final_states,
    grid_times,
    has_planar_input,
    has_planar_state,
    in_float64,
    inputs_of,
    last_turn,
    planar,
    regions_of_states,
    rounded,
    trajectories,
)
from ode_core.audit.reference import converged_reference
from ode_core.models.classifier import Classifier
from ode_core.models.predictions import NO_LABEL, predict
from ode_core.specs.repair import affordable_evaluations
from ode_core.specs.solver import SolverSpec

CLUSTER_SAMPLES = 1000
STORED_POINTS = 8_000  # of all trajectories of a view together, and of a view's numerical solutions in its fan
STORED_CROSSINGS = 500
EXACT_TIMES = 129
LAP = 1.25 * 2 * math.pi  # a fan is drawn over its last lap: over many of them nothing could be told apart
LAP_TIMES = 1_025
SHORTEST_LAP = 0.02  # of the interval
LARGEST_EXACT_GRID = 1_025  # grid points an exact solution is made to land on

OnProgress = Callable[[int, int, str], None]
"""Called before each part with its number (from 1), the number of parts and a message; an exception ends it all."""


@dataclass(frozen=True)
class PortraitSize:
    """How much is computed.

    Attributes:
        samples: trajectories.
        fan_samples: samples whose fan is computed.
        grid: cells along each edge of a plane.
        max_evaluations: bound on the evaluations of the field for one sample in one solve, or None.
    """

    samples: int = 40
    fan_samples: int = 4
    grid: int = 41
    max_evaluations: int | None = None


def portrait(
    model: Classifier,
    inputs: Tensor,
    labels: Tensor,
    solver: SolverSpec,
    finer: SolverSpec,
    *,
    autonomous: bool,
    size: PortraitSize | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Return the portrait of ``model`` as JSON values; ``docs/figures.md`` describes them.

    Args:
        model: a classifier whose state has two numbers.
        inputs: ``(n, *sample_shape)``, of which the first 1,000 make the clusters.
        labels: ``(n,)``.
        solver: a fixed grid.
        finer: another, usually with half the step.
        autonomous: whether the field does not depend on the time.
        size: how much is computed.
        on_progress: see ``OnProgress``.

    Raises:
        ValueError: the state is not two-dimensional.
    """
    if not has_planar_state(model):
        raise ValueError(f"a portrait needs a state of two numbers; the model's has shape {list(model.state_shape)}")
    size = size or PortraitSize()
    drawing = _Drawing(
        model,
        inputs[:CLUSTER_SAMPLES],
        labels[:CLUSTER_SAMPLES],
        autonomous,
        size,
        _chosen(labels[:CLUSTER_SAMPLES], size.fan_samples),
    )
    progress = _Progress(9, on_progress)
    progress.next("exact trajectories")
    exact = drawing.exact_trajectories()
    exact_final = drawing.exact_final()
    views = []
    for each in (solver, finer):
        progress.next(f"trajectories of {each.label}")
        views.append(drawing.view(each))
    progress.next("vector field")
    plane = Plane.around_most(views[0].trajectories.states)
    document = drawing.header() | {
        "field": {"plane": plane.to_json(), "time": 0.0, "arrows": rounded(arrows(model, plane, size.grid))},
        "decision_line": _line(model),
    }
    input_plane = drawing.input_plane()
    document["input_plane"] = None if input_plane is None else input_plane.to_json()
    parts = []
    for view in views:
        progress.next(f"decision regions of {view.solver.label}")
        regions = drawing.input_regions(input_plane, view.solver)
        progress.next(f"error fan of {view.solver.label}")
        parts.append(drawing.view_json(view) | {"input_regions": regions, "fans": drawing.fans(view)})
    progress.next("decision regions of the exact flow")
    document["views"] = parts
    document["reference"] = drawing.exact_json(exact, exact_final) | {
        "input_regions": drawing.exact_input_regions(input_plane)
    }
    return document


@dataclass(frozen=True)
class _View:
    """What one solver makes of the samples; ``grid`` has all its steps, ``trajectories`` are what is stored."""

    solver: SolverSpec
    grid: Tensor
    trajectories: Trajectories
    final: FinalStates


class _Progress:
    def __init__(self, parts: int, on_progress: OnProgress | None) -> None:
        self._parts, self._on_progress, self._part = parts, on_progress, 0

    def next(self, message: str) -> None:
        self._part += 1
        if self._on_progress is not None:
            self._on_progress(self._part, self._parts, message)


class _Drawing:
    """One model and its samples."""

    def __init__(
        self,
        model: Classifier,
        inputs: Tensor,
        labels: Tensor,
        autonomous: bool,
        size: PortraitSize,
        fan_samples: list[int],
    ) -> None:
        self.model, self.exact = model, in_float64(model)
        self.inputs, self.labels = inputs, labels
        self.drawn = inputs[: size.samples]
        self.autonomous, self.size, self.fan_samples = autonomous, size, fan_samples
        self.field_evaluations = affordable_evaluations(size.max_evaluations, model.evaluations_in_field)

    def header(self) -> dict[str, Any]:
        return {
            "end_time": self.model.end_time,
            "autonomous": self.autonomous,
            "classes": self.model.head[1].out_features,
            "labels": self.labels.tolist(),
            "inputs": rounded(planar(self.inputs)) if has_planar_input(self.model) else None,
            "samples": len(self.drawn),
        }

    def view(self, solver: SolverSpec) -> _View:
        grid = grid_times(solver, self.model.end_time, self.model.dtype)
        bound = self.size.max_evaluations
        return _View(
            solver,
            grid,
            trajectories(self.model, self.drawn, solver, grid, max_evaluations=bound),
            final_states(self.model, self.inputs, solver, max_evaluations=bound),
        )

    def exact_trajectories(self) -> Trajectories:
        flow = self._flow(self.drawn, EXACT_TIMES)
        times = np.linspace(0, self.model.end_time, EXACT_TIMES)
        return Trajectories(times, planar(flow.converged_curves, EXACT_TIMES))

    def exact_final(self) -> FinalStates:
        ends = self._flow(self.inputs, 2).converged_curves[-1]
        with torch.no_grad():
            logits = self.exact.head(ends)
        labels = torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), NO_LABEL)
        return FinalStates(planar(ends), labels.cpu().numpy())

    def _flow(self, inputs: Tensor, points: int) -> ExactFlow:
        with torch.no_grad():
            states = self.exact.initial_state(inputs.to(self.model.device))
        return flow_to_end(
            self.exact.field.for_states(self.model.state_shape),
            states,
            torch.zeros(len(states)),
            self.model.end_time,
            points=points,
            max_evaluations=self.field_evaluations,
        )

    def view_json(self, view: _View) -> dict[str, Any]:
        steps = len(view.grid) - 1
        stride = max(1, math.ceil((steps + 1) * view.trajectories.states.shape[1] / STORED_POINTS))
        return {
            "solver": view.solver.document(),
            "label": view.solver.label,
            "steps": steps,
            "step": self.model.end_time / steps,
            **self._final(view.final),
            "trajectories": _trajectories(view.trajectories, stride),
            "crossings": self._crossings(view),
        }

    def exact_json(self, exact: Trajectories, final: FinalStates) -> dict[str, Any]:
        return {
            "method": METHOD,
            "precision": "float64",
            "accuracy_of_states": FIGURE_ACCURACY,
            **self._final(final),
            "trajectories": _trajectories(exact, 1),
        }

    def input_plane(self) -> Plane | None:
        return Plane.around(planar(self.inputs)) if has_planar_input(self.model) else None

    def input_regions(self, plane: Plane | None, solver: SolverSpec) -> list[list[int]] | None:
        if plane is None:
            return None
        inputs = inputs_of(self.model, plane, self.size.grid)
        found = predict(self.model, inputs, solver, max_evaluations=self.size.max_evaluations)
        return _rows(found.labels.numpy(), self.size.grid)

    def exact_input_regions(self, plane: Plane | None) -> list[list[int]] | None:
        if plane is None:
            return None
        inputs = inputs_of(self.exact, plane, self.size.grid)
        found = converged_reference(self.exact, inputs, max_evaluations=self.size.max_evaluations)
        labels = torch.where(found.settled, found.predictions.labels, NO_LABEL)
        return _rows(labels.numpy(), self.size.grid)

    def fans(self, view: _View) -> list[dict[str, Any]]:
        if not self.fan_samples:
            return []
        # The numerical solution is the model's own, in its precision; what is exact is computed in float64.
        solution = self.model.run(
            self.inputs[self.fan_samples].to(self.model.device),
            view.solver,
            times=view.grid,
            max_evaluations=self.field_evaluations,
        ).solution
        assert solution.trajectory is not None
        states = solution.trajectory.detach().double()
        begin = self._last_lap(planar(states, len(states)), view.grid)
        fan = error_fan(
            self.exact.field.for_states(self.model.state_shape),
            states,
            view.grid,
            curves_from=begin,
            max_evaluations=self.field_evaluations,
        )
        shown = [k for k, t in enumerate(view.grid.tolist()) if t >= begin]
        points = _thinned(shown, math.ceil(len(shown) * len(self.fan_samples) / STORED_POINTS))
        return [self._fan(fan, states, view, points, number) for number in range(len(self.fan_samples))]

    def _last_lap(self, states: FloatArray, grid: Tensor) -> float:
        """Return the time from which no numerical or exact solution of the fan's samples turns by more than a lap."""
        numerical = float(grid[last_turn(states, LAP)])
        flow = self._flow(self.inputs[self.fan_samples], LAP_TIMES)
        exact = self.model.end_time * last_turn(planar(flow.curves, LAP_TIMES), LAP) / (LAP_TIMES - 1)
        # A solution that goes to and fro on a line, or through all of its turns in a step, leaves a part of the time.
        return min(max(numerical, exact), (1 - SHORTEST_LAP) * self.model.end_time)

    def _fan(self, fan: ErrorFan, states: Tensor, view: _View, points: list[int], number: int) -> dict[str, Any]:
        sample = self.fan_samples[number]
        about = {"sample": sample, "label": int(self.labels[sample])}
        if not bool(fan.converged[number]):
            return about | {
                "problem": "the numerical solution is not finite, or an exact continuation of it did not converge"
            }
        numerical = planar(states[:, number])
        with torch.no_grad():
            logits = self.exact.head(fan.ends[:, number])
        return about | {
            "problem": None,
            "numerical": {"times": rounded(view.grid.numpy()[points]), "states": rounded(numerical[points])},
            "starts": fan.starts,
            "curves": rounded(planar(fan.curves[:, :, number], fan.curves.shape[0]).swapaxes(0, 1)),
            "ends": rounded(planar(fan.ends[:, number])),
            "margins": rounded(_margins(logits, int(self.labels[sample])).cpu().numpy()),
            "global_error": rounded(planar(fan.global_error[number])[0]),
            "residual": float(fan.residual[number]),
            "error": float(fan.error[number]),
        }

    def _final(self, final: FinalStates) -> dict[str, Any]:
        labels = self.labels.numpy()
        plane = Plane.around_most(final.states[None])
        return {
            "accuracy": float((final.predictions == labels).mean()),
            "failures": int((final.predictions == NO_LABEL).sum()),
            "final": {
                "plane": plane.to_json(),
                "regions": _rows(regions_of_states(self.model, plane, self.size.grid), self.size.grid),
                "states": rounded(final.states),
                "predictions": final.predictions.tolist(),
            },
            "separation": self._separation(final),
        }

    def _separation(self, final: FinalStates) -> dict[str, Any] | None:
        labels = self.labels.numpy()
        finite = np.isfinite(final.states).all(axis=1)
        sets = [final.states[finite & (labels == label)] for label in (0, 1)]
        if self.model.head[1].out_features != 2 or not all(map(len, sets)):
            return None
        return separate(*sets).to_json()

    def _crossings(self, view: _View) -> dict[str, Any]:
        within = crossings_within_steps(view.trajectories.states)
        return {
            "count": len(within),
            "of_exact_points": self._crossings_of_exact_points(view.grid),
            "shown": _shown(within),
        }

    def _crossings_of_exact_points(self, grid: Tensor) -> int | None:
        """Return how many crossings straight lines make between exact states at the same times.

        None beyond a limit, and on a grid of unequal steps.
        """
        uniform = torch.allclose(grid.double().diff(), grid.double().diff().mean(), rtol=1e-6, atol=0)
        if len(grid) > LARGEST_EXACT_GRID or not uniform:
            return None
        flow = self._flow(self.drawn, len(grid))
        return len(crossings_within_steps(planar(flow.converged_curves, len(grid))))


def _chosen(labels: Tensor, count: int) -> list[int]:
    """Return the first samples of each class in turn, ``count`` in all or as many as there are."""
    by_class = [torch.nonzero(labels == label).flatten().tolist() for label in sorted(set(labels.tolist()))]
    rounds = max(map(len, by_class), default=0)
    turns = [samples[turn] for turn in range(rounds) for samples in by_class if turn < len(samples)]
    return turns[:count]


def _margins(logits: Tensor, label: int) -> Tensor:
    """Return by how much the right class's logit is above the largest other, ``(n,)``."""
    others = logits.clone()
    others[:, label] = -math.inf
    return logits[:, label] - others.amax(dim=1)


def _trajectories(drawn: Trajectories, stride: int) -> dict[str, Any]:
    points = _thinned(list(range(len(drawn.times))), stride)
    return {
        "plane": Plane.around_most(drawn.states).to_json(),
        "stride": stride,
        "times": rounded(drawn.times[points]),
        "states": rounded(drawn.states[points].swapaxes(0, 1)),
    }


def _thinned(points: list[int], stride: int) -> list[int]:
    """Return every ``stride``-th of the points and the last."""
    kept = points[:: max(1, stride)]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _shown(crossings: Crossings) -> list[dict[str, Any]]:
    """Return at most ``STORED_CROSSINGS``, spread over all steps."""
    count = min(len(crossings), STORED_CROSSINGS)
    chosen = [i * len(crossings) // count for i in range(count)]
    return [
        {
            "step": int(crossings.steps[i]),
            "samples": crossings.samples[i].tolist(),
            "at": rounded(crossings.points[i]),
        }
        for i in chosen
    ]


def _line(model: Classifier) -> dict[str, Any] | None:
    line = decision_line(model)
    return None if line is None else {"normal": list(line[0]), "offset": line[1]}


def _rows(values: IntArray, count: int) -> list[list[int]]:
    rows: list[list[int]] = values.reshape(count, count).tolist()
    return rows
