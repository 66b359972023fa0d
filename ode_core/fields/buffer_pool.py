"""Memory that one solve leaves to the next."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class BufferPool:
    """Buffers for reuse: fresh pages from the system cost as much as the arithmetic of a small field."""

    _MOST = 32

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "BufferPool":
        return BufferPool()

    def take(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return an uninitialised tensor of ``shape`` with the type and device of ``like``."""
        size = math.prod(shape)
        for i, buffer in enumerate(self._free):
            fits = size <= buffer.numel() <= 2 * size
            if fits and buffer.dtype == like.dtype and buffer.device == like.device:
                return self._free.pop(i)[:size].view(shape)
        return torch.empty(size, dtype=like.dtype, device=like.device).view(shape)

    def give(self, tensor: Tensor) -> None:
        """Take back a tensor that nobody uses any more."""
        base = tensor if tensor._base is None else tensor._base
        self._free.append(base)
        if len(self._free) > self._MOST:
            del self._free[0]
