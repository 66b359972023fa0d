import functools

import pytest
import torch

from ode_core.fields.vector_fields import ACTIVATIONS, VectorField, build_field, initialise
from ode_core.solvers.solve import solve
from ode_core.specs import METHODS, Conv1dField, MlpField, SolverSpec
from ode_core.specs.model import FieldSpec
from tests.ode_core.fields.stacked_chains import stack_of

EXPLICIT = [name for name, facts in METHODS.items() if facts.family == "explicit"]
NARROW, WIDE = (1, 2), (12,)


def a_field(spec: FieldSpec, shape: tuple[int, ...]) -> VectorField:
    field = build_field(spec, shape).double()
    initialise(field, torch.Generator().manual_seed(1))
    return field


def a_batch(shape: tuple[int, ...], batch: int = 5) -> torch.Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def assert_same_solve_and_gradients(field: VectorField, z0: torch.Tensor, solver: SolverSpec, t0: float, t1: float):
    z0 = z0.requires_grad_()
    found = []
    for path, f in (("eager", field), ("taped", field.for_states(z0.shape[1:]))):
        solution = solve(f, z0, solver, t0=t0, t1=t1)
        assert solution.execution.path == path
        loss = (solution.final * torch.linspace(-1, 1, z0[0].numel(), dtype=z0.dtype).reshape(z0.shape[1:])).sum()
        found.append([solution.final, *torch.autograd.grad(loss, [z0, *field.parameters()])])
    for eager, taped in zip(*found, strict=True):
        # Sums of up to some thousand products of numbers around 1, in another order.
        assert torch.allclose(taped, eager, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("t0", "t1"), [(0.1, 0.9), (0.9, 0.1)])
@pytest.mark.parametrize("shape", [NARROW, WIDE])
@pytest.mark.parametrize("method", EXPLICIT)
def test_a_taped_solve_is_the_eager_one_for_every_method(method, shape, t0, t1):
    spec = Conv1dField(channels=5, activation="tanh", time_dependent=True)
    if shape == WIDE:
        spec = MlpField(hidden=(6, 5), time_dependent=True)
    assert_same_solve_and_gradients(a_field(spec, shape), a_batch(shape), SolverSpec(method=method, steps=7), t0, t1)


@pytest.mark.parametrize("time_dependent", [False, True])
@pytest.mark.parametrize("features", [3, 12])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_a_taped_solve_is_the_eager_one_for_every_activation(activation, features, time_dependent):
    spec = MlpField(hidden=(7,), activation=activation, time_dependent=time_dependent)
    field = a_field(spec, (features,))
    assert_same_solve_and_gradients(field, a_batch((features,)), SolverSpec(method="heun", steps=4), 0.0, 1.0)


def test_more_evaluations_than_are_gathered_at_once_give_the_same_gradients():
    # 900 samples: two evaluations fill a chunk of 2048 rows, so that 33 of them make 17 chunks, the last not full.
    field = a_field(Conv1dField(channels=4), NARROW)
    assert_same_solve_and_gradients(field, a_batch(NARROW, 900), SolverSpec(method="euler", steps=33), 0.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_solve_without_gradients_gives_the_same_numbers_as_one_with(dtype):
    field = a_field(Conv1dField(channels=4), NARROW).to(dtype)
    z0, solver = a_batch(NARROW).to(dtype), SolverSpec(method="rk4", steps=5)
    with_graph = solve(field.for_states(NARROW), z0, solver).final
    assert with_graph.requires_grad
    with torch.no_grad():
        without = solve(field.for_states(NARROW), z0, solver)
    assert without.execution.path == "taped"
    assert torch.equal(with_graph.detach(), without.final)


def test_the_gradient_passes_gradcheck():
    field = a_field(Conv1dField(channels=3, activation="tanh", time_dependent=True), NARROW)
    weights = [w.detach().requires_grad_() for w in field.for_states(NARROW).tensors]

    def end(z0: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            chain = field.for_states(NARROW)
        layers = len(chain.weights)
        chain = type(chain)(tensors[:layers], tensors[layers : 2 * layers], tensors[-1], chain.activation)
        return solve(chain, z0, SolverSpec(method="rk4", steps=3)).final

    assert torch.autograd.gradcheck(end, (a_batch(NARROW, 2).requires_grad_(), *weights))


def test_a_graph_that_is_kept_gives_the_same_gradients_again():
    field = a_field(Conv1dField(channels=3), NARROW)
    final = solve(field.for_states(NARROW), a_batch(NARROW), SolverSpec(method="euler", steps=2)).final
    parameters = list(field.parameters())
    first = torch.autograd.grad(final.sum(), parameters, retain_graph=True)
    second = torch.autograd.grad(final.sum(), parameters)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_two_solves_of_one_field_can_wait_for_their_backward_passes_together():
    field = a_field(Conv1dField(channels=3), NARROW)
    chain, solver = field.for_states(NARROW), SolverSpec(method="euler", steps=6)
    first, second = a_batch(NARROW).requires_grad_(), (2 * a_batch(NARROW)).requires_grad_()
    together = (
        solve(chain, first, solver).final.sum() + solve(chain, second, solver).final.square().sum(),
        (first, second),
    )
    found = torch.autograd.grad(*together)
    alone = torch.autograd.grad(solve(field, first, solver).final.sum(), first)
    assert torch.allclose(found[0], alone[0], rtol=1e-12, atol=1e-13)
    alone = torch.autograd.grad(solve(field, second, solver).final.square().sum(), second)
    assert torch.allclose(found[1], alone[0], rtol=1e-12, atol=1e-13)


def test_a_stack_of_networks_is_solved_as_one_with_each_networks_gradients():
    spec, solver = Conv1dField(channels=4, time_dependent=True), SolverSpec(method="rk4", steps=5)
    fields = [build_field(spec, NARROW).double() for _ in range(3)]
    z0 = a_batch(NARROW, 12)
    stack = stack_of(fields, NARROW)
    solution = solve(stack, z0, solver)
    assert (solution.execution.path, solution.execution.stacked) == ("taped", 3)
    parameters = [p for field in fields for p in field.parameters()]
    found = torch.autograd.grad(solution.final.square().sum(), parameters)
    each = torch.cat([solve(field, z0[4 * i : 4 * i + 4], solver).final for i, field in enumerate(fields)])
    assert torch.allclose(solution.final, each, rtol=1e-13, atol=1e-13)
    for stacked, alone in zip(found, torch.autograd.grad(each.square().sum(), parameters), strict=True):
        assert torch.allclose(stacked, alone, rtol=1e-11, atol=1e-12)


def test_transforms_of_torch_func_go_through_the_eager_loop():
    field = a_field(Conv1dField(channels=3, activation="tanh"), NARROW)
    z0, solver = a_batch(NARROW, 2), SolverSpec(method="rk4", steps=3)
    paths = []

    def end(f, z):
        solution = solve(f, z, solver)
        paths.append(solution.execution.path)
        return solution.final

    chain = field.for_states(NARROW)
    _, tangent = torch.func.jvp(functools.partial(end, chain), (z0,), (torch.ones_like(z0),))
    assert paths == ["eager"]
    # The same derivative backwards through the plain field: <w, J v> = <J^T w, v>.
    leaf = z0.clone().requires_grad_()
    (pulled,) = torch.autograd.grad(end(field, leaf).sum(), leaf)
    assert torch.allclose(tangent.sum(), pulled.sum(), rtol=1e-12)


def test_outputs_between_the_ends_go_through_the_eager_loop():
    field = a_field(Conv1dField(channels=3), NARROW)
    solution = solve(
        field.for_states(NARROW), a_batch(NARROW), SolverSpec(method="rk4", steps=4), times=torch.tensor([0.3])
    )
    assert solution.execution.path == "eager"
    assert "outputs" in solution.execution.reason


def test_an_exception_of_the_hook_ends_a_taped_solve():
    field = a_field(Conv1dField(channels=3), NARROW)
    calls = []

    def stop_at_the_third() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    field.before_evaluation = stop_at_the_third
    with pytest.raises(KeyboardInterrupt):
        solve(field.for_states(NARROW), a_batch(NARROW), SolverSpec(method="euler", steps=9))


def test_a_sample_that_leaves_the_range_is_marked_and_the_others_are_as_if_alone():
    field = a_field(MlpField(hidden=(4,), activation="relu"), (2,))
    z0 = torch.tensor([[0.5, -0.2], [torch.inf, 0.0], [1.0, 1.0]], dtype=torch.float64)
    solver = SolverSpec(method="rk4", steps=4)
    solution = solve(field.for_states((2,)), z0, solver)
    assert solution.succeeded.tolist() == [True, False, True]
    alone = solve(field.for_states((2,)), z0[[0, 2]], solver)
    assert torch.allclose(solution.final[[0, 2]], alone.final, rtol=0, atol=1e-14)


def test_weights_that_change_before_the_backward_pass_are_noticed():
    field = a_field(Conv1dField(channels=3), NARROW)
    final = solve(field.for_states(NARROW), a_batch(NARROW), SolverSpec(method="euler", steps=2)).final
    with torch.no_grad():
        field.network[0].bias.mul_(1.5)
    chain = build_field(MlpField(hidden=(4,)), (3,)).double()
    final = solve(chain.for_states((3,)), a_batch((3,)), SolverSpec(method="euler", steps=2)).final
    with torch.no_grad():
        chain.network[0].weight.mul_(1.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        final.sum().backward()


def test_second_derivatives_are_those_of_the_eager_solve():
    field = a_field(MlpField(hidden=(4,), activation="tanh", time_dependent=True), (2,))
    z0, solver = a_batch((2,), 2).requires_grad_(), SolverSpec(method="rk4", steps=3)
    found = []
    for f in (field, field.for_states((2,))):
        final = solve(f, z0, solver, t0=0.1).final
        parameters = [z0, *field.parameters()]
        first = torch.autograd.grad(final.square().sum(), parameters, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), parameters))
    for eager, taped in zip(*found, strict=True):
        assert torch.allclose(taped, eager, rtol=1e-10, atol=1e-11)


def test_autocast_is_left_to_the_eager_loop():
    field = build_field(Conv1dField(channels=3), NARROW)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        solution = solve(
            field.for_states(NARROW), a_batch(NARROW).float(), SolverSpec(method="euler", steps=2), warn=False
        )
    assert (solution.execution.path, solution.execution.reason[:14]) == ("eager", "under autocast")
