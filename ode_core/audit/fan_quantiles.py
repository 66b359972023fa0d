"""Lady Windermere's fan of many samples: how much of the error at the end comes from where, as quantiles."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ode_core.audit.crossing_map import times_of
from ode_core.audit.error_transport import ErrorTransport, MarginAttribution
from ode_core.audit.step_grid import StepGrid

SHARES = {"p10": 0.1, "median": 0.5, "p90": 0.9}

Quantiles = dict[str, float]
"""``p10``, ``median`` and ``p90`` of numbers that there are, none in between."""


@dataclass(frozen=True)
class FanQuantiles:
    """Quantiles over the samples whose errors were carried to the end accurately, by stretches of steps.

    Attributes:
        samples: how many those are; with 0 all lists of quantiles are empty.
        flipped: how many of them the exact solution predicts another class for; likewise.
        times: at which the stretches begin, and last the end.
        end: Euclidean size of a stretch's error as it arrives at the end, in the units of the state.
        margin: what a stretch adds to the margin of the trained class over its rival, in logits.
        margin_of_flipped: the same of the flipped samples alone.
        path_of_flipped: their margin at the end when all stretches before are exact and all after as trained ones: one
            entry more than there are stretches, from the exact solution (negative) to the numerical one (positive).
    """

    samples: int
    flipped: int
    times: list[float]
    end: list[Quantiles]
    margin: list[Quantiles]
    margin_of_flipped: list[Quantiles]
    path_of_flipped: list[Quantiles]

    def to_json(self) -> dict[str, Any]:
        """Return the fan as JSON values; all numbers are finite."""
        return asdict(self)


def fan_quantiles(transport: ErrorTransport, margins: MarginAttribution, grid: StepGrid) -> FanQuantiles:
    """Return the quantiles of what the stretches of ``transport`` contribute."""
    sizes = torch.linalg.vector_norm(transport.contributions.flatten(2), dim=2).cpu()
    # A size may overflow where the numbers of the state are finite.
    finite = torch.isfinite(margins.margins).all(dim=0) & torch.isfinite(sizes).all(dim=0)
    finite &= torch.isfinite(margins.contributions).all(dim=0)
    kept = transport.converged.cpu() & finite
    flipped = kept & margins.flipped
    return FanQuantiles(
        samples=int(kept.sum()),
        flipped=int(flipped.sum()),
        times=times_of(transport.bounds, grid),
        end=_by_row(sizes[:, kept]),
        margin=_by_row(margins.contributions[:, kept]),
        margin_of_flipped=_by_row(margins.contributions[:, flipped]),
        path_of_flipped=_by_row(margins.margins[:, flipped]),
    )


def _by_row(values: Tensor) -> list[Quantiles]:
    """Return the quantiles of each row of ``(rows, samples)``; none where there are no samples."""
    if values.shape[1] == 0:
        return []
    found = np.quantile(values.numpy(), list(SHARES.values()), axis=1, method="inverted_cdf")
    return [dict(zip(SHARES, row, strict=True)) for row in found.T.tolist()]
