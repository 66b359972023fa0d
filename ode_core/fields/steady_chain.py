"""Fields for predictions: what is computed of a sample does not depend on its batch. Without gradients."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ode_core.fields.arithmetic import CastChain
from ode_core.fields.chain_kernel import ChainKernel, chain_kernel
from ode_core.fields.dense_chain import DenseChain, lower
from ode_core.fields.steady_layers import BLOCK, Contiguous, SteadyConvolution, steady, whole_blocks
from ode_core.fields.tape_memory import NARROW
from ode_core.fields.vector_fields import VectorField
from ode_core.solvers.solution import ExecutionPath, is_plain
from ode_core.solvers.taped_grid import GridRule, walk_taped, why_not_taped


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
        compiled: whether there is compiled code, which makes the steps of a uniform grid with any number of rows.
    """

    @torch.no_grad()
    def __init__(self, field: VectorField, state_shape: Sequence[int]) -> None:
        chain = lower(list(field.network), state_shape, time_dependent=field.time_dependent)
        network, kept = field.network, chain is not None or field.arithmetic == "bfloat16"
        if not kept:
            network = nn.Sequential(*steady(network).children(), Contiguous())
        super().__init__(network, time_dependent=field.time_dependent, arithmetic=field.arithmetic)
        self.in_blocks = chain is not None
        self._chain = None if chain is None else in_whole_blocks(chain)
        # In bfloat16 products round otherwise than in the compiled code.
        full = self._chain is not None and self._network_type() is None
        self._kernel = chain_kernel(self._chain) if self._chain is not None and full else None
        self.compiled = self._kernel is not None
        self._taped = _for_tape(self._chain, math.prod(state_shape)) if self._chain is not None and full else None

    def for_states(self, state_shape: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the field prepared for states of the shape it was made for; see ``VectorField``."""
        if self._chain is None:
            return super().for_states(state_shape)
        chain = dataclasses.replace(self._chain, before_evaluation=self.before_evaluation)
        dtype = self._network_type()
        return SteadyChain(chain, self._taped, self._kernel) if dtype is None else CastChain(chain, dtype)

    @property
    def copied_bytes(self) -> int:
        """What copies of the weights take, laid out otherwise."""
        if self._chain is not None:
            return sum(tensor.nbytes for tensor in self._chain.tensors)
        return sum(layer.layer.weight.nbytes for layer in self.network if isinstance(layer, SteadyConvolution))

    def numbers(self, state_shape: Sequence[int]) -> list[int]:
        """Return how many numbers a sample has in its state and after each layer of a convolutional field."""
        layers = [layer for layer in self.network if isinstance(layer, nn.Conv1d | nn.Conv2d | SteadyConvolution)]
        return [
            math.prod((channels, *state_shape[1:])) for channels in (state_shape[0], *(c.out_channels for c in layers))
        ]


def _for_tape(chain: DenseChain, features: int) -> DenseChain | None:
    """Return a chain in whole blocks without the zeros of its last layer, or None where a tape needs them.

    A tape multiplies the columns of narrow states, which MKL does alike in whole blocks in float32 but not in float64.
    """
    if chain.weights[0].dtype != torch.float32 or (features > NARROW and features % BLOCK):
        return None
    *weights, last = chain.weights
    *biases, last_bias = chain.biases
    return dataclasses.replace(
        chain, weights=(*weights, last[:, :features].contiguous()), biases=(*biases, last_bias[:features])
    )


class SteadyChain:
    """A dense chain in whole blocks, in compiled code where there is some.

    Attributes:
        grid_path: how it makes the steps of a uniform grid.
    """

    def __init__(self, chain: DenseChain, taped: DenseChain | None, kernel: ChainKernel | None) -> None:
        self._chain, self._taped, self._kernel = chain, taped, kernel
        self.grid_path: ExecutionPath = "taped" if kernel is None else "compiled"

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt`` of the shape of ``z``; ``t`` is 0-d or one time a sample."""
        if self._kernel is None or not (self._kernel.takes(z) and is_plain(t)):
            return self._chain(t, z)
        if self._chain.before_evaluation is not None:
            self._chain.before_evaluation()
        return self._kernel.evaluate(t, z)

    def walk_grid(self, z0: Tensor, rule: GridRule) -> Tensor | None:
        """Return the state after all steps, or None where it needs more than compiled code or a tape."""
        if self._kernel is not None:
            return self._kernel.walk(z0, rule, self._chain.before_evaluation) if self._kernel.takes(z0) else None
        if self._taped is None or why_not_taped(self._taped, z0) or (torch.is_grad_enabled() and z0.requires_grad):
            return None
        return walk_taped(dataclasses.replace(self._taped, before_evaluation=self._chain.before_evaluation), z0, rule)
