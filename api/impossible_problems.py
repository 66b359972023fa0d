"""What a job asks in vain of its model, as problems."""

from collections.abc import Iterator
from contextlib import contextmanager

from api.problems import Problem
from ode_core.specs import Impossible


@contextmanager
def possible() -> Iterator[None]:
    """Turn what a model cannot do into a problem that names the part of the spec."""
    try:
        yield
    except Impossible as error:
        errors = [{"path": error.part, "message": str(error)}]
        raise Problem(422, error.code, str(error), errors=errors) from error
