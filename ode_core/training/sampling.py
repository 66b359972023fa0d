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
        self._order = torch.empty(0, dtype=torch.int64)

    def batch(self, iteration: int) -> Tensor:
        """Return the indices ``(batch_size,)`` of a batch, to be read only; iterations count from 0."""
        epoch, offset = divmod(iteration * self.batch_size, self.samples)
        parts, missing = [], self.batch_size
        while missing > 0:
            parts.append(self._epoch_order(epoch)[offset : offset + missing])
            missing -= len(parts[-1])
            epoch, offset = epoch + 1, 0
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _epoch_order(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.from_numpy(np.random.default_rng([self.seed, epoch]).permutation(self.samples))
        return self._order
