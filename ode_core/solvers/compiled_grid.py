"""Steps of a fixed grid as one compiled graph: for fields that keep no tape, such as convolutions over images.

There the compiler joins convolutions with what follows them and chooses the layout of the images.
"""

from types import FunctionType

import torch
from torch import Tensor

from ode_core.solvers.compilation import KindOfStep, kind_of_step
from ode_core.solvers.functional_field import FunctionalField, as_functional
from ode_core.solvers.solution import Field, is_plain
from ode_core.solvers.step_polynomial import combine
from ode_core.solvers.tableaus import ButcherTableau


class CompilableSteps:
    """The steps of one solve on a uniform grid, if they are to be compiled.

    Attributes:
        kind: the kind of step they are, shared with other solves and grids.
        compiled: how many steps were made with the graph.
    """

    def __init__(self, functional: FunctionalField, kind: KindOfStep, tableau: ButcherTableau, h: Tensor) -> None:
        self.kind, self.compiled = kind, 0
        self._functional, self._tableau, self._h = functional, tableau, h

    def step(self, z: Tensor, stage_times: tuple[Tensor, ...]) -> Tensor | None:
        """Return the state after a step, or None where the graph failed."""
        z_new: Tensor | None = self.kind.compiled(self._build, self._functional.tensors, z, self._h, stage_times)
        self.compiled += z_new is not None
        return z_new

    def _build(self) -> FunctionType:
        used = self._tableau.grid_rows
        rows, b = [[float(w) for w in row] for row in used], [float(w) for w in self._tableau.b[: len(used)]]
        evaluate = self._functional.function

        def step(tensors: tuple[Tensor, ...], z: Tensor, h: Tensor, times: tuple[Tensor, ...]) -> Tensor:
            slopes: list[Tensor] = []
            for t, row in zip(times, rows, strict=True):
                stage = z + h * combine(slopes, row) if any(row) else z
                slopes.append(evaluate(tensors, t, stage))
            return z + h * combine(slopes, b)

        assert isinstance(step, FunctionType)
        return step


def compilable_steps(field: Field, z0: Tensor, tableau: ButcherTableau, h: float) -> CompilableSteps | None:
    """Return the steps of a solve for compilation, or None where the field is not known to be a function."""
    functional = as_functional(field)
    if functional is None or functional.before_evaluation is not None:
        return None
    if not all(is_plain(tensor) for tensor in functional.tensors):
        return None
    key = ("grid step", functional.key, tableau.a, tableau.b, z0.dtype, z0.device, z0.shape, z0.stride())
    scaled = torch.tensor(h, dtype=z0.dtype, device=z0.device)
    return CompilableSteps(functional, kind_of_step(key, functional.owner), tableau, scaled)
