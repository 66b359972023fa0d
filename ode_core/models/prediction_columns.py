"""Predictions of many samples as columns, and packed into bytes. With numpy, without torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ode_core.solvers.status import SolveStatus

Array = npt.NDArray[Any]
Columns = Mapping[str, Array]
"""Arrays ``(n,)`` by name, ``(n, classes)`` of ``probabilities`` and ``logits``; the latter may be absent.

``truth`` are the data set's labels and ``label`` the predicted ones. Where ``status`` is no success, ``label`` is
``NO_LABEL`` and probabilities and logits are NaN. ``nfe`` counts evaluations of the field.
"""

TYPES: dict[str, str] = {
    "truth": "<i4",
    "label": "<i4",
    "status": "|u1",
    "nfe": "<i4",
    "accepted": "<i4",
    "rejected": "<i4",
    "probabilities": "<f4",
    "logits": "<f4",
}
PER_CLASS = ("probabilities", "logits")


def pack(parts: Sequence[Columns]) -> dict[str, bytes]:
    """Return the columns of consecutive samples, joined, as bytes by name."""
    return {name: np.concatenate([part[name] for part in parts]).astype(TYPES[name]).tobytes() for name in parts[0]}


def unpack(packed: Mapping[str, bytes], samples: int) -> dict[str, Array]:
    """Return the columns of ``samples`` samples that ``pack`` made; views that cannot be written to."""
    arrays = {name: np.frombuffer(data, TYPES[name]) for name, data in packed.items()}
    return {name: array.reshape(samples, -1) if name in PER_CLASS else array for name, array in arrays.items()}


@dataclass
class Tally:
    """What the predictions of a data set come to, put together chunk by chunk.

    Attributes:
        samples: how many.
        right: how many have the right label; a failed solve has not.
        nfe: evaluations of the field, in all.
        seconds: of the solves.
        statuses: how many solves ended with which status, by its number.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("truth", "label", "status", "nfe")

    samples: int = 0
    right: int = 0
    nfe: int = 0
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)

    def add(self, columns: Columns, seconds: float) -> None:
        """Add consecutive samples, of which ``COLUMNS`` are looked at."""
        self.samples += len(columns["label"])
        self.right += int((columns["label"] == columns["truth"]).sum())
        self.nfe += int(columns["nfe"].sum(dtype=np.int64))
        self.seconds += seconds
        self.statuses.update(columns["status"].tolist())

    @property
    def accuracy(self) -> float:
        """Share of right labels."""
        return self.right / self.samples

    @property
    def mean_evaluations(self) -> float:
        """Evaluations of the field for one sample, on average."""
        return self.nfe / self.samples

    @property
    def failure_reasons(self) -> dict[str, int]:
        """How many solves failed with which status, by the status's name."""
        failed = sorted((status, count) for status, count in self.statuses.items() if status != SolveStatus.SUCCESS)
        return {SolveStatus(status).text: count for status, count in failed}
