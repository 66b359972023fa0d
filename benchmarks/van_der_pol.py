"""The Van der Pol oscillators that the solvers are compared on; numpy alone, so that every peer can load it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

SEED = 3


@dataclass(frozen=True)
class VanDerPol:
    """``x'' = mu (1 - x^2) x' - x`` from ``problems`` starts, in float64.

    Attributes:
        problems: number of starts, drawn from ``[-2, 2]^2`` with a fixed seed.
        outputs: number of output times, equally spaced over ``[0, end]`` with both ends.
        tolerance: the relative and the absolute one.
    """

    problems: int = 256
    mu: float = 2.0
    end: float = 10.0
    outputs: int = 200
    tolerance: float = 1e-5

    def starts(self) -> NDArray[numpy.float64]:
        """Return the starts ``(problems, 2)``."""
        return numpy.random.default_rng(SEED).uniform(-2.0, 2.0, size=(self.problems, 2))

    def times(self) -> NDArray[numpy.float64]:
        """Return the output times ``(outputs,)``."""
        return numpy.linspace(0.0, self.end, self.outputs)

    def to_json(self) -> dict[str, Any]:
        """Return the problem as JSON values, from which a peer makes it again."""
        return asdict(self)
