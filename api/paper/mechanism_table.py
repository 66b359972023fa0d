"""Crossing or accumulation: what audits with a mechanism found, for each training configuration and each seed."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from api.paper.audit_table import VERDICTS
from api.paper.findings import Findings, JobFindings
from api.paper.seed_statistics import percent, spread
from api.paper.table import NOT_MEASURED, Table
from ode_core.specs.modified_field import ModifiedFieldSpec

_COLUMNS = (
    "accuracy -> converged, %",
    "predictions that change, %",
    "flagged steps, %",
    "crossing",
    "accumulation",
    "turned by, of the time",
    "modified field, converged, %",
    "verdict",
)
_NOTES = (
    "Flagged are steps that no flow can make. Crossing and accumulation: predictions that change when the flagged, or "
    "all other, steps are replaced by the exact flow, over those that a converged solver changes.",
    "Turned by: when half of the predictions that change have been moved across the boundary for good.",
    "A modified field is tried only where those before it are not offered; a seed without one is none that failed.",
    "Accuracies before and after the arrow are of all audited samples; mechanism and modified fields are of the first "
    "ones, at most 200.",
)


def mechanism_tables(findings: Findings) -> list[Table]:
    """Return a row for each training configuration, over its seeds, and then a row for each seed."""
    audits = [job for job in findings.jobs if job.job["kind"] == "audit"]
    by_label: dict[str, list[JobFindings]] = {}
    for one in audits:
        by_label.setdefault(one.label, []).append(one)
    summary = tuple((label, str(len(jobs)), *_cells([job.result for job in jobs])) for label, jobs in by_label.items())
    seeds = tuple((one.label, str(one.seed), *_cells([one.result])) for one in audits)
    return [
        Table("Crossing or accumulation", ("trained with", "seeds", *_COLUMNS), summary, _NOTES),
        Table("Crossing or accumulation, by seed", ("trained with", "seed", *_COLUMNS), seeds),
    ]


def _cells(results: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    accuracies = (percent(result[name] for result in results) for name in ("train_accuracy", "reference_accuracy"))
    found = [result["mechanism"] for result in results]
    shares = [None if one is None else one["split"]["by_flips"] for one in found]
    return (
        " -> ".join(accuracies),
        percent(result["flip_rate"] for result in results),
        percent(None if one is None else one["crossing"]["flagged_share"] for one in found),
        *(
            spread((None if one is None else one[name] for one in shares), digits=2)
            for name in ("crossing", "accumulation")
        ),
        spread(map(_turning_time, found), digits=2),
        _rescues(results),
        _verdicts(results),
    )


def _turning_time(mechanism: dict[str, Any] | None) -> float | None:
    """Return when half of the changed predictions are turned, as a share of the time; None where none is."""
    if mechanism is None or mechanism["when"]["turned"] is None:
        return None
    return float(mechanism["when"]["turned"]["median"] / mechanism["when"]["end_time"])


def _rescues(results: Sequence[dict[str, Any]]) -> str:
    """Return the accuracies of each kind of modified field that was tried, with the number of seeds."""
    by_kind: dict[str, list[float]] = {}
    for result in results:
        for trial in (result["repair"] or {"tried": []})["tried"]:
            spec = ModifiedFieldSpec.model_validate(trial["spec"])
            by_kind.setdefault(f"{spec.kind}-{spec.used_terms}", []).append(trial["accuracy"])
    seeds = len(results)
    return (
        ", ".join(
            f"{kind} {percent(accuracies)}" + (f" (of {len(accuracies)})" if len(accuracies) < seeds else "")
            for kind, accuracies in by_kind.items()
        )
        or NOT_MEASURED
    )


def _verdicts(results: Sequence[dict[str, Any]]) -> str:
    counts = Counter(VERDICTS[result["verdict"]] for result in results)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{verdict} ({count})" for verdict, count in counts.most_common())
