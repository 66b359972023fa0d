from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._inductor.decomposition import select_decomp_table
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from ode_core.solvers.columns import by_columns, split_into_columns

BATCH = 20


def states(numbers: int = 3, batch: int = BATCH) -> Tensor:
    return torch.randn(batch, numbers, generator=torch.Generator().manual_seed(numbers), dtype=torch.float64)


def split(function: Callable[..., object], *inputs: Tensor) -> GraphModule:
    """Return the function's graph, as the compiler sees it, after the pass."""
    module = make_fx(function, decomposition_table=select_decomp_table(), tracing_mode="fake")(*inputs)
    split_into_columns(module.graph)
    module.graph.lint()
    module.recompile()
    return module


def narrow_operations(module: GraphModule) -> set[str]:
    """Return the names of what is computed on whole narrow states, but for putting them together."""
    return {
        str(node.target)
        for node in module.graph.nodes
        if node.op == "call_function" and isinstance(node.meta["val"], Tensor) and node.meta["val"].ndim == 2
    } - {"aten.cat.default", "aten.unsqueeze.default"}


def oscillator(t: Tensor, z: Tensor) -> Tensor:
    x, v, w = z.unbind(-1)
    return torch.stack((v, (1 - x * x) * v - x * torch.cos(t[:, 0]), w.exp()), dim=-1)


def error_norm(t: Tensor, z: Tensor) -> Tensor:
    allowed = torch.maximum(z.abs(), (2 * z).abs()).mul(1e-3).add(1e-5).clamp(min=1e-300)
    return (z / allowed).square().mean(dim=1).sqrt()


def finite(t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    inside = z.abs() < 1
    return inside.all(dim=1), inside.any(dim=-1, keepdim=True) & (t > 0)


def chosen(t: Tensor, z: Tensor) -> Tensor:
    return torch.where(t > 0, z, torch.tensor([1.0, 2.0, 3.0]).double() * z.float()).contiguous()


def over_rows(t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    rows = (z * t).mT.contiguous()
    return rows, (rows.mT + z.sum(dim=1, keepdim=True)).mT


def with_the_ends(t: Tensor, z: Tensor) -> Tensor:
    z = z + 1
    return torch.cat((z[:, :1] * t, t.expand(-1, 2) + z[:, 1:]), dim=1) - z[0]


def coupled(t: Tensor, z: Tensor) -> Tensor:
    z = z * t
    x, y = z[:, :1], z[:, 1::2]
    return torch.cat((torch.sin(3 * t) - x * y, torch.cos(t) * x * x - y, z[:, -2:-1]), dim=1)


@pytest.mark.parametrize("function", [oscillator, error_norm, finite, chosen, over_rows, coupled, with_the_ends])
def test_a_graph_by_columns_computes_the_same(function: Callable[..., object]) -> None:
    t, z = states(1), states()
    module = split(function, t, z)
    expected, found = function(t, z), module(t, z)
    torch.testing.assert_close(found, expected, rtol=1e-15, atol=0, check_stride=False)


@pytest.mark.parametrize("function", [oscillator, error_norm, finite, chosen, coupled])
def test_nothing_is_computed_on_whole_narrow_states(function: Callable[..., object]) -> None:
    assert narrow_operations(split(function, states(1), states())) == set()


def test_products_of_matrices_have_the_state_whole_and_their_results_are_split() -> None:
    weights, bias = states(16, batch=3), states(3, batch=1)[0]

    def layers(z: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
        hidden = torch.tanh((z + 1) @ weights)
        return 2 * torch.nn.functional.linear(hidden, weights, bias) - z

    module = split(layers, states(), weights, bias)
    torch.testing.assert_close(module(states(), weights, bias), layers(states(), weights, bias), rtol=1e-14, atol=1e-14)
    assert not {"aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor"} & narrow_operations(module)


@pytest.mark.parametrize(("batch", "numbers"), [(BATCH, 9), (1, 3), (3, 3)])
def test_wide_states_and_batches_of_fewer_samples_than_numbers_are_left_alone(batch: int, numbers: int) -> None:
    module = split(lambda z: z * z + 1, states(numbers, batch))
    assert [node.op for node in module.graph.nodes] == ["placeholder", "call_function", "call_function", "output"]


def test_the_pass_has_an_identity_for_the_compilers_cache() -> None:
    assert by_columns().uuid()
    assert by_columns() is by_columns()
