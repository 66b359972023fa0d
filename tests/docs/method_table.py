"""The tables of docs/solvers.md that are made of the code's own facts.

python -m tests.docs.method_table    # write them into the guide
"""

import re

from ode_core.solvers.status import SolveStatus
from ode_core.specs import METHODS, MethodFacts
from tests.deployment.image import ROOT

GUIDE = ROOT / "docs" / "solvers.md"

METHOD_HEADER = "| method | order | evaluations a step | stable up to | backend | |\n|---|---|---|---|---|---|\n"
STATUS_HEADER = "| status | what happened | what to do |\n|---|---|---|\n"

WHAT_HAPPENED = {
    "max_steps_reached": "an adaptive solver took `max_steps` steps and was not there",
    "step_underflow": "steps became so short that `t` no longer moved",
    "non_finite": "the state or the field became infinite or NaN",
    "budget_exceeded": "the next step would have passed the bound on evaluations",
    "newton_diverged": "an implicit step's equations were not solved",
}


def method_table() -> str:
    """Return a row for each method."""
    return METHOD_HEADER + "".join(_row(name, facts) for name, facts in METHODS.items())


def _row(name: str, facts: MethodFacts) -> str:
    order = f"{facts.order}, with {facts.embedded_order} embedded" if facts.adaptive else str(facts.order)
    stable = "always" if facts.stability_limit is None else f"{facts.stability_limit:g}"
    cells = [f"`{name}`", order, _evaluations(facts), stable, ", ".join(facts.backends), facts.description]
    return f"| {' | '.join(cells)} |\n"


def _evaluations(facts: MethodFacts) -> str:
    """Return the evaluations of one of many steps."""
    many = facts.evaluations(1001) - facts.evaluations(1000)
    return f"about {many}" if facts.family == "implicit" else str(many)


def status_table() -> str:
    """Return a row for each way to fail."""
    rows = [
        f"| `{status.text}` | {WHAT_HAPPENED[status.text]} | {status.remedy} |\n"
        for status in SolveStatus
        if status != SolveStatus.SUCCESS
    ]
    return STATUS_HEADER + "".join(rows)


def with_tables(guide: str) -> str:
    """Return the guide with both tables as they should be."""
    for header, table in ((METHOD_HEADER, method_table()), (STATUS_HEADER, status_table())):
        guide = re.sub(re.escape(header) + r"(?:\|.*\n)*", lambda _, table=table: table, guide)
    return guide


if __name__ == "__main__":
    GUIDE.write_text(with_tables(GUIDE.read_text()))
