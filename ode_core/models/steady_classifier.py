"""A classifier for predictions: an input's answer has the same bits alone and in any batch, on a CPU and one thread.

Two things differ from the model as it was trained, both by round-off only. Its layers are steady ones, which compute
a row of whole blocks alike; see ``ode_core.fields.steady_layers``. And a batch is filled up to whole blocks, with
copies of its last input, so that nothing new is solved. Where torchdiffeq decides for a whole batch, each input is one.
"""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ode_core.fields.modified_field import ModifiedField
from ode_core.fields.steady_chain import SteadyField
from ode_core.fields.steady_layers import BLOCK, LANES, Contiguous, steady
from ode_core.fields.vector_fields import VectorField
from ode_core.models.classifier import Classifier, ClassifierOutput
from ode_core.solvers.output_times import OutputMode
from ode_core.solvers.solution import Solution
from ode_core.specs.solver import SolverSpec

_BY_SAMPLE = ("final", "status", "evaluations", "accepted", "rejected", "last_step")


class SteadyClassifier:
    """Runs a classifier on batches of whole blocks; its weights are not to change.

    Args:
        model: without gradients; its layers are copied where they have to be others.

    Attributes:
        model: the classifier that is run.
    """

    def __init__(self, model: Classifier) -> None:
        self.model = copy.copy(model)
        parts: dict[str, nn.Module | None] = {
            "stem": None if model.stem is None else nn.Sequential(steady(model.stem), Contiguous()),
            "field": _steady_field(model.field, model.state_shape),
            "head": steady(model.head),
        }
        self.model._modules = parts
        self.model.compilation = "never"

    @property
    def nbytes(self) -> int:
        """What the weights take, with their copies."""
        own = itertools.chain(self.model.parameters(), self.model.buffers())
        copies = (part.copied_bytes for part in self.model.modules() if isinstance(part, SteadyField))
        return sum(tensor.nbytes for tensor in own) + sum(copies)

    def run(
        self,
        inputs: Tensor,
        solver: SolverSpec,
        *,
        times: Tensor | None = None,
        outputs: OutputMode = "land",
        max_evaluations: int | None = None,
    ) -> ClassifierOutput:
        """Return logits and solution for ``inputs``; see ``Classifier.run``."""

        def run(part: Tensor) -> ClassifierOutput:
            return self._run(part, solver, times=times, outputs=outputs, max_evaluations=max_evaluations)

        if len(inputs) > 1 and solved_one_by_one(solver):
            return _joined([run(one) for one in torch.split(inputs, 1)])
        return run(inputs)

    def _run(self, inputs: Tensor, solver: SolverSpec, **options: Any) -> ClassifierOutput:
        rows = len(inputs)
        walked = options["times"] is None and self._walks(solver)
        if not walked and (missing := self.rows_computed(rows) - rows):
            inputs = torch.cat([inputs, inputs[-1:].expand(missing, *inputs.shape[1:])])
        output = self.model.run(inputs, solver, **options)
        if len(inputs) == rows:
            return output
        return ClassifierOutput(output.logits[:rows], _first(output.solution, rows))

    def _walks(self, solver: SolverSpec) -> bool:
        """Whether compiled code makes all steps of a solve: it fills its blocks by itself."""
        field = self.model.field
        uniform = not solver.adaptive and solver.grid != "truncate" and solver.runs_on == "odeness"
        return uniform and solver.facts.family == "explicit" and isinstance(field, SteadyField) and field.compiled

    def rows_computed(self, rows: int) -> int:
        """Return how many rows are computed for so many inputs."""
        field = self.model.field
        if isinstance(field, SteadyField) and field.in_blocks:
            # Whole blocks of rows for the products, and of numbers in all states together.
            block = max(BLOCK, LANES // math.gcd(LANES, math.prod(self.model.state_shape)))
        elif isinstance(field, SteadyField) and self.model.dtype == torch.float32 and field.arithmetic != "bfloat16":
            # A convolution needs no more rows. What is left of elementwise functions is to fall into a row of its own.
            numbers = field.numbers(self.model.state_shape)
            if min(numbers) >= LANES:
                return rows + any(rows * size % LANES for size in numbers)
            block = LANES
        else:
            block = LANES
        return -(-rows // block) * block


def _steady_field(field: nn.Module, state_shape: tuple[int, ...]) -> nn.Module:
    if isinstance(field, VectorField):
        return SteadyField(field, state_shape)
    if isinstance(field, ModifiedField):
        changed = copy.copy(field)
        trained = field._modules["field"]
        assert trained is not None
        changed._modules = {"field": _steady_field(trained, state_shape)}
        return changed
    return field


def solved_one_by_one(solver: SolverSpec) -> bool:
    """Whether each input is solved by itself.

    That is where torchdiffeq would decide for all together: about its steps, or when corrections have converged.
    """
    return solver.runs_on == "torchdiffeq" and (solver.adaptive or solver.method == "implicit_adams")


def _first(solution: Solution, rows: int) -> Solution:
    """Return the solution of the first samples."""
    trajectory = None if solution.trajectory is None else solution.trajectory[:, :rows]
    parts: dict[str, Any] = {name: getattr(solution, name)[:rows] for name in _BY_SAMPLE}
    return replace(solution, trajectory=trajectory, **parts)


def _joined(outputs: Sequence[ClassifierOutput]) -> ClassifierOutput:
    """Return the outputs of solves with one solver as that of one."""
    solutions = [output.solution for output in outputs]
    trajectories = [solution.trajectory for solution in solutions if solution.trajectory is not None]
    parts: dict[str, Any] = {name: torch.cat([getattr(one, name) for one in solutions]) for name in _BY_SAMPLE}
    solution = replace(solutions[0], trajectory=torch.cat(trajectories, dim=1) if trajectories else None, **parts)
    return ClassifierOutput(torch.cat([output.logits for output in outputs]), solution)
