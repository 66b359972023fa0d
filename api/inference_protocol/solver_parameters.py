"""The solver of an infer request, which travels in its ``parameters``."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from api.inference.prediction_call import AutoSolver
from api.problems import invalid
from ode_core.specs import SolverSpec
from ode_core.specs.spec import reasons

_WHOLE = ("steps", "max_steps")
_REAL = ("step_size", "rtol", "atol")
_SOLVER_PARAMETERS = ("solver", *_WHOLE, *_REAL, "agreement")

# What the protocol's clients and servers put there for themselves.
_IGNORED = frozenset({"content_type", "headers", "priority", "timeout"})


def asked_solver(parameters: Mapping[str, Any]) -> SolverSpec | AutoSolver | None:
    """Return the solver asked for, None for the version's own.

    ``solver`` is a method, with ``steps``, ``step_size``, or ``rtol`` and ``atol``; or ``auto``.
    Numbers may come as texts, because some clients have only these.

    Raises:
        Problem: a parameter is unknown, or they make no solver.
    """
    given = {name: value for name, value in parameters.items() if name not in _IGNORED and value is not None}
    if unknown := sorted(given.keys() - set(_SOLVER_PARAMETERS)):
        raise invalid(
            f"parameters.{unknown[0][:100]}", f"there is no such parameter: use {', '.join(_SOLVER_PARAMETERS)}"
        )
    method = given.pop("solver", None)
    agreement = given.pop("agreement", None)
    if method is not None and not isinstance(method, str):
        raise invalid("parameters.solver", "must be the name of a method, for example dopri5, or auto")
    if method == "auto" or (method is None and agreement is not None):
        if given:
            raise invalid(f"parameters.{min(given)}", "is for a solver that is named: leave it out, or name the solver")
        return AutoSolver() if agreement is None else AutoSolver(_agreement(agreement))
    if agreement is not None:
        raise invalid("parameters.agreement", "chooses the solver: leave it out, or ask for the solver auto")
    if method is None:
        if given:
            raise invalid(f"parameters.{min(given)}", "belongs to a solver: name it in solver, too")
        return None
    numbers = {name: _number(name, value) for name, value in given.items()}
    try:
        return SolverSpec.model_validate({"method": method, **numbers})
    except ValidationError as error:
        raise invalid("parameters", reasons(error)) from error


def _number(name: str, value: Any) -> int | float:
    path = f"parameters.{name}"
    number = _real(value, path)
    if name not in _WHOLE:
        return number
    if not number.is_integer():
        raise invalid(path, "must be an integer")
    return int(number)


def _real(value: Any, path: str) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise invalid(path, "must be a number, or a text that is one") from None
    if not math.isfinite(number):
        raise invalid(path, "must be finite")
    return number


def _agreement(value: Any) -> float:
    agreement = _real(value, "parameters.agreement")
    if not 0 < agreement <= 1:
        raise invalid("parameters.agreement", "must be greater than 0 and at most 1, for example 0.999")
    return agreement
