"""The first labelled samples of a data loader."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

_AS_PAIRS = "the loader must give batches (inputs, labels) of tensors"


class UnusableLoader(ValueError):
    """What a loader gives are not labelled samples; the message says what to change."""


def labelled_samples(loader: Iterable[Any], samples: int) -> tuple[Tensor, Tensor]:
    """Return the first ``samples`` inputs ``(n, *shape)`` and labels ``(n,)`` int64, or all if there are fewer.

    No more batches are asked for than that takes.

    Raises:
        UnusableLoader: there are none, they are no classes by number, or inputs are not finite.
    """
    if samples < 1:
        raise UnusableLoader(f"samples must be at least 1, not {samples}")
    if isinstance(loader, Dataset):
        raise UnusableLoader("this is a data set: put it into a DataLoader")
    if isinstance(loader, Tensor) or (
        isinstance(loader, tuple) and len(loader) == 2 and all(isinstance(part, Tensor) for part in loader)
    ):
        raise UnusableLoader(f"{_AS_PAIRS}; for a single batch give [(inputs, labels)]")
    taken: list[tuple[Tensor, Tensor]] = []
    count = 0
    for batch in loader:
        taken.append(_pair(batch))
        count += len(taken[-1][1])
        if count >= samples:
            break
    if count == 0:
        raise UnusableLoader("the loader gives no samples" + _used_up(loader))
    shapes = {inputs.shape[1:] for inputs, _ in taken}
    if len(shapes) > 1:
        raise UnusableLoader(f"the inputs have different shapes: {sorted(map(list, shapes))}")
    return torch.cat([inputs for inputs, _ in taken])[:samples], torch.cat([own for _, own in taken])[:samples]


def _used_up(loader: Iterable[Any]) -> str:
    return "" if isinstance(loader, DataLoader | list) else "; an iterator that was used before is at its end"


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, dict):
        raise UnusableLoader(
            f"{_AS_PAIRS}, not dictionaries with {sorted(map(str, batch))}: give for example "
            f'((batch["image"], batch["label"]) for batch in loader)'
        )
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        what = [type(part).__name__ for part in batch] if isinstance(batch, tuple | list) else type(batch).__name__
        raise UnusableLoader(f"{_AS_PAIRS}; it gives {what}")
    inputs, labels = (part.detach().cpu() for part in batch)
    if labels.is_floating_point() or labels.is_complex():
        raise UnusableLoader(
            f"the labels are of {labels.dtype}: only classifiers are audited, with classes as whole numbers. "
            f"Labels 0.0 and 1.0 turn into classes with .long(); regression is not audited"
        )
    if labels.ndim != 1:
        raise UnusableLoader(
            f"the labels have shape {list(labels.shape)}; they must be (batch,): of one-hot labels take "
            f".argmax(dim=1), of a column .squeeze(1)"
        )
    if inputs.ndim < 1 or len(inputs) != len(labels):
        raise UnusableLoader(f"a batch has inputs of shape {list(inputs.shape)} and {len(labels)} labels")
    if not bool(torch.isfinite(inputs).all()):
        raise UnusableLoader("inputs are NaN or infinite: replace such numbers or leave their samples out")
    return inputs, labels.long()
