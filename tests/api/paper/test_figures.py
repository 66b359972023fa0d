"""The figures of a preset as they are fetched."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from api.client import Client, ProblemError
from api.paper.figures import fetch_figures
from api.paper.findings import Findings, StudyFindings
from api.paper.preset import find_preset
from api.paper.presets import PRESETS

PRESET = replace(PRESETS[0], name="one")
STUDY = StudyFindings(cast(Any, {"id": "s1", "name": "paper.one", "cells": []}), ())


class Drawing:
    """A client whose server draws accuracies by steps only."""

    def study_chart(self, study_id: str, name: str, *, format: str, **options: Any) -> bytes:
        if options != {"x": "steps"}:
            raise ProblemError(422, "nothing_to_draw", "nothing with evaluations")
        return f"{study_id} {name} {format}".encode()


def test_a_figure_that_is_refused_is_told_and_spoils_no_other(tmp_path: Path) -> None:
    fetched = fetch_figures(cast(Client, Drawing()), PRESET, Findings((STUDY,)), tmp_path)

    assert fetched.missing == ["accuracy-by-evaluations: nothing with evaluations"]
    assert sorted(path.name for path in fetched.files) == ["accuracy.html", "accuracy.png", "accuracy.svg"]
    assert (tmp_path / "accuracy.svg").read_bytes() == b"s1 accuracy svg"


@pytest.mark.parametrize("cells", [[], [{"label": "euler-2", "job_id": "j", "status": "failed"}]])
def test_where_no_training_left_a_model_their_comparison_is_missing_and_the_rest_is_there(
    tmp_path: Path, cells: list[dict[str, Any]]
) -> None:
    preset = replace(find_preset(PRESETS, "gradients"), accuracy_charts=True)
    study = StudyFindings(cast(Any, {"id": "s1", "name": "paper.gradients", "cells": cells}), ())

    fetched = fetch_figures(cast(Client, Drawing()), preset, Findings((study,)), tmp_path)

    assert "training: no training has left a model" in fetched.missing
    assert "accuracy.svg" in [path.name for path in fetched.files]


def test_figures_of_several_studies_are_told_apart(tmp_path: Path) -> None:
    other = StudyFindings(cast(Any, {"id": "s2", "name": "paper.two", "cells": []}), ())

    fetched = fetch_figures(cast(Client, Drawing()), PRESET, Findings((STUDY, other)), tmp_path)

    assert {path.name for path in fetched.files} >= {"one-accuracy.svg", "two-accuracy.svg"}
