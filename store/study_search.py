"""What the jobs of a study say about its critical step."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ode_core.specs import CriticalStepSearch, TrainingJobSpec, bracket, next_steps, violations
from store.jobs import Job


def outcomes(search: CriticalStepSearch, jobs: Sequence[Job]) -> dict[int, bool]:
    """Return step count -> whether every seed passes, of jobs that have all ended."""
    return {steps: all(by_seed.values()) for steps, by_seed in _passes(_seeds(search, jobs)).items()}


def search_findings(search: CriticalStepSearch, seeds: int, jobs: Sequence[Job]) -> dict[str, Any]:
    """Return what a search has found so far, as JSON.

    Args:
        search: the study's.
        seeds: how many seeds each step count is trained with.
        jobs: the study's, in any state; a step count counts once all its seeds have ended.
    """
    measured = {steps: by_seed for steps, by_seed in _seeds(search, jobs).items() if len(by_seed) == seeds}
    passes = _passes(measured)
    found = {steps: all(by_seed.values()) for steps, by_seed in passes.items()}
    runs = sum(len(job.spec["seeds"]) for job in jobs)
    contradictions = violations(passes)
    return {
        "finished": next_steps(search.candidates, found, confirm=search.confirm) is None,
        "bracket": asdict(bracket(search.candidates, found)),
        "checked": [
            {
                "steps": steps,
                "passes": found[steps],
                "by_seed": {str(seed): measured[steps][seed] for seed in sorted(measured[steps])},
            }
            for steps in sorted(measured)
        ],
        "monotone": not contradictions,
        "violations": [asdict(one) for one in contradictions],
        "runs": runs,
        "full_grid_runs": len(search.candidates) * seeds,
        "runs_saved": len(search.candidates) * seeds - runs,
    }


def failed_seeds(job: Job) -> list[dict[str, Any]]:
    """Return ``{"seed", "reason"}`` for each seed of a study's job that left no model, once the job has ended."""
    if job.status == "succeeded":
        return list((job.result or {}).get("failed_seeds", []))
    if job.status != "failed":
        return []
    error = job.error or {}
    given = error.get("failed_seeds")
    if given is not None:
        return list(given)
    return [{"seed": seed, "reason": error.get("message", "")} for seed in job.spec["seeds"]]


def _passes(seeds: dict[int, dict[int, dict[str, Any]]]) -> dict[int, dict[int, bool]]:
    return {steps: {seed: facts["passes"] for seed, facts in by_seed.items()} for steps, by_seed in seeds.items()}


def _seeds(search: CriticalStepSearch, jobs: Sequence[Job]) -> dict[int, dict[int, dict[str, Any]]]:
    """Return step count -> seed -> what was measured and whether it passes."""
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for job in jobs:
        training = TrainingJobSpec.model_validate(job.spec["training"])
        assert training.solver.steps is not None
        by_seed = found.setdefault(training.solver.steps, {})
        for run in (job.result or {}).get("runs", []):
            measured = run["search"]
            passes = search.passes(**measured, classes=training.dataset.classes)
            by_seed[run["seed"]] = {"passes": passes, **measured, "reason": None}
        for failed in failed_seeds(job):
            nothing = dict.fromkeys(("train_accuracy", "test_accuracy", "flip_rate"))
            by_seed[failed["seed"]] = {"passes": False, **nothing, "reason": failed["reason"]}
    return found
