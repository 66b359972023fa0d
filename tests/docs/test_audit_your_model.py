"""docs/audit-your-model.md against the code: its model is trained and its lines audit it."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ode_core.audit import audit_field
from ode_core.specs import SolverSpec
from tests.ode_core.audit.foreign_models import spheres

GUIDE = (Path(__file__).parents[2] / "docs" / "audit-your-model.md").read_text()
MODEL, AUDIT = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def test_under_ten_lines_audit_a_torchdiffeq_model(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(MODEL, names)
    torch.manual_seed(0)
    model = names["Model"]()
    inputs, labels = spheres(256, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    names |= {"model": model, "loader": DataLoader(TensorDataset(*spheres(300, seed=1)), batch_size=64)}

    exec(AUDIT, names)

    assert len(AUDIT.strip().splitlines()) < 10
    assert names["report"].verdict == "discrete"
    printed = capsys.readouterr().out
    assert printed.startswith("This model is not an ODE: its predictions depend on the solver")
    assert "What to do:\n  1. Predict with euler-2 alone." in printed


def test_the_arguments_in_the_table_are_the_functions() -> None:
    rows = re.findall(r"^\| (`.*?) \| ", GUIDE.partition("## The solver")[0], re.MULTILINE)
    named = re.findall(r"`(\w+)`", " ".join(rows))

    assert set(named) <= set(inspect.signature(audit_field).parameters)
    assert inspect.signature(audit_field).parameters["samples"].default == 1000


def test_the_solvers_in_the_table_are_solvers() -> None:
    for method in ("midpoint", "heun", "heun3", "rk4_38", "rk4"):
        assert f"`{method}`" in GUIDE
        SolverSpec(method=method, steps=2)  # type: ignore[arg-type]
    SolverSpec(method="euler", step_size=0.3, grid="truncate")
    SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3, backend="torchdiffeq")
