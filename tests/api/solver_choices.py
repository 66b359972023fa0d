"""Audits that compared solvers, as a worker stores them."""

from typing import Any

from ode_core.audit.solver_choice import Candidate, SolverChoice, Timing
from ode_core.audit.statistics import clopper_pearson
from ode_core.audit.verdict import Verdict
from ode_core.specs import SolverSpec
from store.models import ModelVersion
from store.unit_of_work import Store

SAMPLES = 1000


def candidate(solver: SolverSpec, nfe: float, seconds: float | None, agreeing: int) -> Candidate:
    """A solver that agrees on so many of the 1,000 samples."""
    return Candidate(solver, nfe, seconds, 0.9, agreeing, clopper_pearson(agreeing, SAMPLES), 0)


CANDIDATES = (
    candidate(SolverSpec(method="euler", steps=2), 2, 1e-5, 970),
    candidate(SolverSpec(method="midpoint", steps=2), 4, 2e-5, 950),
    candidate(SolverSpec(method="rk4", steps=2), 8, 3e-5, 995),
    candidate(SolverSpec(method="rk4", steps=3), 12, 4e-5, 999),
    candidate(SolverSpec(method="dopri5", rtol=0.01, atol=0.01), 14.5, 2e-4, 1000),
    candidate(SolverSpec(method="midpoint", steps=10), 20, 3.5e-5, 999),
    candidate(SolverSpec(method="rk4", steps=64), 256, None, 1000),
)


def choice(verdict: Verdict = "ode") -> dict[str, Any]:
    """What an audit of a model trained with two steps of Euler found."""
    trained = SolverSpec(method="euler", steps=2)
    return SolverChoice(verdict, trained, SAMPLES, Timing(64, 3, "cpu"), CANDIDATES).to_json()


def store_choice(store: Store, version: ModelVersion, verdict: Verdict = "ode") -> str:
    """End an audit of a version; return its id."""
    found = choice(verdict)
    with store.transaction() as tx:
        job = tx.jobs.submit("audit", {}, model=version.model, model_version=version.version)
        claimed = tx.jobs.claim(job.id, "a test", 60)
        assert claimed is not None
        tx.solver_choices.replace_for_version(version.id, job.id, claimed.attempt, found)
        tx.jobs.succeed(job.id, claimed.attempt, {"solver_choice": found})
    return job.id
