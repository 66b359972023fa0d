"""Whether an exported file gives the answers of the model it was made from."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core.models.classifier import Classifier
from ode_core.specs.solver import SolverSpec

BATCH_SIZES = (1, 3, 32)
# What another order of the same sums may change, relative to the largest logit or to 1; the field is evaluated up to
# thousands of times, and a coarse solver magnifies what each adds.
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-10}

Run = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Runs an exported file: ``inputs -> (probabilities, logits)``, on the CPU."""


class ExportFailed(Exception):
    """No file was made: it could not be written or run, or its answers are not the model's; the message says which."""


@dataclass(frozen=True)
class Agreement:
    """How far the answers of a file are from those of ``Classifier.run``; the largest difference over all batches.

    Attributes:
        batch_sizes: the batches compared, all of the same test samples.
        logits: largest difference of two logits.
        probabilities: largest difference of two probabilities.
        labels: samples of the largest batch whose predicted class differs.
        failed: samples of the largest batch whose solve fails in both.
        tolerance: what a difference had to be below: of probabilities, and of logits times the largest logit.
    """

    batch_sizes: tuple[int, ...]
    logits: float
    probabilities: float
    labels: int
    failed: int
    tolerance: float

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self) | {"batch_sizes": list(self.batch_sizes)}


def require_agreement(model: Classifier, solver: SolverSpec, samples: Tensor, run: Run) -> Agreement:
    """Compare an exported file with the model it was made from.

    Args:
        model: on the CPU.
        solver: the one inside the file.
        samples: ``(n, *sample_shape)``, ``n >= 1``; repeated where a batch is larger.
        run: the file.

    Raises:
        ExportFailed: the answers differ by more than rounding does.
    """
    inputs = _at_least(model.as_input(samples).to(model.dtype), max(BATCH_SIZES))
    tolerance = TOLERANCES[model.dtype]
    largest_logits = largest_probabilities = 0.0
    labels = failed = 0
    for size in BATCH_SIZES:
        expected = _readable(model.predict(inputs[:size], solver).logits)
        probabilities, logits = run(inputs[:size])
        if not torch.equal(torch.isnan(logits), torch.isnan(expected)):
            raise ExportFailed("the file's solves fail for other inputs than the model's: use more steps")
        solved = ~torch.isnan(expected).any(1)
        failed = int((~solved).sum())
        if not bool(solved.any()):
            continue
        expected, probabilities, logits = expected[solved], probabilities[solved], logits[solved]
        in_logits = float((logits - expected).abs().max())
        in_probabilities = float((probabilities - torch.softmax(expected, 1)).abs().max())
        scale = max(1.0, float(expected.abs().max()))
        if in_logits > tolerance * scale or in_probabilities > tolerance:
            raise ExportFailed(
                f"the file's answers are not the model's: with {solver.label} logits differ by {in_logits:.2g} and "
                f"probabilities by {in_probabilities:.2g} in a batch of {size}, where {tolerance:g} may be rounding. "
                f"The steps magnify rounding errors: use more of them"
            )
        largest_logits = max(largest_logits, in_logits)
        largest_probabilities = max(largest_probabilities, in_probabilities)
        labels = int((logits.argmax(1) != expected.argmax(1)).sum())
    return Agreement(BATCH_SIZES, largest_logits, largest_probabilities, labels, failed, tolerance)


def _readable(logits: Tensor) -> Tensor:
    return torch.where(torch.isfinite(logits).all(1, keepdim=True), logits, torch.nan)


def _at_least(samples: Tensor, size: int) -> Tensor:
    return torch.cat([samples] * -(-size // len(samples)))
