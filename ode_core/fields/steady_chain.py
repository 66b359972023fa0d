"""Fields for predictions: what is computed of a sample does not depend on its batch. Without gradients."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from ode_core.fields.arithmetic import CastChain
from ode_core.fields.dense_chain import DenseChain, lower
from ode_core.fields.steady_layers import steady, whole_blocks
from ode_core.fields.vector_fields import VectorField


def in_whole_blocks(chain: DenseChain) -> DenseChain:
    """Return the chain, of one network, with zeros added so that all its layers have whole blocks of outputs."""
    weights, biases, rows = [], [], chain.weights[0].shape[0]
    for weight, bias in zip(chain.weights, chain.biases, strict=True):
        more = whole_blocks(len(bias)) - len(bias)
        weights.append(functional.pad(weight, (0, more, 0, rows - len(weight))).contiguous())
        biases.append(functional.pad(bias, (0, more)))
        rows = len(bias) + more
    time_weight = chain.time_weight
    if time_weight is not None:
        time_weight = functional.pad(time_weight, (0, len(biases[0]) - len(time_weight)))
    return dataclasses.replace(chain, weights=tuple(weights), biases=tuple(biases), time_weight=time_weight)


class SteadyField(VectorField):
    """A field of layers whose slope for a sample has the same bits in every batch; its weights are not to change.

    Attributes:
        in_blocks: whether it is a chain of dense layers, which is to be called with whole blocks of rows.
    """

    def __init__(self, field: VectorField, state_shape: Sequence[int]) -> None:
        chain = lower(list(field.network), state_shape, time_dependent=field.time_dependent)
        network = field.network if chain is not None else steady(field.network)
        assert isinstance(network, nn.Sequential)
        super().__init__(network, time_dependent=field.time_dependent, arithmetic=field.arithmetic)
        self.in_blocks = chain is not None
        self._chain = None if chain is None else in_whole_blocks(chain)

    def for_states(self, state_shape: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the field prepared for states of the shape it was made for; see ``VectorField``."""
        if self._chain is None:
            return super().for_states(state_shape)
        chain = dataclasses.replace(self._chain, before_evaluation=self.before_evaluation)
        dtype = self._network_type()
        return SteadyChain(chain) if dtype is None else CastChain(chain, dtype)

    def numbers(self, state_shape: Sequence[int]) -> list[int]:
        """Return how many numbers a sample has in its state and after each layer of a convolutional field."""
        layers = [layer for layer in self.network if isinstance(layer, nn.modules.conv._ConvNd)]
        return [
            math.prod((channels, *state_shape[1:])) for channels in (state_shape[0], *(c.out_channels for c in layers))
        ]


class SteadyChain:
    """A dense chain in whole blocks, without a tape."""

    def __init__(self, chain: DenseChain) -> None:
        self._chain = chain

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt`` of the shape of ``z``; ``t`` is 0-d or one time a sample."""
        return self._chain(t, z)
