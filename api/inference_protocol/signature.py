"""What a model version takes and gives as tensors, and how requests are held against it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.inference_protocol.request import InferRequest, RequestedOutput
from api.inference_protocol.tensors import Tensor
from api.problems import Problem, invalid
from ode_core.specs import TrainingJobSpec, model_input_shape
from ode_core.specs.solver import Precision
from store.models import ModelVersion

INPUT = "inputs"
OUTPUTS = ("probabilities", "logits", "label", "status", "nfe")

# Those that cost more than a prediction. The metadata, from which clients ask for all there is, leaves them out.
CERTIFICATE_OUTPUTS = ("holds", "finer_label", "finer_status", "logit_error", "margin")
TRAJECTORY = "trajectory"
DATATYPE_OF: dict[Precision, str] = {"float32": "FP32", "float64": "FP64"}

# The datatypes of which every value is one of the model's precision, too.
_EXACT_IN = {
    "FP32": {"FP32", "FP16", "BF16", "INT8", "UINT8", "INT16", "UINT16"},
    "FP64": {"FP64", "FP32", "FP16", "BF16", "INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32"},
}


@dataclass(frozen=True)
class TensorFacts:
    """Name, datatype and shape of an input or output; -1 stands for the number of samples."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """The tensors of one model version.

    Attributes:
        input_shape: of one sample.
        classes: how many.
        precision: float32 or float64, the model's.
    """

    input_shape: tuple[int, ...]
    classes: int
    precision: Precision

    @classmethod
    def of(cls, version: ModelVersion) -> "Signature":
        """Return the signature of a version of the store."""
        spec = TrainingJobSpec.model_validate(version.training_spec)
        shape = model_input_shape(spec.architecture, spec.dataset.input_shape)
        return cls(shape, spec.dataset.classes, spec.training.precision)

    @property
    def datatype(self) -> str:
        """The protocol's name of the precision."""
        return DATATYPE_OF[self.precision]

    @property
    def inputs(self) -> tuple[TensorFacts, ...]:
        """The one input: samples in the data set's own units."""
        return (TensorFacts(INPUT, self.datatype, (-1, *self.input_shape)),)

    @property
    def outputs(self) -> tuple[TensorFacts, ...]:
        """The outputs, in the order in which an answer has them."""
        return (
            TensorFacts("probabilities", self.datatype, (-1, self.classes)),
            TensorFacts("logits", self.datatype, (-1, self.classes)),
            TensorFacts("label", "INT64", (-1,)),
            TensorFacts("status", "BYTES", (-1,)),
            TensorFacts("nfe", "INT64", (-1,)),
        )


def samples_of(request: InferRequest, input_shape: tuple[int, ...], precision: Precision) -> NDArray[Any]:
    """Return the samples of a request as an array ``(n, *input_shape)`` of the model's precision.

    Raises:
        Problem: it has another input than ``inputs``, or one that does not fit.
    """
    if unknown := sorted(set(request.inputs) - {INPUT}):
        raise invalid("inputs", f"there is no input {unknown[0][:100]}: the model takes {INPUT} only")
    tensor = request.inputs[INPUT]
    datatype = DATATYPE_OF[precision]
    if tensor.datatype not in _EXACT_IN[datatype]:
        raise Problem(
            422,
            "invalid_datatype",
            f"the model computes in {datatype}, and not every {tensor.datatype} is one: send {INPUT} as {datatype}",
        )
    _require_shape(tensor, input_shape)
    array = np.array(tensor.array, dtype=precision, order="C")  # of our own: the bytes of a body cannot be written
    if not np.isfinite(array).all():
        position = np.argwhere(~np.isfinite(array))[0].tolist()
        raise invalid(INPUT, f"the number at {position} is not finite in {datatype}: send finite numbers")
    return array


def wanted_outputs(
    request: InferRequest, *, certify: bool = False, trajectory: bool = False
) -> tuple[RequestedOutput, ...]:
    """Return the outputs to answer with: those asked for, else all of a prediction.

    Args:
        request: as sent.
        certify: whether its predictions are to be certified.
        trajectory: whether states along the way are wanted.

    Raises:
        Problem: there is no such output.
    """
    if request.outputs is None:
        names = (*OUTPUTS, *(CERTIFICATE_OUTPUTS if certify else ()), *((TRAJECTORY,) if trajectory else ()))
        return tuple(RequestedOutput(name, request.binary_outputs) for name in names)
    known = (*OUTPUTS, *CERTIFICATE_OUTPUTS, TRAJECTORY)
    for position, output in enumerate(request.outputs):
        if output.name not in known:
            raise invalid(f"outputs.{position}.name", f"there is no output {output.name[:100]}: use {', '.join(known)}")
    return request.outputs


def _require_shape(tensor: Tensor, input_shape: tuple[int, ...]) -> None:
    shape = tensor.array.shape
    if shape[1:] == input_shape and shape[0] > 0:
        return
    wanted = f"[n, {', '.join(map(str, input_shape))}] with n of at least 1"
    hint = ""
    if shape == input_shape:
        hint = f": this is one sample; send the shape {[1, *shape]}"
    elif len(shape) > 1 and shape[0] and math.prod(shape[1:]) == math.prod(input_shape):
        hint = f": the same numbers; send the shape {[shape[0], *input_shape]}"
    raise Problem(422, "invalid_shape", f"{INPUT} must have the shape {wanted}, not {list(shape)}{hint}")
