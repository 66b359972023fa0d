"""Dense chains in compiled code, against the same layers of torch in float64."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ode_core.fields import native_library as libraries
from ode_core.fields.chain_kernel import ChainKernel, chain_kernel
from ode_core.fields.dense_chain import DenseChain, chain_of, lower
from ode_core.fields.native_library import native_library
from ode_core.fields.steady_chain import SteadyField, in_whole_blocks
from ode_core.fields.vector_fields import VectorField, build_field
from ode_core.solvers.solve import solve
from ode_core.solvers.status import SolveStatus
from ode_core.specs import METHODS, Conv1dField, MlpField, SolverSpec
from ode_core.specs.model import Activation

ACTIVATIONS: list[Activation] = ["relu", "tanh", "silu", "elu"]
EXPLICIT = [name for name, facts in METHODS.items() if facts.family == "explicit" and "odeness" in facts.backends]


def field_of(activation: Activation, *, time_dependent: bool = False, features: int = 3) -> VectorField:
    torch.manual_seed(2)
    spec = MlpField(hidden=(50, 17, 33), activation=activation, time_dependent=time_dependent)
    field = build_field(spec, (features,)).requires_grad_(False)
    assert isinstance(field, VectorField)
    return field


def kernel_of(chain: DenseChain) -> ChainKernel:
    kernel = chain_kernel(in_whole_blocks(chain))
    assert kernel is not None, "these tests need a C++ compiler"
    return kernel


def close(ours: Tensor, exact: Tensor, digits: float = 2e-6) -> bool:
    return torch.allclose(ours.double(), exact, rtol=0, atol=digits * float(exact.abs().max()))


@pytest.mark.parametrize("by_row", [False, True], ids=["one time", "times"])
@pytest.mark.parametrize("time_dependent", [False, True], ids=["autonomous", "time"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_evaluation_is_that_of_the_layers(activation: Activation, time_dependent: bool, by_row: bool) -> None:
    field, z = field_of(activation, time_dependent=time_dependent), torch.randn(21, 3)
    steady = SteadyField(field, (3,)).for_states((3,))
    t = torch.rand(21, 1) if by_row else torch.tensor(0.4)
    assert close(steady(t, z), copy.deepcopy(field).double()(t.double(), z.double()))


@pytest.mark.parametrize("shape", [(1,), (1, 1), (19,), (21, 2), (0,)])
def test_times_that_are_neither_one_nor_one_a_sample_are_refused_as_by_the_layers(shape: tuple[int, ...]) -> None:
    field, z = field_of("tanh", time_dependent=True), torch.randn(21, 3)
    for of_states in (field.for_states((3,)), SteadyField(field, (3,)).for_states((3,))):
        with pytest.raises((ValueError, RuntimeError), match=r"shape"):
            of_states(torch.zeros(shape), z)


@pytest.mark.parametrize("shape", [(21, 2), (21, 4), (21, 3, 2), (21,), (0, 2)])
def test_states_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    field = SteadyField(field_of("tanh"), (3,)).for_states((3,))
    with pytest.raises(ValueError, match="the chain takes 3 numbers a sample"):
        field(torch.tensor(0.0), torch.zeros(shape))
    with pytest.raises(ValueError, match="the chain takes 3 numbers a sample"):
        solve(field, torch.zeros(shape), SolverSpec(method="euler", steps=2))


def test_states_of_another_type_are_refused_by_the_compiled_code_itself() -> None:
    chain = lower(list(field_of("tanh").network), (3,), time_dependent=False)
    assert chain is not None
    with pytest.raises(ValueError, match="in float32"):
        kernel_of(chain).evaluate(torch.tensor(0.0), torch.zeros(5, 3, dtype=torch.float64))


def test_no_states_at_all_have_no_slopes() -> None:
    field = SteadyField(field_of("tanh"), (3,)).for_states((3,))
    assert field(torch.tensor(0.0), torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    "solver",
    [SolverSpec(method="rk4", steps=3), SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3)],
    ids=lambda s: s.label,
)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_infinite_state_is_a_failed_solve_as_with_the_layers(activation: Activation, solver: SolverSpec) -> None:
    field, z = field_of(activation), torch.randn(4, 3)
    z[1, 0], z[2, 2] = torch.inf, -torch.inf
    with torch.no_grad():
        plain = solve(field, z, solver)
        ours = solve(SteadyField(field, (3,)).for_states((3,)), z, solver)
    failed = SolveStatus.NON_FINITE
    assert plain.status.tolist() == ours.status.tolist() == [SolveStatus.SUCCESS, failed, failed, SolveStatus.SUCCESS]


@pytest.mark.parametrize("features", [1, 2, 20])
@pytest.mark.parametrize("method", EXPLICIT)
def test_a_grid_is_that_of_the_same_method_in_float64(method: str, features: int) -> None:
    field, z = field_of("tanh", time_dependent=True, features=features), torch.randn(5, features)
    solver = SolverSpec(method=method, steps=3)
    with torch.no_grad():
        ours = solve(SteadyField(field, (features,)).for_states((features,)), z, solver, t0=0.5, t1=-0.25)
        exact = solve(copy.deepcopy(field).double(), z.double(), solver, t0=0.5, t1=-0.25)
    assert ours.execution.path == "compiled"
    assert close(ours.final, exact.final)
    assert torch.equal(ours.evaluations, exact.evaluations)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_hold_for_the_smallest_and_the_largest_numbers(activation: Activation) -> None:
    x = torch.tensor([0.0, -0.0, 1e-30, -1e-12, 3e-9, -2e-5, 0.3, -0.7, 5.0, -20.0, 90.0, -90.0, 800.0, -800.0, 3e38])
    x = torch.cat([x, torch.tensor([torch.nan])]).unsqueeze(1)
    layer = field_of(activation).network[1]
    one, zero = torch.ones(1, 1), torch.zeros(1)
    chain = chain_of([(one, zero), (one, zero)], [nn.Linear(1, 1), layer], (1,), time_dependent=False)
    ours, exact = kernel_of(chain).evaluate(torch.tensor(0.0), x), layer(x.double())
    finite = exact.isfinite()
    assert torch.equal(ours.isnan(), exact.isnan())
    assert torch.allclose(ours[finite].double(), exact[finite], rtol=2e-7, atol=1e-38)
    assert ours[-1].isnan()


def test_a_row_has_the_same_bits_in_every_batch_and_place() -> None:
    kernel = kernel_of(SteadyField(field_of("silu"), (3,))._chain)  # type: ignore[arg-type]
    z, t = torch.randn(64, 3), torch.tensor(0.0)
    alone = torch.cat([kernel.evaluate(t, row) for row in z.split(1)])
    for size in range(1, 20):
        rows = torch.randperm(64)[:size]
        assert torch.equal(kernel.evaluate(t, z[rows]), alone[rows])


def test_a_solve_is_stopped_between_two_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    calls: list[int] = []

    def stop_at_the_third() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Stop

    field = SteadyField(field_of("relu"), (3,))
    whole = solve(field.for_states((3,)), torch.ones(2, 3), SolverSpec(method="rk4", steps=7)).final
    monkeypatch.setattr("ode_core.fields.chain_kernel._AT_ONCE", 1)  # each step is a call of its own
    steps = solve(field.for_states((3,)), torch.ones(2, 3), SolverSpec(method="rk4", steps=7)).final
    assert torch.equal(steps, whole)
    field.before_evaluation = stop_at_the_third
    with pytest.raises(Stop):
        solve(field.for_states((3,)), torch.ones(2, 3), SolverSpec(method="rk4", steps=7))


def test_where_gradients_or_derivatives_are_wanted_torch_computes() -> None:
    chain = SteadyField(field_of("tanh"), (3,)).for_states((3,))
    z, tangent = torch.randn(16, 3), torch.randn(16, 3)
    exact = field_of("tanh").double()
    slope = torch.func.jvp(lambda x: chain(torch.tensor(0.0), x), (z,), (tangent,))[1]
    expected = torch.func.jvp(lambda x: exact(torch.tensor(0.0), x), (z.double(),), (tangent.double(),))[1]
    assert close(slope, expected)
    start = z.clone().requires_grad_()
    solve(chain, start, SolverSpec(method="rk4", steps=2)).final.sum().backward()
    again = z.double().requires_grad_()
    solve(exact, again, SolverSpec(method="rk4", steps=2)).final.sum().backward()
    assert start.grad is not None
    assert again.grad is not None
    assert close(start.grad, again.grad)


@pytest.fixture
def other_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    native_library.cache_clear()
    yield monkeypatch
    native_library.cache_clear()


def test_without_a_compiler_the_numbers_are_the_same(other_compiler: pytest.MonkeyPatch) -> None:
    other_compiler.delenv("CXX", raising=False)
    other_compiler.setattr(libraries.shutil, "which", lambda name: None)
    field, z = build_field(Conv1dField(), (1, 2)).requires_grad_(False), torch.randn(16, 1, 2)
    assert isinstance(field, VectorField)
    with torch.no_grad():
        solution = solve(SteadyField(field, (1, 2)).for_states((1, 2)), z, SolverSpec(method="rk4", steps=4))
        exact = solve(copy.deepcopy(field).double(), z.double(), SolverSpec(method="rk4", steps=4))
    assert solution.execution.path != "compiled"
    assert close(solution.final, exact.final)


@pytest.mark.parametrize("compiler", ["/nowhere/compiler", "false"])
def test_a_compiler_that_fails_is_told_and_done_without(
    compiler: str, other_compiler: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other_compiler.setenv("CXX", compiler)
    assert native_library("chain_kernel.cpp") is None
    assert "could not be compiled" in caplog.text


def test_the_source_is_part_of_the_package() -> None:
    assert Path(libraries.__file__).with_name("chain_kernel.cpp").is_file()
