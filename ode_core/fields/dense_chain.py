"""Fields that are chains of dense layers, as matrices: perceptrons, and convolutions over short signals.

A convolution over a signal of two or three points, such as the paper's Sphere2 field, is a small matrix. As
a matrix product it is two to seven times faster than through a convolution kernel's set-up.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor, nn

from ode_core.fields.chain_tape import ChainTape, activation_slopes, knows_activation
from ode_core.fields.tape_memory import TapePool
from ode_core.solvers.functional_field import FunctionalField
from ode_core.specs.stacking import LONGEST_SIGNAL


@lru_cache(maxsize=32)
def _taps(kernel: int, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``(kernel, length * length)``: which tap leads from which point to which, as ones and zeros."""
    with torch.inference_mode(False):  # a cached inference tensor could not be saved for a backward pass
        points = torch.arange(length, device=device)
        tap = points[:, None] - points[None, :] + kernel // 2  # (from, to)
        return (tap.flatten() == torch.arange(kernel, device=device)[:, None]).to(dtype)


def dense_matrix(weight: Tensor, length: int) -> Tensor:
    """Return the matrix of a convolution that keeps the length of its signal.

    Args:
        weight: ``([S,] channels_out, channels_in, kernel)``, odd kernel, padded with zeros by ``kernel // 2``.
        length: points of the signal.

    Returns:
        ``([S,] channels_in * length, channels_out * length)``, to be multiplied from the right to flattened signals.
    """
    *stack, channels_out, channels_in, kernel = weight.shape
    entries = weight.reshape(-1, kernel) @ _taps(kernel, length, weight.dtype, weight.device)
    entries = entries.reshape(*stack, channels_out, channels_in, length, length)
    # (out, in, from, to) to (in, from, out, to)
    entries = entries.movedim(-4, -2)
    return entries.reshape(*stack, channels_in * length, channels_out * length)


@lru_cache(maxsize=8)
def _sources(
    shapes: tuple[tuple[int, ...], ...], length: int, device: torch.device
) -> tuple[Tensor, tuple[tuple[int, ...], ...]]:
    """Return where the numbers of dense tensors come from, one after the other, and the shapes of these tensors.

    Args:
        shapes: of the convolutions' weights, and then as many of their biases.
        length: points of the signal.
        device: of the result.

    Returns:
        The positions in the convolutions' tensors, one after the other, counted from 1; 0 where the matrix is zero.
    """
    with torch.inference_mode(False):  # as in _taps
        sizes = [math.prod(shape) for shape in shapes]
        numbers = torch.split_with_sizes(torch.arange(1, sum(sizes) + 1, dtype=torch.float64), sizes)
        numbered = [part.view(shape) for part, shape in zip(numbers, shapes, strict=True)]
        layers = len(shapes) // 2
        dense = [dense_matrix(weight, length) for weight in numbered[:layers]]
        dense += [bias.repeat_interleave(length, dim=-1) for bias in numbered[layers:]]
        places = torch.cat([tensor.flatten() for tensor in dense])
        return places.to(device, torch.int32), tuple(tuple(tensor.shape) for tensor in dense)


def _dense_tensors(
    weights: Sequence[Tensor], biases: Sequence[Tensor], length: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Return ``dense_matrix`` of every weight, and the biases of every point.

    In one gather for all layers, which with its derivative takes half the time of a few operations for each.
    """
    tensors = (*weights, *biases)
    sources, shapes = _sources(tuple(tuple(tensor.shape) for tensor in tensors), length, weights[0].device)
    numbers = torch.cat([weights[0].new_zeros(1), *(tensor.flatten() for tensor in tensors)]).index_select(0, sources)
    parts = torch.split_with_sizes(numbers, [math.prod(shape) for shape in shapes])
    dense = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    return dense[: len(weights)], dense[len(weights) :]


@dataclass(frozen=True)
class DenseChain:
    """A field of dense layers with one activation between them, for states of one shape.

    Calling it with ``(t, z)`` gives the same as the network it was made of, to round-off; gradients flow through
    ``tensors`` to that network's weights. With a stack of ``S`` networks, ``z`` is ``(S * batch, *state)`` and each
    network takes its part.

    Attributes:
        weights: ``([S,] in, out)`` of each layer, to be multiplied from the right.
        biases: ``([S,] out)`` of each layer.
        time_weight: ``([S,] out)`` of the first layer, what the time is multiplied with; None for an autonomous field.
        activation: applied after every layer but the last.
        stacked: number of networks, or None for one without a leading dimension.
        before_evaluation: called before every evaluation; see ``VectorField``.
        pool: memory that the solves of this field share.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    time_weight: Tensor | None
    activation: nn.Module
    stacked: int | None = None
    before_evaluation: Callable[[], None] | None = None
    pool: TapePool = field(default_factory=TapePool, compare=False)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the gradients of a solve flow into, in the order weights, biases, time weight."""
        time = () if self.time_weight is None else (self.time_weight,)
        return (*self.weights, *self.biases, *time)

    def tape(self, z: Tensor, slots: int) -> ChainTape:
        """Return a tape for ``slots`` evaluations at states of the shape of ``z``."""
        return ChainTape(self, z, slots)

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt`` of the shape of ``z``; ``t`` is 0-d or one time a sample."""
        if self.before_evaluation is not None:
            self.before_evaluation()
        return _evaluate(self.activation, self.stacked, self.tensors, t, z)

    @torch.no_grad()
    def jacobian(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``(batch, n, n)``, the derivative at each sample, a row for each number of the result; no graph.

        A product of matrices for each layer. Through ``torch.func`` it takes over ten times as long for small states.
        """
        if self.before_evaluation is not None:
            self.before_evaluation()
        rows = z.flatten(1)
        values = rows if self.stacked is None else rows.reshape(self.stacked, len(z) // self.stacked, rows.shape[1])
        tangents = torch.empty(0)
        last = len(self.weights) - 1
        for i, weight in enumerate(self.weights):
            by_sample = weight if self.stacked is None else weight.unsqueeze(1)
            tangents = by_sample if i == 0 else tangents @ by_sample
            if i < last:
                before = _affine(self.stacked, self.tensors, i, t, values)
                values, slopes = activation_slopes(self.activation, before)
                tangents = tangents * slopes.unsqueeze(-2)
        return tangents.reshape(len(z), rows.shape[1], rows.shape[1]).mT

    def functional(self) -> FunctionalField:
        """Return the field as a function of its tensors; chains of one architecture share it."""
        shapes = tuple(tuple(tensor.shape) for tensor in self.tensors)
        function = functools.partial(_evaluate, self.activation, self.stacked)
        key = ("dense chain", shapes, repr(self.activation), self.stacked)
        return FunctionalField(function, self.tensors, key, self.before_evaluation, by_sample=True)


def _evaluate(activation: nn.Module, stacked: int | None, tensors: tuple[Tensor, ...], t: Tensor, z: Tensor) -> Tensor:
    """Return ``dz/dt`` of the chain with ``tensors``."""
    layers = len(tensors) // 2
    values = z.flatten(1)
    if stacked is not None:
        values = values.reshape(stacked, len(z) // stacked, values.shape[1])
    for i in range(layers):
        values = _affine(stacked, tensors, i, t, values)
        if i < layers - 1:
            values = activation(values)
    if values.shape[-1] != (features := math.prod(z.shape[1:])):
        values = values[..., :features]  # a chain in whole blocks
    return values.reshape(z.shape)


def _affine(stacked: int | None, tensors: tuple[Tensor, ...], layer: int, t: Tensor, values: Tensor) -> Tensor:
    """Return ``values`` after the weight, the bias and, in the first layer, the time of a chain with ``tensors``."""
    layers = len(tensors) // 2
    time_weight = tensors[-1] if len(tensors) > 2 * layers else None
    weight, bias = tensors[layer], tensors[layers + layer]
    by_network = stacked is not None
    values = torch.baddbmm(bias.unsqueeze(-2), values, weight) if by_network else torch.addmm(bias, values, weight)
    if layer == 0 and time_weight is not None:
        values = values + _time_term(time_weight if stacked is None else time_weight.unsqueeze(-2), t, values)
    return values


def _time_term(time_weight: Tensor, t: Tensor, values: Tensor) -> Tensor:
    times = t.to(values.dtype)
    if t.ndim > 0:
        times = times.reshape(*values.shape[:-1], 1)
    return times * time_weight


def lower(layers: Sequence[nn.Module], state_shape: Sequence[int], *, time_dependent: bool) -> DenseChain | None:
    """Return the layers as a dense chain for states of ``state_shape``, or None where that is not exact or not faster.

    Args:
        layers: linear layers or length-keeping convolutions, with one kind of activation between them.
        state_shape: ``(features,)`` or ``(channels, length)``.
        time_dependent: whether the first layer takes the time as a last, extra channel.
    """
    if not is_chain(layers, state_shape):
        return None
    tensors = []
    for layer in layers[::2]:
        assert isinstance(layer, nn.Linear | nn.Conv1d)
        assert layer.bias is not None
        tensors.append((layer.weight, layer.bias))
    return chain_of(tensors, layers, state_shape, time_dependent=time_dependent)


def is_chain(layers: Sequence[nn.Module], state_shape: Sequence[int]) -> bool:
    """Whether layers are best run as a dense chain on states of ``state_shape``, and do no more than that."""
    affine, activations = layers[::2], layers[1::2]
    if len(affine) < 2 or any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers):
        return False
    if not all(knows_activation(layer) and type(layer) is type(activations[0]) for layer in activations):
        return False
    linear = all(isinstance(layer, nn.Linear) and layer.bias is not None for layer in affine)
    return linear or (state_shape[-1] <= LONGEST_SIGNAL and all(_keeps_length(layer) for layer in affine))


def _keeps_length(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that ``dense_matrix`` knows."""
    if not isinstance(layer, nn.Conv1d) or layer.bias is None or layer.padding_mode != "zeros":
        return False
    (kernel,), ones = layer.kernel_size, (1,)
    plain = layer.stride == ones and layer.dilation == ones and layer.groups == 1
    return plain and kernel % 2 == 1 and layer.padding == (kernel // 2,)


def chain_of(
    tensors: Sequence[tuple[Tensor, Tensor]],
    layers: Sequence[nn.Module],
    state_shape: Sequence[int],
    *,
    time_dependent: bool,
    stacked: int | None = None,
) -> DenseChain:
    """Return the dense chain of layers like ``layers`` with other weights and biases, or with a stack of them.

    Args:
        tensors: weight and bias of each linear layer or convolution, ``([S,] *shape)``.
        layers: for which ``is_chain`` holds.
        state_shape: ``(features,)`` or ``(channels, length)``.
        time_dependent: whether the first layer takes the time as a last, extra channel.
        stacked: the number of networks ``S``, or None for one without a leading dimension.
    """
    length = 1
    weights, biases = [w for w, _ in tensors], [b for _, b in tensors]
    if isinstance(layers[0], nn.Conv1d):
        length = state_shape[-1]
        weights, biases = _dense_tensors(weights, biases, length)
    else:
        weights = [w.mT for w in weights]
    time_weight = None
    if time_dependent:
        # The time is one more channel, the same at every point.
        weights[0], channel = weights[0][..., :-length, :], weights[0][..., -length:, :]
        time_weight = channel.sum(dim=-2)
    return DenseChain(tuple(weights), tuple(biases), time_weight, layers[1], stacked)
