import pytest
import torch
from torch import Tensor
from torch.func import jacrev, vmap

from ode_core.fields import sample_blocks
from ode_core.fields.vector_fields import VectorField, build_field
from ode_core.solvers.linearisation import dense_jacobian
from ode_core.specs import Conv2dField

T = torch.tensor(0.3, dtype=torch.float64)


@pytest.fixture
def field(monkeypatch: pytest.MonkeyPatch) -> VectorField:
    # 4 channels unfolded 3 x 3 on 5 x 4 points: two samples at a time.
    monkeypatch.setattr(sample_blocks, "_NUMBERS_AT_ONCE", 2 * 4 * 9 * 20)
    built = build_field(Conv2dField(channels=4, activation="tanh", time_dependent=True), (2, 5, 4))
    assert isinstance(built, VectorField)
    return built.double().requires_grad_(False)


def states(samples: int) -> Tensor:
    return torch.randn(samples, 2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("samples", [0, 1, 2, 7])
def test_in_blocks_a_field_is_the_same_and_tells_of_one_evaluation(field: VectorField, samples: int) -> None:
    blocks: list[int] = []
    field.network.register_forward_pre_hook(lambda _, arguments: blocks.append(len(arguments[0])))
    told: list[None] = []
    field.before_evaluation = lambda: told.append(None)
    z, times = states(samples), torch.linspace(0, 1, samples, dtype=torch.float64).reshape(-1, 1, 1, 1)
    found = field.for_states((2, 5, 4))(times, z)
    assert len(told) == 1
    assert sum(blocks) == samples
    assert max(blocks) <= 2
    torch.testing.assert_close(found, field(times, z), rtol=1e-14, atol=1e-14)


def test_its_derivatives_are_those_of_each_sample_by_itself(field: VectorField) -> None:
    z = states(5)
    expected = vmap(jacrev(lambda one: field(T, one.unsqueeze(0)).flatten()))(z).reshape(5, 40, 40)
    torch.testing.assert_close(dense_jacobian(field.for_states((2, 5, 4)), T, z), expected, rtol=1e-12, atol=1e-13)


def test_gradients_reach_the_weights_through_all_blocks(field: VectorField) -> None:
    field.requires_grad_(True)
    whole, weights = field(T, states(5)).square().sum(), tuple(field.parameters())
    inner = field.for_states((2, 5, 4))(T, states(5)).square().sum()
    for ours, expected in zip(torch.autograd.grad(inner, weights), torch.autograd.grad(whole, weights), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_float32_has_kernels_of_its_own_and_no_blocks() -> None:
    field = build_field(Conv2dField(channels=4), (2, 5, 4))
    assert field.for_states((2, 5, 4)) is field
