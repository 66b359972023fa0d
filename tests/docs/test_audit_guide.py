"""docs/audit.md against the code: its request is accepted, its numbers are those used."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from api.schemas.audit import audit_result_schema
from ode_core.audit.arnoldi import DIRECTIONS, MISS_PROBABILITY
from ode_core.audit.cause import SHARE
from ode_core.audit.diagnosis import MOST_SAMPLES
from ode_core.audit.interventions import FEWEST_SAMPLES
from ode_core.audit.reference import FIRST_TOLERANCE, LAST_TOLERANCE
from ode_core.audit.rescue import OFFERED_AGREEMENT, OFFERED_FROM
from ode_core.audit.serving_solvers import FEWEST_ROUNDS, TIMED_SAMPLES, TOLERANCES, WORTH_TRYING
from ode_core.audit.shown_agreement import samples_without_disagreement
from ode_core.audit.solver_choice import DEFAULT_AGREEMENT, DEFAULT_EVIDENCE
from ode_core.audit.statistics import clopper_pearson
from ode_core.audit.step_spectrum import DENSE_STATE, LARGEST_DENSE_STATE, affordable_jacobians
from ode_core.solvers.implicit_tableaus import IMPLICIT_TABLEAUS
from ode_core.solvers.step_map import step_map
from ode_core.specs import AuditJobSpec

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "audit.md").read_text()


def test_the_request_is_accepted_and_names_every_option() -> None:
    (example,) = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL))
    AuditJobSpec.model_validate(example)
    assert set(example) == set(AuditJobSpec.model_fields)


def test_every_field_of_a_result_is_named_in_the_guide_of_the_api() -> None:
    text = (DOCS / "http-api.md").read_text()
    words = set(re.findall(r"\w+", text[text.index("## Repair a version") : text.index("## Lists, errors")]))
    schema = audit_result_schema()
    parts = {"AuditResult": schema} | schema["$defs"]
    # Written down with the jobs that they are specs of.
    specs = {name for name in parts if name.endswith("Spec") or name == "UploadedFacts"}
    unnamed = {
        name: sorted(missing)
        for name, part in parts.items()
        if name not in specs and (missing := set(part.get("properties", {})) - words)
    }
    assert unnamed == {}


def test_the_numbers_are_those_of_the_code() -> None:
    words = " ".join(GUIDE.split())
    for said in (
        f"no more than {MOST_SAMPLES} samples",
        f"from a score of {OFFERED_FROM} or an agreement",
        f"trained predictions of {100 * OFFERED_AGREEMENT:.0f} %",
        f"at least {FEWEST_SAMPLES} samples are lost",
        f"up to {DENSE_STATE} numbers",
        f"up to {LARGEST_DENSE_STATE:,} numbers",
        f"about a minute: {affordable_jacobians(step_map(lambda t, z: z, 'euler'), 784)} with 784 numbers",
        f"after {DIRECTIONS} products",
        f"of a probability of {MISS_PROBABILITY:g}".replace("e-06", "e-6"),
        "from 1e-4 to at most 1e-9",
    ):
        assert said in words
    assert (FIRST_TOLERANCE, LAST_TOLERANCE, SHARE) == (1e-4, 1e-9, 0.5)


@pytest.mark.parametrize(("h", "logarithm", "six_terms"), [(1.0, "-1.02", "-1.00"), (2.0, "-2.29", "-1.91")])
def test_long_steps_of_kvaerno3_are_outside_of_the_range_of_the_iterates_by_as_much(
    h: float, logarithm: str, six_terms: str
) -> None:
    # One step of z' = -z multiplies by R, each of whose differences by R - 1.
    factor = kvaerno3_decay(h)
    sum_of_six = -sum((1 - factor) ** power / power for power in range(1, 7))
    assert (f"{math.log(factor):.2f}", f"{sum_of_six:.2f}") == (logarithm, six_terms)
    assert logarithm in GUIDE
    assert six_terms in GUIDE


def test_kvaerno3_changes_the_sign_from_so_long_a_step_on() -> None:
    assert kvaerno3_decay(2.7) > 0 > kvaerno3_decay(2.8)
    assert "from `h = 2.8` on" in GUIDE


def kvaerno3_decay(h: float) -> float:
    """What a step multiplies a solution of z' = -z with: the stability function of the method at -h."""
    tableau = IMPLICIT_TABLEAUS["kvaerno3"]
    matrix = np.zeros((4, 4))
    for i, row in enumerate(tableau.a):
        matrix[i, : len(row)] = [float(weight) for weight in row]
    weights = np.array([float(weight) for weight in tableau.b])
    return float(1 - h * weights @ np.linalg.solve(np.eye(4) + h * matrix, np.ones(4)))


def test_so_many_samples_without_a_flip_show_one_percent() -> None:
    assert "at least 368 samples" in GUIDE
    assert clopper_pearson(0, 368)[1] <= 0.01 < clopper_pearson(0, 367)[1]


def test_the_numbers_of_the_choice_of_a_solver_are_those_of_the_code() -> None:
    words = " ".join(GUIDE.split())
    assert f"more than {WORTH_TRYING:g} times the evaluations" in words
    assert f"a batch of {TIMED_SAMPLES} samples" in words
    assert f"at least {FEWEST_ROUNDS} rounds" in words
    assert f"`evidence={DEFAULT_EVIDENCE}`, `agreement={DEFAULT_AGREEMENT}`" in words
    assert f"show {100 * clopper_pearson(1000, 1000)[0]:.2f} %" in words
    assert f"takes {samples_without_disagreement(0.999):,}" in words
    assert "tolerances from 0.1 to 1e-4" in words
    assert (max(TOLERANCES), min(TOLERANCES)) == (0.1, 1e-4)
