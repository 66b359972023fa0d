import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ode_core.fields.dense_chain import dense_matrix
from ode_core.fields.vector_fields import ACTIVATIONS, VectorField, build_field
from ode_core.solvers.solve import solve
from ode_core.specs import Conv1dField, Conv2dField, MlpField, SolverSpec
from ode_core.specs.stacking import LONGEST_SIGNAL
from tests.ode_core.fields.stacked_chains import stack_of

T = torch.tensor(0.3)


@settings(max_examples=60)
@given(
    channels_in=st.integers(1, 4),
    channels_out=st.integers(1, 4),
    kernel=st.sampled_from([1, 3, 5, 7]),
    length=st.integers(1, 9),
)
def test_the_dense_matrix_is_the_convolution(channels_in, channels_out, kernel, length):
    generator = torch.Generator().manual_seed(channels_in + 10 * channels_out)
    weight = torch.randn(channels_out, channels_in, kernel, generator=generator, dtype=torch.float64)
    signal = torch.randn(2, channels_in, length, generator=generator, dtype=torch.float64)
    expected = functional.conv1d(signal, weight, padding=kernel // 2)
    result = (signal.flatten(1) @ dense_matrix(weight, length)).reshape(2, channels_out, length)
    # At most 4 * 7 products of numbers around 1, added in another order.
    assert torch.allclose(result, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("time_dependent", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3, LONGEST_SIGNAL])
def test_a_field_prepared_for_short_signals_is_the_same_field_with_the_same_gradients(length, time_dependent):
    spec = Conv1dField(channels=6, kernel=3, time_dependent=time_dependent)
    field = build_field(spec, (2, length)).double()
    prepared = field.for_states((2, length))
    assert prepared is not field
    z = torch.randn(5, 2, length, dtype=torch.float64, requires_grad=True)
    inputs = [z, *field.parameters()]
    results = [f(T, z) for f in (field, prepared)]
    assert torch.allclose(*results, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(result.square().sum(), inputs) for result in results]
    for plain, dense in zip(*gradients, strict=True):
        assert torch.allclose(plain, dense, rtol=1e-10, atol=1e-10)


def test_a_prepared_field_takes_an_empty_batch():
    chain = build_field(Conv1dField(), (1, 2)).for_states((1, 2))
    assert chain(T, torch.zeros(0, 1, 2)).shape == (0, 1, 2)


@pytest.mark.parametrize(("spec", "shape"), [(Conv1dField(), (1, LONGEST_SIGNAL + 1)), (Conv2dField(), (1, 2, 2))])
def test_other_fields_need_no_preparation(spec, shape):
    field = build_field(spec, shape)
    assert field.for_states(shape) is field


@pytest.mark.parametrize("time_dependent", [False, True])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_a_perceptron_as_a_chain_is_the_same_field(activation, time_dependent):
    field = build_field(MlpField(hidden=(7, 5), activation=activation, time_dependent=time_dependent), (3,)).double()
    z = torch.randn(4, 3, dtype=torch.float64)
    # The same products, added in another order.
    assert torch.allclose(field.for_states((3,))(T.double(), z), field(T.double(), z), rtol=0, atol=1e-14)


@pytest.mark.parametrize("time_dependent", [False, True])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_the_jacobian_of_a_chain_is_that_of_its_network(activation, time_dependent):
    field = build_field(MlpField(hidden=(7, 5), activation=activation, time_dependent=time_dependent), (3,)).double()
    z, t = torch.randn(4, 3, dtype=torch.float64), torch.rand(4, 1, dtype=torch.float64)
    found = field.for_states((3,)).jacobian(t, z)
    for i in range(4):
        expected = torch.autograd.functional.jacobian(lambda one, i=i: field(t[i : i + 1], one[None])[0], z[i])
        assert torch.allclose(found[i], expected, rtol=0, atol=1e-14)


def test_the_jacobian_of_a_convolution_is_by_the_numbers_of_the_state():
    field = build_field(Conv1dField(channels=6, kernel=3), (2, 3)).double()
    z = torch.randn(5, 2, 3, dtype=torch.float64)
    found = field.for_states((2, 3)).jacobian(T.double(), z)
    for i in range(5):
        expected = torch.autograd.functional.jacobian(lambda one: field(T.double(), one[None])[0], z[i])
        assert torch.allclose(found[i], expected.reshape(6, 6), rtol=0, atol=1e-14)


@pytest.mark.parametrize("time_dependent", [False, True])
def test_a_stack_of_fields_has_each_networks_jacobians(time_dependent):
    spec = Conv1dField(channels=3, time_dependent=time_dependent)
    fields = [build_field(spec, (1, 2)).double() for _ in range(3)]
    z = torch.randn(12, 1, 2, dtype=torch.float64)
    found = stack_of(fields, (1, 2)).jacobian(T.double(), z)
    parts = zip(fields, z.chunk(3), strict=True)
    expected = torch.cat([field.for_states((1, 2)).jacobian(T.double(), part) for field, part in parts])
    assert torch.allclose(found, expected, rtol=0, atol=1e-14)


def test_a_jacobian_is_an_evaluation_that_is_told():
    field, calls = build_field(MlpField(hidden=(7,)), (3,)), []
    field.before_evaluation = lambda: calls.append(1)
    field.for_states((3,)).jacobian(T, torch.randn(4, 3))
    assert calls == [1]


@pytest.mark.parametrize("time_dependent", [False, True])
def test_every_sample_may_have_its_own_time(time_dependent):
    field = build_field(Conv1dField(channels=3, time_dependent=time_dependent), (1, 2)).double()
    z, t = torch.randn(4, 1, 2, dtype=torch.float64), torch.rand(4, 1, 1, dtype=torch.float64)
    chain = field.for_states((1, 2))
    assert torch.allclose(chain(t, z), field(t, z), rtol=0, atol=1e-14)


@pytest.mark.parametrize("time_dependent", [False, True])
def test_a_stack_of_fields_gives_each_network_its_part_of_the_batch(time_dependent):
    spec = Conv1dField(channels=3, time_dependent=time_dependent)
    fields = [build_field(spec, (1, 2)).double() for _ in range(3)]
    stack = stack_of(fields, (1, 2))
    z, t = torch.randn(12, 1, 2, dtype=torch.float64), torch.rand(12, 1, 1, dtype=torch.float64)
    for times in (T.double(), t):
        parts = [times[4 * i : 4 * i + 4] if times.ndim else times for i in range(3)]
        each = [field(part, z[4 * i : 4 * i + 4]) for i, (field, part) in enumerate(zip(fields, parts, strict=True))]
        assert torch.allclose(stack(times, z), torch.cat(each), rtol=0, atol=1e-14)


def test_a_field_solves_in_inference_mode_and_then_trains():
    field = build_field(Conv1dField(channels=3), (1, 2))
    solver, z = SolverSpec(method="rk4", steps=3), torch.randn(4, 1, 2)
    with torch.inference_mode():
        first = solve(field.for_states((1, 2)), z, solver).final
        assert torch.equal(solve(field.for_states((1, 2)), z, solver).final, first)
    final = solve(field.for_states((1, 2)), z, solver).final
    assert torch.equal(final.detach(), first)
    final.sum().backward()


def a_network(*layers: torch.nn.Module) -> VectorField:
    return VectorField(torch.nn.Sequential(*layers), time_dependent=False)


@pytest.mark.parametrize(
    "field",
    [
        a_network(torch.nn.Linear(2, 3), torch.nn.ELU(0.3), torch.nn.Linear(3, 2)),
        a_network(torch.nn.Linear(2, 3), torch.nn.Sigmoid(), torch.nn.Linear(3, 2)),
        a_network(torch.nn.Linear(2, 3, bias=False), torch.nn.ReLU(), torch.nn.Linear(3, 2)),
        a_network(
            torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)
        ),
        a_network(torch.nn.Linear(2, 2)),
    ],
)
def test_networks_that_are_no_such_chain_are_run_as_they_are(field):
    assert field.for_states((2,)) is field


@pytest.mark.parametrize(
    "changes", [{"stride": 2}, {"padding": 0}, {"dilation": 2, "padding": 2}, {"padding_mode": "circular"}]
)
def test_convolutions_that_no_dense_matrix_is_known_for_are_run_as_they_are(changes):
    middle = torch.nn.Conv1d(2, 2, 3, **{"padding": 1} | changes)
    field = a_network(torch.nn.Conv1d(1, 2, 1), torch.nn.ReLU(), middle, torch.nn.ReLU(), torch.nn.Conv1d(2, 1, 1))
    assert field.for_states((1, 3)) is field


def test_a_layer_with_a_hook_is_run_as_it_is():
    field = build_field(MlpField(hidden=(3,)), (2,))
    assert field.for_states((2,)) is not field
    field.network[0].register_forward_hook(lambda *arguments: None)
    assert field.for_states((2,)) is field
