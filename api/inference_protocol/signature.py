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
from store.models import ModelVersion

INPUT = "inputs"

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
    precision: str

    @classmethod
    def of(cls, version: ModelVersion) -> "Signature":
        """Return the signature of a version of the store."""
        spec = TrainingJobSpec.model_validate(version.training_spec)
        shape = model_input_shape(spec.architecture, spec.dataset.input_shape)
        return cls(shape, spec.dataset.classes, spec.training.precision)

    @property
    def datatype(self) -> str:
        """The protocol's name of the precision."""
        return "FP64" if self.precision == "float64" else "FP32"

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

    def samples(self, request: InferRequest) -> NDArray[Any]:
        """Return the samples of a request as an array ``(n, *input_shape)`` of the model's precision.

        Raises:
            Problem: it has another input than ``inputs``, or one that does not fit.
        """
        if unknown := sorted(set(request.inputs) - {INPUT}):
            raise invalid("inputs", f"there is no input {unknown[0][:100]}: the model takes {INPUT} only")
        tensor = request.inputs[INPUT]
        if tensor.datatype not in _EXACT_IN[self.datatype]:
            raise Problem(
                422,
                "invalid_datatype",
                f"the model computes in {self.datatype}, and not every {tensor.datatype} is one: send {INPUT} as "
                f"{self.datatype}",
            )
        self._require_shape(tensor)
        array = np.ascontiguousarray(tensor.array, dtype=self.precision)
        if not np.isfinite(array).all():
            position = np.argwhere(~np.isfinite(array))[0].tolist()
            raise invalid(INPUT, f"the number at {position} is not finite in {self.datatype}: send finite numbers")
        return array

    def wanted(self, request: InferRequest) -> tuple[RequestedOutput, ...]:
        """Return the outputs to answer with: those asked for, else all.

        Raises:
            Problem: there is no such output.
        """
        names = [facts.name for facts in self.outputs]
        if request.outputs is None:
            return tuple(RequestedOutput(name, request.binary_outputs) for name in names)
        for position, output in enumerate(request.outputs):
            if output.name not in names:
                raise invalid(
                    f"outputs.{position}.name", f"there is no output {output.name[:100]}: use {', '.join(names)}"
                )
        return request.outputs

    def _require_shape(self, tensor: Tensor) -> None:
        shape = tensor.array.shape
        if shape[1:] == self.input_shape and shape[0] > 0:
            return
        wanted = f"[n, {', '.join(map(str, self.input_shape))}] with n of at least 1"
        hint = ""
        if shape == self.input_shape:
            hint = f": this is one sample; send the shape {[1, *shape]}"
        elif len(shape) > 1 and shape[0] and math.prod(shape[1:]) == math.prod(self.input_shape):
            hint = f": the same numbers; send the shape {[shape[0], *self.input_shape]}"
        raise Problem(422, "invalid_shape", f"{INPUT} must have the shape {wanted}, not {list(shape)}{hint}")
