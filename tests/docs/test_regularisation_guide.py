"""docs/regularisation.md against the code: its example is accepted, and its table has every explicit method's cost."""

import json
import re
from pathlib import Path

from ode_core.specs import METHODS, Regularisation, SolverSpec
from ode_core.specs.regularisation import local_error_evaluations

GUIDE = (Path(__file__).parents[2] / "docs" / "regularisation.md").read_text()


def test_the_guides_example_is_accepted_and_has_the_defaults() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)
    given = Regularisation.model_validate(json.loads(example))
    assert given == Regularisation.model_validate({"step_jitter": {}, "local_error": {}})


def test_the_guide_names_the_methods_whose_estimate_takes_one_evaluation_a_solve() -> None:
    one = {
        name
        for name, facts in METHODS.items()
        if facts.family == "explicit" and local_error_evaluations(SolverSpec(method=name, steps=3), 3) == 1
    }
    (listed,) = re.findall(r"first of the next step \((.*?)\)", GUIDE)
    assert one == {"euler", *re.findall(r"`(\w+)`", listed)}
