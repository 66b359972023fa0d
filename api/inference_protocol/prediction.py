"""Where the protocol meets inference: tensors and a solver in, arrays out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.inference.prediction_call import PredictionCall
from api.inference.prediction_request import refuse_too_many_rows
from api.inference_protocol.call_parameters import AskedCall
from api.inference_protocol.request import InferRequest
from api.inference_protocol.signature import samples_of
from ode_core.specs.solver import Precision


@dataclass(frozen=True)
class TensorInputs:
    """The input tensor of a request, to be checked once the model is known."""

    request: InferRequest

    def checked(self, input_shape: tuple[int, ...], *, max_rows: int, precision: Precision) -> NDArray[Any]:
        """Return ``(n, *input_shape)`` in ``precision``.

        Raises:
            Problem: the request has another input, or one that does not fit.
        """
        samples: NDArray[np.floating[Any]] = samples_of(self.request, input_shape, precision)
        refuse_too_many_rows(len(samples), max_rows)
        return samples


def prediction_call(model: str, reference: str | None, request: InferRequest, asked: AskedCall) -> PredictionCall:
    """Return what a request asks of a model; ``reference`` is a version's number or alias, None for the latest."""
    number = reference is not None and reference.isascii() and reference.isdecimal() and len(reference) < 10
    version = int(reference) if number and reference else reference
    return PredictionCall(
        model, version, TensorInputs(request), asked.solver, asked.certify, asked.times, asked.seconds
    )
