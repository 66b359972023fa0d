"""docs/studies.md against the code: its requests are accepted, its answers have the fields there are."""

import json
import re
from pathlib import Path
from typing import Any

from api.schemas.studies import StudyResultRow
from ode_core.specs import StudySpec

GUIDE = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()


def examples() -> list[dict[str, Any]]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)]


def test_the_guide_has_a_grid_an_answer_and_a_search() -> None:
    grid, row, search = examples()

    study = StudySpec.model_validate(grid)
    found = StudySpec.model_validate(search | {"base": grid["base"]}).search
    assert [job.label for job in study.jobs()][-1] == "euler-128"
    assert len(study.jobs()[0].solvers) == 30
    assert found is not None
    assert len(found.candidates) == 10
    assert set(row) == set(StudyResultRow.model_fields)
