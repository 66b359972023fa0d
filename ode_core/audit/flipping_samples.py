"""The samples whose prediction is another one under a converged solver: which, how clearly, and what they look like."""

import base64
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core.audit.audit import AuditReport
from ode_core.audit.picture import is_image, png_of
from ode_core.audit.reference import margins
from ode_core.models.predictions import NO_LABEL

MOST_LISTED = 24
MOST_COORDINATES = 3


@dataclass(frozen=True)
class FlippingSample:
    """One of them.

    Attributes:
        sample: its number in the test split, from 0.
        label: the right class.
        trained: the class predicted under the training solver; None where that solve failed.
        reference: the class predicted under the converged one; likewise.
        trained_margin: distance of the trained class's logit to the next, None where the solve failed.
        reference_margin: the same of the reference.
        settled: whether the reference's prediction is settled.
        turning_time: the end of the stretch of steps whose errors turned the prediction for good; None where it was not
            looked into, or the errors were not carried to the end accurately.
        picture: of an image: a PNG, in base64.
        coordinates: of an input of few numbers: these, in the data set's own units.
    """

    sample: int
    label: int
    trained: int | None
    reference: int | None
    trained_margin: float | None
    reference_margin: float | None
    settled: bool
    turning_time: float | None
    picture: str | None
    coordinates: list[float] | None


@dataclass(frozen=True)
class FlippingSamples:
    """How many there are, and the first of them."""

    count: int
    listed: list[FlippingSample]

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON values; all numbers are finite or None."""
        return asdict(self)


def flipping_samples(
    report: AuditReport,
    inputs: Tensor,
    labels: Tensor,
    *,
    input_scale: float = 1.0,
    turning_times: Mapping[int, float] | None = None,
    most: int = MOST_LISTED,
) -> FlippingSamples:
    """Return the samples of an audit whose predictions change, the first ``most`` of them with what is known.

    Args:
        report: what the audit found.
        inputs: ``(n, *sample_shape)``, of the audit, in the data set's own units.
        labels: ``(n,)``, the right classes.
        input_scale: factor to what the network sees; pictures are drawn with it.
        turning_times: by the number of the sample, where they are known.
        most: samples to list.
    """
    trained, reference = report.trained, report.reference.predictions
    flipped = torch.nonzero(trained.flips(reference)).flatten()
    own, exact = margins(trained.logits.double()), margins(reference.logits.double())
    listed = []
    for number in flipped[:most].tolist():
        listed.append(
            FlippingSample(
                sample=number,
                label=int(labels[number]),
                trained=_class_or_none(trained.labels[number]),
                reference=_class_or_none(reference.labels[number]),
                trained_margin=_finite_or_none(own[number]),
                reference_margin=_finite_or_none(exact[number]),
                settled=bool(report.reference.settled[number]),
                turning_time=(turning_times or {}).get(number),
                picture=_picture(inputs[number], input_scale),
                coordinates=_coordinates(inputs[number]),
            )
        )
    return FlippingSamples(len(flipped), listed)


def _class_or_none(label: Tensor) -> int | None:
    return None if int(label) == NO_LABEL else int(label)


def _finite_or_none(value: Tensor) -> float | None:
    return float(value) if math.isfinite(float(value)) else None


def _picture(sample: Tensor, scale: float) -> str | None:
    return base64.b64encode(png_of(sample.cpu(), scale)).decode() if is_image(tuple(sample.shape)) else None


def _coordinates(sample: Tensor) -> list[float] | None:
    few = sample.numel() <= MOST_COORDINATES and bool(torch.isfinite(sample).all())
    return sample.flatten().double().tolist() if few else None
