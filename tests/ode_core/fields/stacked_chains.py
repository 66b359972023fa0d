"""A stack of networks as one field, for tests of what works on stacks."""

from collections.abc import Sequence

import torch

from ode_core.fields.dense_chain import DenseChain, chain_of
from ode_core.fields.vector_fields import VectorField


def stack_of(fields: Sequence[VectorField], state_shape: tuple[int, ...]) -> DenseChain:
    """Return fields of one architecture as one, over their states one batch after the other."""
    layers = [[layer for layer in field.network if hasattr(layer, "weight")] for field in fields]
    tensors = [
        (torch.stack([layer.weight for layer in own]), torch.stack([layer.bias for layer in own]))
        for own in zip(*layers, strict=True)
    ]
    first = fields[0]
    return chain_of(tensors, list(first.network), state_shape, time_dependent=first.time_dependent, stacked=len(fields))
