"""An exported program of torch as a file (.pt2), and such a file loaded again."""

import io
import json
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ode_core.export.agreement import Run

DESCRIPTION = "odeness.json"


def versions() -> dict[str, Any]:
    """Return what a reader of the file has to know of versions beside torch's: nothing."""
    return {}


def runtime() -> str:
    """Return what runs the file, with its version."""
    return f"torch {torch.__version__}"


def write(program: ExportedProgram, description: dict[str, Any]) -> bytes:
    """Return the program as a file, with its description as the extra file ``odeness.json``."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.export.save(program, file, extra_files={DESCRIPTION: json.dumps(description)})
    return file.getvalue()


def load(data: bytes) -> Run:
    """Return what a file of our own making computes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module = torch.export.load(io.BytesIO(data)).module()

    def run(inputs: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            probabilities, logits = module(inputs)
        return probabilities, logits

    return run
