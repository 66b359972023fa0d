"""Budgets exceeded, as problems."""

from collections.abc import Iterator
from contextlib import contextmanager

from api.problems import Problem, invalid
from ode_core.specs import BudgetExceeded


@contextmanager
def within_budget(path: str = "") -> Iterator[None]:
    """Turn what budget checks raise into problems; ``path`` names the part of the request checked."""
    try:
        yield
    except BudgetExceeded as error:
        errors = [{"path": path, "message": str(error)}] if path else []
        raise Problem(422, "budget_exceeded", str(error), errors=errors) from error
    except ValueError as error:  # a step_size that makes too many steps
        raise invalid(path, str(error)) from error
