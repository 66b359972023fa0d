"""The order in which training data is seen."""

import numpy as np
import torch
from torch import Tensor


class BatchSampler:
    """Endless shuffled batches: the data set in a new order, again and again, without a remainder lost.

    A batch is a pure function of seed and iteration, so a resumed run sees the same data without any
    state to be saved. A batch that reaches the end of one order goes on in the next.
    """

    def __init__(self, samples: int, batch_size: int, seed: int) -> None:
        if samples < 1:
            raise ValueError("there is no training data")
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def batch(self, iteration: int) -> Tensor:
        """Return the indices ``(batch_size,)`` of a batch; iterations count from 0."""
        start = iteration * self.batch_size
        positions = range(start, start + self.batch_size)
        indices = np.empty(self.batch_size, dtype=np.int64)
        filled = 0
        while filled < self.batch_size:
            epoch, offset = divmod(positions[filled], self.samples)
            taken = self._epoch_order(epoch)[offset : offset + self.batch_size - filled]
            indices[filled : filled + len(taken)] = taken
            filled += len(taken)
        return torch.from_numpy(indices)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.samples)
        return self._order
