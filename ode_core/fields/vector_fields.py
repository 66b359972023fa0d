"""Vector fields ``f(t, z)``: small networks that map a state to its derivative.

Source of the convolutional shape: Ott et al., ResNet After All, ICLR 2021.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ode_core.fields.arithmetic import CastChain, CastNetwork, network_type
from ode_core.fields.dense_chain import lower
from ode_core.fields.growing_ellipses import GrowingEllipses
from ode_core.fields.sample_blocks import in_sample_blocks
from ode_core.fields.tape_memory import TapePool
from ode_core.specs.model import (
    Activation,
    Conv1dField,
    Conv2dField,
    FieldArithmetic,
    FieldSpec,
    GrowingEllipsesField,
    MlpField,
)

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
}


@dataclasses.dataclass(frozen=True)
class PreparedField:
    """A field prepared for many calls.

    Attributes:
        function: ``f(t, z)``.
        tensors: what the gradients of a solve flow into.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    tensors: tuple[Tensor, ...]

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt``."""
        return self.function(t, z)


class VectorField(nn.Module):
    """A network as a vector field, with the time as an extra channel where it is asked for.

    ``forward(t, z)``: ``t`` a 0-d tensor or ``(batch, 1, ..., 1)``; ``z`` and the result
    ``(batch, channels, *space)`` or ``(batch, features)``.

    Attributes:
        arithmetic: what the network computes in; the result has the type of ``z`` in any case. TF32 is switched on
            by ``float32_products``, around a whole solve.
        before_evaluation: called before every evaluation, also of a prepared field; an exception it raises ends
            the solve. None: nothing is called.
    """

    before_evaluation: Callable[[], None] | None = None

    def __init__(self, network: nn.Sequential, *, time_dependent: bool, arithmetic: FieldArithmetic = "full") -> None:
        super().__init__()
        self.network = network
        self.time_dependent = time_dependent
        self.arithmetic = arithmetic
        self._pool = TapePool()

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt``."""
        dtype = self._network_type()
        return self._evaluate(self.network if dtype is None else CastNetwork(list(self.network), dtype), t, z)

    def for_states(self, state_shape: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the same field, to round-off, prepared for many calls with states of one shape.

        What does not depend on ``(t, z)`` is computed here, once. It holds until the weights change: prepare
        it anew for every solve. Perceptrons and convolutions over short signals become a ``DenseChain``; in float64
        on a CPU convolutions over images are done a few samples at a time.
        """
        dtype = self._network_type()
        chain = lower(list(self.network), state_shape, time_dependent=self.time_dependent)
        if chain is not None:
            chain = dataclasses.replace(chain, before_evaluation=self.before_evaluation, pool=self._pool)
            return chain if dtype is None else CastChain(chain, dtype)
        network: Callable[[Tensor], Tensor] | None
        if dtype is None:
            network = in_sample_blocks(self.network, state_shape)
            if network is None:
                return self
        else:
            network = CastNetwork(list(self.network), dtype)
        return PreparedField(lambda t, z: self._evaluate(network, t, z), tuple(self.network.parameters()))

    def _network_type(self) -> torch.dtype | None:
        """Return the type to compute in where it is not that of the weights."""
        if self.arithmetic != "bfloat16":
            return None  # without a look for the weights, which takes longer than all the rest of a preparation
        weights = next(self.network.parameters()).dtype
        dtype = network_type(self.arithmetic, weights)
        return None if dtype == weights else dtype

    def _evaluate(self, network: Callable[[Tensor], Tensor], t: Tensor, z: Tensor) -> Tensor:
        if self.before_evaluation is not None:
            self.before_evaluation()
        return network(self._with_time(t, z))

    def _with_time(self, t: Tensor, z: Tensor) -> Tensor:
        if not self.time_dependent:
            return z
        channel = (t + torch.zeros_like(z[:, :1])).to(z.dtype)
        return torch.cat([z, channel], dim=1)


def build_field(
    spec: FieldSpec, state_shape: tuple[int, ...], arithmetic: FieldArithmetic = "full"
) -> VectorField | GrowingEllipses:
    """Return the field for states of ``state_shape`` (without the batch), with torch's own initial weights if any."""
    if isinstance(spec, GrowingEllipsesField):
        return GrowingEllipses(spec)
    width_in = state_shape[0] + int(spec.time_dependent)
    layers: list[nn.Module]
    if isinstance(spec, MlpField):
        layers = _perceptron(spec, width_in, state_shape[0])
    else:
        layers = _convolutions(spec, width_in, state_shape[0])
    return VectorField(nn.Sequential(*layers), time_dependent=spec.time_dependent, arithmetic=arithmetic)


def initialise(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw Kaiming-normal weights by fan-in and zero biases, layer by layer, as in the paper's runs.

    Args:
        module: its linear and convolutional layers are initialised in place.
        generator: source of the random numbers; None takes torch's global one.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu", generator=generator)
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
