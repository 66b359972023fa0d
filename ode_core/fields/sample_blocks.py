"""Convolutions over images in float64, a few samples at a time, so that what they unfold stays in the cache.

On a CPU torch has fast kernels for convolutions in float32 alone. In float64 each becomes a product with the image
unfolded, every point beside its neighbours, for the whole batch at once: with a 3 x 3 kernel nine times the numbers of
the state. On one core 64 images of 28 x 28 took four times as long in one batch as four by four.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ode_core.solvers.solution import is_plain

# Between 2^17 and 2^19 the time did not depend on it, for 8 x 8, 28 x 28 and 32 x 32 points; from 2^21 it was 2 to 4
# times as long.
_NUMBERS_AT_ONCE = 2**19


@dataclass(frozen=True)
class SampleBlocks:
    """A chain of layers that is given ``rows`` samples at a time.

    Under ``torch.func`` one, as there each may stand for a whole block of directions.
    """

    network: Callable[[Tensor], Tensor]
    rows: int

    def __call__(self, values: Tensor) -> Tensor:
        """Return the chain's result for ``values`` ``(batch, channels, *space)``."""
        rows = self.rows if is_plain(values) else 1
        if len(values) <= rows:
            return self.network(values)
        return torch.cat([self.network(block) for block in torch.split(values, rows)])


def in_sample_blocks(network: nn.Sequential, state_shape: Sequence[int]) -> SampleBlocks | None:
    """Return a network for states ``(batch, channels, height, width)`` in blocks, or None where blocks do not pay."""
    points = math.prod(state_shape[1:])
    unfolded = [
        layer.in_channels * math.prod(layer.kernel_size) * points
        for layer in network
        if isinstance(layer, nn.Conv2d)
        and layer.weight.dtype == torch.float64
        and layer.weight.device.type == "cpu"
        and math.prod(layer.kernel_size) > 1  # others are products as they are
    ]
    return SampleBlocks(network, max(1, _NUMBERS_AT_ONCE // max(unfolded))) if unfolded else None
