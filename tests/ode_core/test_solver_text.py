"""A solver that came as a text is refused with what to write in its place."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ode_core.specs import METHODS, SolverSpec
from ode_core.specs.solver_text import solver_meant
from ode_core.specs.spec import first_reason


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("rk4-16", {"method": "rk4", "steps": 16}),
        ("RK4 (8)", {"method": "rk4", "steps": 8}),
        ("rk4_38-4", {"method": "rk4_38", "steps": 4}),
        ("euler", {"method": "euler", "steps": 16}),
        ("dopri5", {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}),
        ("magic", {"method": "rk4", "steps": 16}),
    ],
)
def test_a_text_is_answered_with_the_object_it_means(text: str, meant: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        SolverSpec.model_validate(text)
    assert first_reason(refused.value) == f"a solver is an object, for example {json.dumps(meant)}"


@pytest.mark.parametrize("method", METHODS)
def test_every_label_of_a_grid_and_every_name_means_a_solver_that_there_is(method: str) -> None:
    assert SolverSpec.model_validate(solver_meant(SolverSpec(method=method, steps=3).label)).steps == 3
    assert SolverSpec.model_validate(solver_meant(method)).method == method


def test_a_label_in_the_place_of_a_method_is_answered_with_method_and_steps() -> None:
    with pytest.raises(ValidationError) as refused:
        SolverSpec.model_validate({"method": "rk4-16"})
    assert first_reason(refused.value) == "rk4-16 has the method rk4: name that, with steps 16"
    with pytest.raises(ValidationError, match="Input should be 'euler'"):
        SolverSpec.model_validate({"method": "rk5", "steps": 2})
