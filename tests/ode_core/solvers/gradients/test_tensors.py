import pytest
import torch
from torch import nn

from ode_core.fields.vector_fields import build_field
from ode_core.solvers.solve import solve
from ode_core.specs import Conv1dField, SolverSpec

BY_MODE = {
    "checkpoint": SolverSpec(method="rk4", steps=3),
    "adjoint": SolverSpec(method="dopri5", rtol=1e-9, atol=1e-9),
    "adjoint_seminorm": SolverSpec(method="dopri5", rtol=1e-9, atol=1e-9),
    "reversible": SolverSpec(method="asynchronous_leapfrog", steps=3),
}
every_mode = pytest.mark.parametrize("gradient", list(BY_MODE))


class Shared(nn.Module):
    """A module with a weight that is used twice, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(2, 2).double()
        self.second = self.first
        self.frozen = nn.Linear(2, 2).double().requires_grad_(False)

    def forward(self, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.frozen(torch.tanh(self.second(torch.tanh(self.first(z)))))


def starts() -> torch.Tensor:
    return torch.tensor([[0.3, -0.4], [1.0, 0.5]], dtype=torch.float64)


@every_mode
def test_a_modules_parameters_are_found_and_frozen_ones_left_out(gradient):
    field = Shared()
    results = []
    for mode in ("backprop", gradient):
        loss = solve(field, starts(), BY_MODE[gradient], gradient=mode).final.square().sum()
        field.zero_grad()
        loss.backward()
        results.append([p.grad for p in field.parameters()])
    assert [g is None for g in results[1]] == [False, False, True, True]
    for ours, theirs in zip(*results, strict=True):
        assert ours is theirs is None or torch.allclose(ours, theirs, rtol=1e-7, atol=1e-12)


@every_mode
@pytest.mark.parametrize("length", [2, 6])
def test_a_field_prepared_for_short_signals_passes_gradients_on_to_its_weights(gradient, length):
    torch.manual_seed(0)
    spec = Conv1dField(channels=3, activation="tanh", time_dependent=True)
    field = build_field(spec, (1, length)).double()
    z0 = torch.randn(4, 1, length, dtype=torch.float64)
    results = []
    for mode in ("backprop", gradient):
        loss = solve(field.for_states((1, length)), z0, BY_MODE[gradient], gradient=mode).final.square().sum()
        results.append(torch.autograd.grad(loss, list(field.parameters())))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-7)


@every_mode
def test_a_plain_function_must_say_what_it_uses(gradient):
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def field(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return -rate * z

    with pytest.raises(ValueError, match=rf"gradient {gradient} must know the tensors .* pass parameters=\[\.\.\.\]"):
        solve(field, starts(), BY_MODE[gradient], gradient=gradient)
    solution = solve(field, starts().requires_grad_(), BY_MODE[gradient], gradient=gradient, parameters=[])
    with pytest.raises(ValueError, match=r"tensor of shape \(\) that requires a gradient and is not among"):
        solution.final.sum().backward()


@every_mode
def test_a_field_that_uses_neither_state_nor_parameters_has_the_identity_as_gradient(gradient):
    z0 = starts().requires_grad_()
    unused = torch.ones(3, dtype=torch.float64, requires_grad=True)
    solution = solve(lambda t, z: torch.ones_like(z), z0, BY_MODE[gradient], gradient=gradient, parameters=[unused])
    start, other = torch.autograd.grad(solution.final.sum(), (z0, unused), allow_unused=True)
    assert torch.allclose(start, torch.ones_like(start))
    assert other is None or bool((other == 0).all())


@every_mode
def test_only_what_requires_a_gradient_makes_a_graph(gradient):
    field = Shared()
    with torch.no_grad():
        assert not solve(field, starts(), BY_MODE[gradient], gradient=gradient).final.requires_grad
    for parameter in field.parameters():
        parameter.requires_grad_(False)
    assert not solve(field, starts(), BY_MODE[gradient], gradient=gradient).final.requires_grad
    assert solve(field, starts().requires_grad_(), BY_MODE[gradient], gradient=gradient).final.requires_grad


@every_mode
def test_weights_that_change_before_the_backward_pass_are_noticed(gradient):
    field = Shared()
    solution = solve(field, starts(), BY_MODE[gradient], gradient=gradient)
    with torch.no_grad():
        field.first.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        solution.final.sum().backward()


@every_mode
def test_a_backward_pass_can_be_repeated_when_its_graph_is_kept(gradient):
    field = Shared()
    loss = solve(field, starts(), BY_MODE[gradient], gradient=gradient).final.sum()
    first = torch.autograd.grad(loss, [field.first.weight], retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, [field.first.weight])[0])


@every_mode
def test_a_second_derivative_is_refused(gradient):
    z0 = starts().requires_grad_()
    solution = solve(Shared(), z0, BY_MODE[gradient], gradient=gradient)
    (start,) = torch.autograd.grad(solution.final.square().sum(), z0, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        start.sum().backward()


@pytest.mark.parametrize(
    ("gradient", "method", "message"),
    [
        ("reversible", "dopri5", "use asynchronous_leapfrog instead of dopri5, or gradient checkpoint"),
        ("checkpoint", "asynchronous_leapfrog", "works with backprop, reversible"),
        ("adjoint", "asynchronous_leapfrog", "does not know reversible methods"),
    ],
)
def test_a_method_that_a_mode_does_not_know_is_refused(gradient, method, message):
    with pytest.raises(ValueError, match=message):
        solve(Shared(), starts(), SolverSpec(method=method, steps=2), gradient=gradient)
