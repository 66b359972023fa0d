"""A training run's state as bytes: tensors in safetensors, the rest as JSON in its header."""

import json
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

_HEADER = "odeness"


class CheckpointDamaged(ValueError):
    """The bytes are not a checkpoint of this program."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Attributes:
        iteration: finished iterations.
        tensors: weights (``model.*``) and optimiser state (``optimizer.*``).
        metadata: JSON values: the step of the adaptation, counters, the spec's fingerprint.
    """

    iteration: int
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]

    def to_bytes(self) -> bytes:
        """Return the checkpoint as a safetensors file."""
        header = json.dumps({"iteration": self.iteration, "metadata": self.metadata}, allow_nan=False)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        return save(tensors, metadata={_HEADER: header})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Checkpoint":
        """Return the checkpoint read from ``to_bytes``'s output.

        Raises:
            CheckpointDamaged: the bytes are something else.
        """
        try:
            tensors = load(data)
            header = json.loads(_metadata(data)[_HEADER])
            return cls(int(header["iteration"]), tensors, dict(header["metadata"]))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointDamaged(f"not a checkpoint: {error}") from None


def _metadata(data: bytes) -> dict[str, str]:
    # The library reads a file's metadata only from disk; its header is a length and a JSON object.
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata
