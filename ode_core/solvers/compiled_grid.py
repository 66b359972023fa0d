"""Steps of a fixed grid as one compiled graph: for fields that keep no tape, such as convolutions over images.

There the compiler joins convolutions with what follows them and chooses the layout of the images.
"""

from types import FunctionType

import torch
from torch import Tensor

from ode_core.solvers.compilation import KindOfStep, kind_of_step
from ode_core.solvers.functional_field import as_functional
from ode_core.solvers.solution import Field
from ode_core.solvers.step_polynomial import combine
from ode_core.solvers.tableaus import ButcherTableau


class CompilableSteps:
    """The steps of one solve on a uniform grid, if they are to be compiled.

    Attributes:
        kind: the kind of step they are, shared with other solves and grids.
        compiled: how many steps were made with the graph.
    """

    def __init__(self, tensors: tuple[Tensor, ...], kind: KindOfStep, h: float, like: Tensor) -> None:
        self.kind, self.compiled = kind, 0
        self._tensors, self._h = tensors, torch.tensor(h, dtype=like.dtype, device=like.device)

    def step(self, z: Tensor, stage_times: tuple[Tensor, ...]) -> Tensor:
        """Return the state after a step."""
        z_new: Tensor = self.kind.compiled(self._tensors, z, self._h, stage_times)
        self.compiled += self.kind.graph is not None
        return z_new


def compilable_steps(field: Field, z0: Tensor, tableau: ButcherTableau, h: float) -> CompilableSteps | None:
    """Return the steps of a solve for compilation, or None where the field is not known to be a function."""
    functional = as_functional(field)
    if functional is None or functional.before_evaluation is not None:
        return None
    # A last stage that is the first of the next step is left out: on a grid the next step evaluates it.
    used = tableau.a[:-1] if tableau.first_same_as_last else tableau.a
    rows, b = [[float(w) for w in row] for row in used], [float(w) for w in tableau.b[: len(used)]]
    evaluate = functional.function

    def build() -> FunctionType:
        def step(tensors: tuple[Tensor, ...], z: Tensor, h: Tensor, times: tuple[Tensor, ...]) -> Tensor:
            slopes: list[Tensor] = []
            for t, row in zip(times, rows, strict=True):
                stage = z + h * combine(slopes, row) if any(row) else z
                slopes.append(evaluate(tensors, t, stage))
            return z + h * combine(slopes, b)

        assert isinstance(step, FunctionType)
        return step

    key = ("grid step", functional.key, tuple(map(tuple, rows)), tuple(b), z0.dtype, z0.device, z0.shape, z0.stride())
    return CompilableSteps(functional.tensors, kind_of_step(key, build), h, z0)
