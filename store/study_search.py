"""What the jobs of a study say about its critical step."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ode_core.specs import StudySpec, bracket, next_steps, violations
from store.jobs import Job
from store.study_jobs import failed_seeds, is_done


def outcomes(spec: StudySpec, jobs: Sequence[Job]) -> dict[int, bool]:
    """Return step count -> whether every seed passes, of jobs that have all ended."""
    return {steps: all(by_seed.values()) for steps, by_seed in _passes(_seeds(spec, jobs)).items()}


def search_findings(spec: StudySpec, jobs: Sequence[Job]) -> dict[str, Any]:
    """Return what a search has found so far, as JSON.

    Args:
        spec: a study with a search.
        jobs: the study's, in any state; a step count counts once all its seeds have ended.
    """
    search, seeds = spec.search, len(spec.seeds)
    assert search is not None
    measured = {steps: by_seed for steps, by_seed in _seeds(spec, jobs).items() if len(by_seed) == seeds}
    passes = _passes(measured)
    found = {steps: all(by_seed.values()) for steps, by_seed in passes.items()}
    runs = sum(len(job.spec["seeds"]) for job in jobs)
    finished = next_steps(search.candidates, found, confirm=search.confirm) is None
    contradictions = violations(passes)
    return {
        "finished": finished,
        "bracket": asdict(bracket(search.candidates, found)),
        "checked": [
            {
                "steps": steps,
                "passes": found[steps],
                "by_seed": {str(seed): measured[steps][seed] for seed in sorted(measured[steps])},
            }
            for steps in sorted(measured)
        ],
        "not_measured": [_not_measured(job) for job in jobs if job.finished and not is_done(job)],
        "monotone": not contradictions,
        "violations": [asdict(one) for one in contradictions],
        "runs": runs,
        "full_grid_runs": len(search.candidates) * seeds,
        "runs_saved": len(search.candidates) * seeds - runs if finished else None,
    }


def _passes(seeds: dict[int, dict[int, dict[str, Any]]]) -> dict[int, dict[int, bool]]:
    return {steps: {seed: facts["passes"] for seed, facts in by_seed.items()} for steps, by_seed in seeds.items()}


def _seeds(spec: StudySpec, jobs: Sequence[Job]) -> dict[int, dict[int, dict[str, Any]]]:
    """Return step count -> seed -> what was measured and whether it passes.

    A training that diverged was measured, and does not pass. One whose job failed for another reason says nothing.
    """
    search, classes = spec.search, spec.base.dataset.classes
    assert search is not None
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for job in jobs:
        if not is_done(job):
            continue
        by_seed = found.setdefault(job.spec["training"]["solver"]["steps"], {})
        for run in (job.result or {}).get("runs", []):
            measured = run["search"]
            passes = search.passes(**measured, classes=classes)
            by_seed[run["seed"]] = {"passes": passes, **measured, "reason": None}
        for failed in failed_seeds(job):
            nothing = dict.fromkeys(("train_accuracy", "test_accuracy", "flip_rate"))
            by_seed[failed["seed"]] = {"passes": False, **nothing, "reason": failed["reason"]}
    return found


def _not_measured(job: Job) -> dict[str, Any]:
    reason = "it was cancelled" if job.status == "cancelled" else (job.error or {}).get("message", "")
    return {"steps": job.spec["training"]["solver"]["steps"], "seeds": job.spec["seeds"], "reason": reason}
