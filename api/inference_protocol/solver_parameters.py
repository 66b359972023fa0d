"""The solver of an infer request, which travels in its ``parameters``."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from api.inference.prediction_call import AutoSolver
from api.inference.prediction_request import AUTO_ALONE, auto_solver
from api.problems import invalid
from ode_core.specs import SolverSpec
from ode_core.specs.spec import reasons

_WHOLE = ("steps", "max_steps", "max_order")
_REAL = ("step_size", "rtol", "atol")
_TEXTS = ("controller", "grid", "backend")
SOLVER_PARAMETERS = ("solver", *_WHOLE, *_REAL, *_TEXTS, *AUTO_ALONE)


def asked_solver(given: Mapping[str, Any]) -> SolverSpec | AutoSolver | None:
    """Return the solver asked for, None for the version's own.

    ``solver`` is a method, with ``steps``, ``step_size``, or ``rtol`` and ``atol``; or ``auto``.
    Numbers may come as texts, because some clients have only these.

    Args:
        given: some of ``SOLVER_PARAMETERS``.

    Raises:
        Problem: they make no solver.
    """
    settings = dict(given)
    method = settings.pop("solver", None)
    choice = {name: settings.pop(name) for name in AUTO_ALONE if name in settings}
    if method is not None and not isinstance(method, str):
        raise invalid("parameters.solver", "must be the name of a method, for example dopri5, or auto")
    if method == "auto" or (method is None and choice):
        if settings:
            raise invalid(f"parameters.{min(settings)}", "is for a solver that is named: leave it out, or name it")
        if "agreement" in choice:
            choice["agreement"] = real_number(choice["agreement"], "parameters.agreement")
        return auto_solver(choice, "parameters.")
    if choice:
        raise invalid(f"parameters.{min(choice)}", "is for the solver auto: leave it out, or let the solver be chosen")
    if method is None:
        if settings:
            raise invalid(f"parameters.{min(settings)}", "belongs to a solver: name it in solver, too")
        return None
    read = {name: value if name in _TEXTS else _number(name, value) for name, value in settings.items()}
    try:
        return SolverSpec.model_validate({"method": method, **read})
    except ValidationError as error:
        raise invalid("parameters", reasons(error)) from error


def _number(name: str, value: Any) -> int | float:
    path = f"parameters.{name}"
    number = real_number(value, path)
    if name not in _WHOLE:
        return number
    if not number.is_integer():
        raise invalid(path, "must be an integer")
    return int(number)


def real_number(value: Any, path: str) -> float:
    """Return a finite number that came as one or as its text.

    Raises:
        Problem: it is neither.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        if isinstance(value, str) and "_" in value:  # which Python alone takes, for a number in its source
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise invalid(path, "must be a number, or a text that is one") from None
    if not math.isfinite(number):
        raise invalid(path, "must be finite")
    return number
