"""Inputs that differ from request to request, with the answers they must get."""

from dataclasses import dataclass
from pathlib import Path

import numpy

from benchmarks.serving.http_messages import HttpBroken, parts
from benchmarks.serving.protocols import Endpoint, Numbers

# A right answer is float32's and the expectation float64's: 64 evaluations of the field and a softmax, each rounded to
# 6e-8, which moves a probability by about 1e-6; this allows ten times as much. How many answers to other requests are
# further apart says ``told_apart``.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Workload:
    """Requests of the same number of rows.

    Attributes:
        inputs: ``(requests, rows, numbers)``, float32.
        expected: ``(requests, rows, classes)``, probabilities.
    """

    inputs: Numbers
    expected: Numbers

    def save(self, file: Path) -> None:
        """Write both arrays to ``file``, an npz."""
        numpy.savez(file, inputs=self.inputs, expected=self.expected)

    @classmethod
    def load(cls, file: Path) -> "Workload":
        """Read what ``save`` wrote."""
        with numpy.load(file) as arrays:
            return cls(arrays["inputs"], arrays["expected"])

    def requests(self, endpoint: Endpoint) -> list[bytes]:
        """Return all requests as bytes."""
        return [endpoint.request(one) for one in self.inputs]

    def what_is_wrong(self, endpoint: Endpoint, number: int, answer: bytes) -> str | None:
        """Say what is wrong with the answer to a request; None: nothing."""
        try:
            status, headers, body = parts(answer)
            if status != 200:
                return f"status {status}"
            if endpoint.protocol == "no-op":
                return None
            probabilities = endpoint.probabilities(headers, body)
        except (HttpBroken, LookupError, TypeError, ValueError):
            return "unreadable answer"
        expected = self.expected[number]
        if probabilities.shape != expected.shape:
            return "answer of another shape"
        # Written so that NaN is wrong.
        return None if numpy.abs(probabilities - expected).max() <= TOLERANCE else "wrong answer"

    def told_apart(self) -> float:
        """Return the share of pairs of requests whose answers are further apart than two right answers can be."""
        flat = self.expected.reshape(len(self.expected), -1)
        farthest = numpy.abs(flat[:, None] - flat[None]).max(-1)
        pairs = numpy.triu_indices(len(flat), 1)
        return float((farthest[pairs] > 2 * TOLERANCE).mean())
