"""docs/figures.md against the code: its charts, its requests and its fields."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from api.charts.catalogue import CHARTS
from ode_core.audit.portrait import PortraitSize, portrait
from ode_core.specs import PortraitJobSpec, SolverSpec
from tests.ode_core.audit.linear_models import circle, rotation

GUIDE = Path(__file__).parents[2] / "docs" / "figures.md"
TEXT = GUIDE.read_text()


def rows(heading: str) -> list[str]:
    """Return the first cells of the table below the row that begins with ``heading``."""
    table = TEXT.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^\| (.+?) \|", table, flags=re.MULTILINE)


def names_in(cells: list[str]) -> set[str]:
    return {name for cell in cells for name in re.findall(r"`([a-z_-]+)`", cell)}


def test_every_chart_is_described() -> None:
    assert names_in(rows("chart")) == {chart.name for chart in CHARTS}


@pytest.mark.parametrize("request_body", re.findall(r"^```json\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL))
def test_a_request_in_the_guide_is_taken(request_body: str) -> None:
    PortraitJobSpec.model_validate(json.loads(request_body))


def test_the_result_has_the_fields_of_the_guide() -> None:
    euler = SolverSpec(method="euler", steps=2)
    seen: dict[str, Any] = portrait(
        rotation(1.0),
        circle(6),
        torch.tensor([0, 1] * 3),
        euler,
        euler.with_steps(4),
        autonomous=True,
        size=PortraitSize(samples=2, fan_samples=1, grid=5),
    )

    assert names_in(rows("field")) == {"model", "version", "train_solver"} | set(seen)
    assert names_in(rows("field of a view")) == set(seen["views"][0])
    fans = next(line for line in TEXT.splitlines() if line.startswith("| `fans` |"))
    assert set(re.findall(r"`([a-z_]+)`", fans)) - {"fans", "null"} == set(seen["views"][0]["fans"][0]) - {
        "sample",
        "label",
    }


def test_its_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"\]\((images/[^)]+)\)", TEXT)

    assert len(pictures) >= 6
    for picture in pictures:
        assert (GUIDE.parent / picture).stat().st_size < 200_000
