import math

import pytest
import torch
from torch.nn import functional

from ode_core.fields.vector_fields import ACTIVATIONS, build_field, initialise
from ode_core.specs import Conv1dField, Conv2dField, MlpField

T = torch.tensor(0.3)


def test_a_conv1d_field_is_conv_activation_conv_activation_conv():
    field = build_field(Conv1dField(channels=8, kernel=5, activation="tanh"), (2, 16))
    w = [p.detach() for p in field.parameters()]
    z = torch.randn(3, 2, 16)
    expected = torch.tanh(functional.conv1d(z, w[0], w[1]))
    expected = torch.tanh(functional.conv1d(expected, w[2], w[3], padding=2))
    assert torch.equal(field(T, z), functional.conv1d(expected, w[4], w[5]))
    assert [tuple(p.shape) for p in w] == [(8, 2, 1), (8,), (8, 8, 5), (8,), (2, 8, 1), (2,)]


def test_a_conv2d_field_is_conv_activation_conv_activation_conv():
    field = build_field(Conv2dField(channels=4, kernel=3), (3, 6, 5))
    w = [p.detach() for p in field.parameters()]
    z = torch.randn(2, 3, 6, 5)
    expected = torch.relu(functional.conv2d(z, w[0], w[1]))
    expected = torch.relu(functional.conv2d(expected, w[2], w[3], padding=1))
    assert torch.equal(field(T, z), functional.conv2d(expected, w[4], w[5]))


def test_an_mlp_field_is_linear_layers_with_activations_between():
    field = build_field(MlpField(hidden=(7, 5), activation="softplus"), (3,))
    w = [p.detach() for p in field.parameters()]
    z = torch.randn(4, 3)
    expected = functional.softplus(functional.linear(z, w[0], w[1]))
    expected = functional.softplus(functional.linear(expected, w[2], w[3]))
    assert torch.equal(field(T, z), functional.linear(expected, w[4], w[5]))


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_every_activation_builds_a_field(activation):
    field = build_field(MlpField(hidden=(4,), activation=activation), (3,))
    assert field(T, torch.randn(2, 3)).shape == (2, 3)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (Conv1dField(channels=4, time_dependent=True), (2, 3)),
        (Conv1dField(channels=4, time_dependent=True), (2, 9)),
        (Conv2dField(channels=4, time_dependent=True), (2, 4, 4)),
        (MlpField(hidden=(5,), time_dependent=True), (6,)),
    ],
)
def test_time_is_an_extra_channel_for_one_time_or_one_a_sample(spec, shape):
    field = build_field(spec, shape)
    z, times = torch.randn(3, *shape), torch.tensor([0.0, 0.4, 2.0])
    each = field(times.reshape(3, *(1 for _ in shape)), z)
    for i, t in enumerate(times):
        assert torch.allclose(field(t, z[i : i + 1])[0], each[i], rtol=1e-5, atol=1e-6)
    channel = torch.full_like(z[:, :1], 0.4)
    assert torch.equal(field(times[1], z), field.network(torch.cat([z, channel], dim=1)))
    assert not torch.allclose(field(times[0], z), field(times[2], z))


def test_time_in_double_precision_does_not_change_the_precision_of_the_state():
    field = build_field(MlpField(time_dependent=True), (3,))
    assert field(torch.tensor(0.1, dtype=torch.float64), torch.randn(2, 3)).dtype == torch.float32


def test_an_autonomous_field_does_not_depend_on_time():
    field = build_field(Conv1dField(), (1, 2))
    z = torch.randn(3, 1, 2)
    assert torch.equal(field(torch.tensor(0.0), z), field(torch.tensor(9.0), z))


def test_initial_weights_are_kaiming_normal_by_fan_in_with_zero_bias():
    field = build_field(Conv2dField(channels=128), (3, 8, 8))
    initialise(field, torch.Generator().manual_seed(0))
    middle = field.network[2].requires_grad_(False)
    fan_in = 128 * 3 * 3
    n = middle.weight.numel()
    # The sample mean and deviation of n normal numbers: five standard errors.
    deviation = math.sqrt(2 / fan_in)
    assert abs(float(middle.weight.mean())) < 5 * deviation / math.sqrt(n)
    assert abs(float(middle.weight.std()) / deviation - 1) < 5 / math.sqrt(2 * n)
    assert all(not layer.bias.any() for layer in (field.network[0], middle, field.network[4]))


def test_a_generator_alone_decides_the_weights():
    fields = [build_field(MlpField(), (3,)) for _ in range(3)]
    for field, seed in zip(fields, (1, 1, 2), strict=True):
        initialise(field, torch.Generator().manual_seed(seed))
    weights = [field.network[0].weight for field in fields]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("length", [2, 8])
def test_what_is_called_before_an_evaluation_can_end_a_solve_prepared_or_not(length):
    field = build_field(Conv1dField(channels=3), (1, length))
    calls = []

    def stop_at_the_third():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    field.before_evaluation = stop_at_the_third
    prepared = field.for_states((1, length))
    z = torch.zeros(2, 1, length)
    prepared(torch.zeros(()), z)
    prepared(torch.zeros(()), z)
    with pytest.raises(KeyboardInterrupt):
        prepared(torch.zeros(()), z)
