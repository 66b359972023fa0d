"""Where along the depth steps are such as no flow can make."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from ode_core.audit.step_grid import StepGrid
from ode_core.audit.step_spectrum import StepSpectrum

MOST_STRETCHES = 64


@dataclass(frozen=True)
class CrossingMap:
    """Shares of the steps of all samples, by stretches of the grid; of stretches of one step, shares of the samples.

    Attributes:
        bounds: the numbers of the steps at which a stretch begins, and last the number of steps.
        times: at which they begin, the median over the samples that make that step, and last the end.
        steps: made in each stretch by all samples together; with tolerances some have arrived before others.
        flagged: share of them with a negative real eigenvalue.
        certified: share with a negative determinant, None where it is not looked at.
        undecided: share of which nothing is known.
    """

    bounds: list[int]
    times: list[float]
    steps: list[int]
    flagged: list[float]
    certified: list[float] | None
    undecided: list[float]

    def to_json(self) -> dict[str, Any]:
        """Return the map as JSON values."""
        return asdict(self)


def crossing_map(spectrum: StepSpectrum, grid: StepGrid, *, stretches: int = MOST_STRETCHES) -> CrossingMap:
    """Join the steps of a solution to at most ``stretches`` parts of equally many, and count."""
    bounds = [*range(0, grid.steps, -(-grid.steps // stretches)), grid.steps]

    def counts(marked: Tensor) -> list[int]:
        by_step = marked.sum(dim=1)
        return [int(by_step[a:b].sum()) for a, b in pairwise(bounds)]

    steps = counts(spectrum.taken)

    def shares(marked: Tensor) -> list[float]:
        return [count / max(1, of) for count, of in zip(counts(marked & spectrum.taken), steps, strict=True)]

    return CrossingMap(
        bounds=bounds,
        times=times_of(bounds, grid),
        steps=steps,
        flagged=shares(spectrum.flagged),
        certified=shares(spectrum.certified) if spectrum.method == "dense" else None,
        undecided=shares(~spectrum.decided),
    )


def times_of(bounds: list[int], grid: StepGrid) -> list[float]:
    """Return when the steps of these numbers begin, the median over the samples that make them; last the end."""
    begins = [grid.starts[k][grid.taken[k]].numpy() for k in bounds[:-1]]
    return [float(np.quantile(times, 0.5, method="inverted_cdf")) for times in begins] + [float(grid.ends[-1].max())]
