from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ode_core.fields.typed_constants import ForeignPart

STATES = torch.ones(2, 3, dtype=torch.float64)

FLOATS: list[Callable[[], Tensor]] = [
    lambda: torch.ones(2),
    lambda: torch.linspace(0, 1, 3),
    lambda: torch.tensor([[1, 2.5]]),
    lambda: torch.full((2,), 0.1),
    lambda: torch.arange(0, 1.0, 0.25),
]
OTHERS: list[Callable[[], Tensor]] = [
    lambda: torch.ones(2, dtype=torch.int32),
    lambda: torch.tensor([1, 2]),
    lambda: torch.full((2,), 1),
    lambda: torch.arange(3),
    lambda: torch.tensor(True),
]


@pytest.mark.parametrize("constant", FLOATS)
def test_a_constant_without_a_type_has_that_of_the_arguments(constant: Callable[[], Tensor]) -> None:
    part = ForeignPart(lambda z: constant())
    part.typed_constants = True

    assert part(STATES).dtype == torch.float64
    assert part(STATES.float()).dtype == torch.float32
    assert constant().dtype == torch.float32


@pytest.mark.parametrize("constant", OTHERS)
def test_whole_numbers_and_what_has_a_type_stay_as_they_are(constant: Callable[[], Tensor]) -> None:
    part = ForeignPart(lambda z: constant())
    part.typed_constants = True

    assert part(STATES).dtype == constant().dtype
