"""How the jobs of a study ended."""

from typing import Any

from store.jobs import Job


def is_done(job: Job) -> bool:
    """Whether nothing is gained by running the study's job again: it succeeded, or its every training diverged."""
    return job.status == "succeeded" or (job.error or {}).get("code") == "training_diverged"


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
