"""How many threads torch uses for the operations of an audit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Multiplications from which an evaluation of a field, of all samples, takes milliseconds on one core. Below, threads
# wait for each other longer than they compute, on a busy machine many times as long.
WORTH_THREADS = 10_000_000


@contextmanager
def fitting_threads(multiplications: int) -> Iterator[None]:
    """Use one thread of torch's within it where evaluations of the field are small, and as many as before after it.

    Args:
        multiplications: of one evaluation of the field for all samples.
    """
    before = torch.get_num_threads()
    if multiplications >= WORTH_THREADS or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
