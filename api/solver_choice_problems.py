"""Problems of choosing a solver by what an audit found."""

from api.problems import Problem
from ode_core.audit.solver_choice import ChosenSolver
from store.models import ModelVersion


def not_audited(version: ModelVersion) -> Problem:
    """Return the problem of a version whose solvers no audit has compared."""
    model, number = version.model, version.version
    return Problem(
        409,
        "not_audited",
        f"no audit of version {number} of {model} has compared solvers yet: POST "
        f'{{"kind": "audit", "model": "{model}", "version": {number}}} to /v1/evaluation-jobs, and ask again when that '
        "job has succeeded",
    )


def no_solver_agrees(version: ModelVersion, chosen: ChosenSolver) -> Problem:
    """Return the problem of a version none of whose solvers agrees as well as it was asked to."""
    return Problem(409, "no_solver_agrees", f"version {version.version} of {version.model}: {chosen.reason}")
