"""The benchmark of the audit runs, on a tiny size; its numbers are of no interest here."""

import pytest

from benchmarks import audit_cost
from benchmarks.sweep_time import SweptModel


def test_every_part_of_an_audit_gets_its_seconds() -> None:
    cost = audit_cost.measure("sphere2-2", 20, sweep_samples=5, iterations=3)

    assert set(cost.seconds) - {"rescue"} == set(audit_cost.PARTS) - {"rescue"}
    assert all(seconds > 0 for seconds in cost.seconds.values())
    assert cost.diagnosis.samples == 20
    table = audit_cost.table([cost])
    assert all(len(row) == len(table.header) for row in table.rows)


def test_the_unit_is_the_sweep_that_the_benchmark_of_sweeps_has() -> None:
    # 1 + 2 + ... + 128 = 255 steps of 1, 2 and 4 evaluations.
    assert SweptModel().evaluations == 255 * 7


@pytest.mark.parametrize("name", [*audit_cost.DEFAULT, "mnist-16", "cifar10-128"])
def test_the_trainings_are_valid(name: str) -> None:
    assert audit_cost.trained(name).solver.method == "euler"
