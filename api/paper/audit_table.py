"""Verdicts of audits."""

from api.paper.findings import Findings
from api.paper.table import Table

VERDICTS = {
    "ode": "an ODE",
    "discrete": "not an ODE",
    "inconclusive": "undecided",
    "unresolved": "no converged reference",
}


def audit_table(findings: Findings) -> Table:
    """Return a row for each audited model."""
    audits = [job for job in findings.jobs if job.job["kind"] == "audit"]
    rows = []
    for audit in audits:
        result = audit.result
        low, high = result["flip_interval"]
        rows.append(
            (
                audit.label,
                str(audit.seed),
                f"{100 * result['train_accuracy']:.1f}",
                f"{100 * result['reference_accuracy']:.1f}",
                f"{100 * result['flip_rate']:.2f} ({100 * low:.2f} to {100 * high:.2f})",
                VERDICTS[result["verdict"]],
            )
        )
    return Table(
        "Audits",
        ("trained with", "seed", "accuracy, %", "accuracy, converged, %", "predictions that change, %", "verdict"),
        tuple(rows),
        ("The interval is that of 95 % confidence. An ODE is a model for which it ends below epsilon.",),
    )
