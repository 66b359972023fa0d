"""The benchmarks run, on tiny sizes and without the peers; their numbers are of no interest here."""

import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from scipy.integrate import solve_ivp

from benchmarks import adaptive_loop, image_field, sphere2_iteration, sweep_time
from benchmarks.floors import MachineRates, field_cost, measure_rates
from benchmarks.image_field import ImageSolve
from benchmarks.sweep_time import SweptModel
from benchmarks.tables import Table, verdict
from benchmarks.van_der_pol import VanDerPol
from ode_core.models.classifier import build_classifier
from ode_core.specs import PRESETS, ClassifierSpec, ConcentricSpheresSpec, Conv2dField

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
RATES = MachineRates(multiply_adds=1e9, bytes=1e9)
FEW = VanDerPol(problems=3, outputs=5)


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes the time of all other tests here together."""
    eager = {name: (outputs, "never") for name, (outputs, _) in adaptive_loop.OURS.items()}
    monkeypatch.setattr(adaptive_loop, "OURS", eager)


def _require_whole(table: Table) -> None:
    assert table.rows
    assert all(len(row) == len(table.header) for row in table.rows)
    assert table.markdown().startswith("## (")


def test_the_tables_are_made_without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    small = ImageSolve(ClassifierSpec(field=Conv2dField(channels=2)), batch=2, steps=1)
    monkeypatch.setattr(sphere2_iteration, "STEPS", (2, 16))

    _require_whole(adaptive_loop.table(FEW, 1, None))
    _require_whole(sphere2_iteration.table(1, CPU, RATES))
    _require_whole(image_field.table(small, 1, CPU, RATES))
    _require_whole(sweep_time.table(SweptModel(samples=8, few=4, steps=2), 1, CPU, RATES))


def test_the_outputs_compared_are_those_of_the_problem() -> None:
    outcomes, _ = adaptive_loop.measure(FEW, 1, None)

    # A tolerance of 1e-5 a step; errors grow along t.
    assert numpy.abs(outcomes["odeness"].outputs - adaptive_loop.reference(FEW)).max() < 1e-2


def test_the_joint_reference_is_that_of_each_problem_alone() -> None:
    x, v = FEW.starts()[1]

    alone = solve_ivp(
        lambda t, z: [z[1], FEW.mu * (1 - z[0] ** 2) * z[1] - z[0]],
        (0, FEW.end),
        [x, v],
        method="DOP853",
        t_eval=FEW.times(),
        rtol=1e-12,
        atol=1e-12,
    )

    numpy.testing.assert_allclose(adaptive_loop.reference(FEW)[:, 1], alone.y.T, atol=1e-9)


def test_a_verdict_says_whether_a_target_is_met_and_by_how_much_it_is_missed() -> None:
    assert verdict("a / b", 1 / 13, 1 / 12) == "Target: a / b, at most 1/12. Measured 1/13: **met**."
    assert verdict("a / b", 0.3, 0.25).endswith("at most 1/4. Measured 1/3.33: **missed by 20%**.")
    assert verdict("a / b", 1.0, 0.25).endswith("Measured 1.000: **missed by a factor of 4.0**.")


def test_the_cost_of_a_field_is_that_of_its_dense_matrices() -> None:
    """On a signal of two points each layer is a matrix: count the entries that the weights reach."""
    model = build_classifier(PRESETS["sphere2"], ConcentricSpheresSpec(dimension=2))
    entries, width = 0, (1, 2)
    for layer in model.field.network:
        if isinstance(layer, torch.nn.Conv1d):
            torch.nn.init.ones_(layer.weight)
            identity = torch.eye(width[0] * width[1]).reshape(-1, *width)
            matrix = layer(identity) - layer(torch.zeros_like(identity))
            entries, width = entries + int((matrix != 0).sum()), (matrix.shape[1], matrix.shape[2])

    assert field_cost(PRESETS["sphere2"], (2,)).multiply_adds == entries


def test_rates_of_the_machine_are_measured() -> None:
    rates = measure_rates(CPU, repeats=1)

    assert rates.multiply_adds > 1e6
    assert rates.bytes > 1e6


def test_the_command_tells_how_it_is_used() -> None:
    command = [sys.executable, "-m", "benchmarks.solver_tables", "--help"]

    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert "python -m benchmarks.solver_tables [--only" in shown.stdout
