"""docs/solvers.md against the code: its tables, its requests and its Python lines."""

import json
import re

import pytest

from ode_core.specs import METHODS, SolverSpec, TrainingJobSpec
from tests.docs.method_table import GUIDE, method_table, status_table, with_tables

TEXT = GUIDE.read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


def test_the_tables_are_those_of_the_code() -> None:
    assert method_table() in TEXT, "run python -m tests.docs.method_table"
    assert status_table() in TEXT, "run python -m tests.docs.method_table"


def test_writing_the_tables_mends_them_and_leaves_the_rest() -> None:
    broken = TEXT.replace("| `euler` |", "| `oiler` |")

    assert broken != TEXT
    assert with_tables(broken) == TEXT


@pytest.mark.parametrize("request_body", _blocks("json"))
def test_a_request_in_the_guide_is_taken(request_body: str) -> None:
    content = json.loads(request_body)

    (SolverSpec if "method" in content else TrainingJobSpec).model_validate(content)


def test_the_python_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in _blocks("python"):
        exec(block, names)

    assert "tensor([False, False])" in capsys.readouterr().out


def test_the_methods_that_it_recommends_exist() -> None:
    _, _, section = TEXT.partition("## In short\n")
    named = re.findall(r"`([a-z0-9_]+)`", section.partition("\n##")[0])

    assert set(named) - {"rtol", "atol", "steps"} <= set(METHODS)
