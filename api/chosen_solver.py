"""The solver that an audit found cheapest, for whoever leaves the choice to it. Without torch."""

from dataclasses import replace

from api.inference.prediction_call import AutoSolver
from api.solver_choice_problems import no_solver_agrees, not_audited
from ode_core.audit.solver_choice import ChosenSolver, SolverChoice
from ode_core.specs import SolverSpec
from store.models import ModelVersion


def choose_solver(
    choice: SolverChoice | None, version: ModelVersion, own: SolverSpec, asked: AutoSolver
) -> tuple[SolverSpec, ChosenSolver]:
    """Return the cheapest solver that agrees well enough, and why that or, as the caller wants, ``own`` in its place.

    Args:
        choice: what the version's latest audit found; None before the first.
        version: the version.
        own: the solver it is predicted with where none is named.
        asked: what is asked of the solver.

    Raises:
        Problem: there is none, and the caller does not want ``own`` in its place.
    """
    if choice is not None:
        chosen = choice.cheapest(asked.agreement, asked.evidence, asked.by)
        if chosen.candidate is not None:
            return chosen.candidate.solver, chosen
        if asked.otherwise == "refuse":
            raise no_solver_agrees(version, chosen)
        return own, replace(chosen, reason=f"{chosen.reason} {_instead(version, own)}")
    if asked.otherwise == "refuse":
        raise not_audited(version)
    reason = f"No audit of the version has compared solvers. {_instead(version, own)}"
    return own, ChosenSolver(asked.agreement, asked.evidence, asked.by, None, None, reason)


def _instead(version: ModelVersion, own: SolverSpec) -> str:
    whose = "the solver of the training" if version.modified_field is None else "the one the repair is served with"
    return f"Taken is {own.label}, {whose}, as `otherwise` asks."
