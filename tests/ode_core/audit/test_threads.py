from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ode_core.audit import audit_field
from ode_core.audit.threads import WORTH_THREADS, fitting_threads


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_small_evaluations_have_one_thread_and_large_ones_as_many_as_before() -> None:
    with fitting_threads(WORTH_THREADS - 1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with fitting_threads(WORTH_THREADS):
        assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_an_audit_of_a_small_field_has_one_thread_and_restores_the_number_also_after_an_error() -> None:
    seen: set[int] = set()

    def field(t: Tensor, z: Tensor) -> Tensor:
        return -z

    def look(part: int, parts: int, message: str) -> None:
        seen.add(torch.get_num_threads())

    loader = [(torch.randn(8, 2), torch.zeros(8, dtype=torch.int64))]
    solver = {"method": "euler", "steps": 2}
    audit_field(field, loader, solver=solver, on_progress=look)
    assert seen == {1}
    assert torch.get_num_threads() == 3

    class Stop(Exception):
        """The audit is to end."""

    def stop(part: int, parts: int, message: str) -> None:
        raise Stop

    with pytest.raises(Stop):
        audit_field(field, loader, solver=solver, on_progress=stop)
    assert torch.get_num_threads() == 3
