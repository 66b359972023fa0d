"""The configurations of one method from coarse to fine, between a coarsest and a finest one."""

import math
from typing import Protocol

from ode_core.specs.adaptation import CertifiedAdaptation
from ode_core.specs.solver import SolverSpec

ROUNDING_ERRORS = 50  # below this many an error estimate is noise
_NO_CHANGE = 1e-9  # a tolerance that is this close to its bound has reached it


class SolverLadder(Protocol):
    """Finds the next solver in either direction; None at the ladder's end."""

    def finer(self, solver: SolverSpec) -> SolverSpec | None:
        """Return the next finer solver, at half the step or tolerance."""

    def coarser(self, solver: SolverSpec) -> SolverSpec | None:
        """Return the next coarser solver, by the factor ``growth``."""


class StepLadder:
    """Grids of ``min_steps`` to ``max_steps`` steps, each a whole number."""

    def __init__(self, spec: CertifiedAdaptation, end_time: float) -> None:
        self._spec, self._end_time = spec, end_time

    def finer(self, solver: SolverSpec) -> SolverSpec | None:
        """Return the grid of twice the steps."""
        steps = solver.fixed_steps(0.0, self._end_time)
        more = min(2 * steps, self._spec.max_steps)
        return solver.with_steps(more) if more > steps else None

    def coarser(self, solver: SolverSpec) -> SolverSpec | None:
        """Return the grid whose step is ``growth`` times as long, and fewer steps by one at least."""
        steps = solver.fixed_steps(0.0, self._end_time)
        fewer = max(math.floor(steps / self._spec.growth), self._spec.min_steps)
        return solver.with_steps(fewer) if fewer < steps else None


class ToleranceLadder:
    """Tolerances from 50 rounding errors up to ``max_tolerance``; rtol and atol keep their ratio."""

    def __init__(self, spec: CertifiedAdaptation, eps: float) -> None:
        self._spec, self._floor = spec, ROUNDING_ERRORS * eps

    def finer(self, solver: SolverSpec) -> SolverSpec | None:
        """Return the solver with half the tolerances."""
        assert solver.rtol is not None
        factor = max(0.5, self._floor / solver.rtol)
        return self._scaled(solver, factor) if factor < 1 - _NO_CHANGE else None

    def coarser(self, solver: SolverSpec) -> SolverSpec | None:
        """Return the solver with ``growth`` times the tolerances."""
        assert solver.rtol is not None
        assert solver.atol is not None
        factor = min(self._spec.growth, self._spec.max_tolerance / max(solver.rtol, solver.atol))
        return self._scaled(solver, factor) if factor > 1 + _NO_CHANGE else None

    def _scaled(self, solver: SolverSpec, factor: float) -> SolverSpec:
        assert solver.rtol is not None
        assert solver.atol is not None
        most = self._spec.max_tolerance
        return solver.model_copy(
            update={"rtol": min(solver.rtol * factor, most), "atol": min(solver.atol * factor, most)}
        )
