"""Memory that one solve leaves to the next."""

import math
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class BufferPool:
    """Buffers for reuse: fresh pages from the system cost as much as the arithmetic of a small field."""

    _MOST_BYTES = 2**28

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        # Buffers come back when a graph is freed, which may be in the middle of a call here.
        self._lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "BufferPool":
        return BufferPool()

    def __reduce__(self) -> tuple[type["BufferPool"], tuple[()]]:
        return BufferPool, ()

    def take(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return an uninitialised tensor of ``shape`` with the type and device of ``like``."""
        size = math.prod(shape)
        with self._lock:
            free, self._free = self._free, []
            for i, buffer in enumerate(free):
                if _fits(buffer, size, like):
                    self._free += free[:i] + free[i + 1 :]
                    return buffer[:size].view(shape)
            self._free += free
        return torch.empty(size, dtype=like.dtype, device=like.device).view(shape)

    def give(self, tensor: Tensor) -> None:
        """Take back a tensor that nobody uses any more."""
        # Flat: in inference mode a view does not know what it is a view of.
        base = tensor.flatten() if tensor._base is None else tensor._base
        with self._lock:
            self._free.append(base)
            while self._free and sum(buffer.nbytes for buffer in self._free) > self._MOST_BYTES:
                del self._free[0]


def _fits(buffer: Tensor, size: int, like: Tensor) -> bool:
    if buffer.dtype != like.dtype or buffer.device != like.device:
        return False
    # What was made in inference mode can only be written to there.
    usable = torch.is_inference_mode_enabled() or not buffer.is_inference()
    return usable and size <= buffer.numel() <= 2 * size
