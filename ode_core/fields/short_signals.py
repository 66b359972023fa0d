"""Convolutions over short signals as dense matrix products.

A convolution over a signal of two or three points, such as the paper's Sphere2 field, is a small matrix. As
a matrix product it is two to seven times faster than through a convolution kernel's set-up.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# From 8 points on the zeros in the matrix cost more than they save (measured with 32 and 128 channels).
LONGEST = 4


def dense_matrix(weight: Tensor, length: int) -> Tensor:
    """Return the matrix of a convolution that keeps the length of its signal.

    Args:
        weight: ``(channels_out, channels_in, kernel)``, odd kernel, padded with zeros by ``kernel // 2``.
        length: points of the signal.

    Returns:
        ``(channels_in * length, channels_out * length)``, to be multiplied from the right to flattened signals.
    """
    channels_out, channels_in, kernel = weight.shape
    points = torch.arange(length, device=weight.device)
    tap = points[:, None] - points[None, :] + kernel // 2  # (from, to)
    within = (tap >= 0) & (tap < kernel)
    entries = weight[:, :, tap.clamp(0, kernel - 1)] * within
    return entries.permute(1, 2, 0, 3).reshape(channels_in * length, channels_out * length)


class DenseNetwork:
    """A chain of length-keeping convolutions and activations over signals of one short length.

    Calling it with ``(batch, channels_in, length)`` gives the same result as the chain, to round-off. Its
    matrices are made once; gradients flow through them to the convolutions' weights.
    """

    def __init__(self, layers: Sequence[nn.Module], length: int) -> None:
        self._length = length
        self._layers: list[nn.Module | tuple[Tensor, Tensor]] = []
        for layer in layers:
            if isinstance(layer, nn.Conv1d):
                assert layer.bias is not None
                bias = layer.bias.repeat_interleave(length)
                self._layers.append((dense_matrix(layer.weight, length), bias))
            else:
                self._layers.append(layer)

    @property
    def tensors(self) -> list[Tensor]:
        """What gradients flow through to the convolutions' weights: the matrices and biases."""
        return [tensor for layer in self._layers if isinstance(layer, tuple) for tensor in layer]

    def __call__(self, signal: Tensor) -> Tensor:
        """Return the chain's result, ``(batch, channels_out, length)``."""
        values = signal.flatten(1)
        for layer in self._layers:
            values = layer(values) if isinstance(layer, nn.Module) else torch.addmm(layer[1], values, layer[0])
        return values.reshape(len(values), values.shape[1] // self._length, self._length)
