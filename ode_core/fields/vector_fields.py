"""Vector fields ``f(t, z)``: small networks that map a state to its derivative.

Source of the convolutional shape: Ott et al., ResNet After All, ICLR 2021.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ode_core.specs.model import Activation, Conv1dField, Conv2dField, FieldSpec, MlpField

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
}


class VectorField(nn.Module):
    """A network as a vector field, with the time as an extra channel where it is asked for.

    ``forward(t, z)``: ``t`` a 0-d tensor or ``(batch, 1, ..., 1)``; ``z`` and the result
    ``(batch, channels, *space)`` or ``(batch, features)``.
    """

    def __init__(self, network: nn.Sequential, *, time_dependent: bool) -> None:
        super().__init__()
        self.network = network
        self.time_dependent = time_dependent

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt``."""
        if self.time_dependent:
            channel = (t + torch.zeros_like(z[:, :1])).to(z.dtype)
            z = torch.cat([z, channel], dim=1)
        result: Tensor = self.network(z)
        return result


def build_field(spec: FieldSpec, state_shape: tuple[int, ...]) -> VectorField:
    """Return a freshly initialised field for states of ``state_shape`` (without the batch)."""
    width_in = state_shape[0] + int(spec.time_dependent)
    layers: list[nn.Module]
    if isinstance(spec, MlpField):
        layers = _perceptron(spec, width_in, state_shape[0])
    else:
        layers = _convolutions(spec, width_in, state_shape[0])
    return VectorField(nn.Sequential(*layers), time_dependent=spec.time_dependent)


def initialise(layer: nn.Module) -> None:
    """Kaiming-normal weights by fan-in and zero bias, as in the paper's runs."""
    if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _perceptron(spec: MlpField, width_in: int, width_out: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width in spec.hidden:
        layers += [nn.Linear(width_in, width), ACTIVATIONS[spec.activation]()]
        width_in = width
    return [*layers, nn.Linear(width_in, width_out)]


def _convolutions(spec: Conv1dField | Conv2dField, width_in: int, width_out: int) -> list[nn.Module]:
    convolution = nn.Conv1d if isinstance(spec, Conv1dField) else nn.Conv2d
    activation = ACTIVATIONS[spec.activation]
    return [
        convolution(width_in, spec.channels, kernel_size=1),
        activation(),
        convolution(spec.channels, spec.channels, kernel_size=spec.kernel, padding=spec.kernel // 2),
        activation(),
        convolution(spec.channels, width_out, kernel_size=1),
    ]
