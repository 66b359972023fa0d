"""How a solver appears in answers."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import WrapSerializer

from ode_core.specs import SolverSpec


def _without_nulls(solver: SolverSpec, serialize: Callable[[SolverSpec], dict[str, Any]]) -> Any:
    return {name: value for name, value in serialize(solver).items() if value is not None}


SolverAnswer = Annotated[SolverSpec, WrapSerializer(_without_nulls)]
"""A solver as users write it: without the settings that do not apply."""
