"""A program as an ONNX model, and such a model in onnxruntime."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import onnxruntime
import onnxscript
import torch
from torch import Tensor
from torch.export import ExportedProgram

from ode_core.export.agreement import ExportFailed, Run
from ode_core.export.onnx_constants import CONSTANTS

OPSET = 20
DESCRIPTION = "odeness"  # the key of the model's metadata
_CPU = ["CPUExecutionProvider"]
_ERRORS_ONLY = 3


def versions() -> dict[str, Any]:
    """Return what a reader of the file has to know of versions beside torch's."""
    return {"opset": OPSET, "onnx": onnx.__version__, "onnxscript": onnxscript.__version__}


def runtime() -> str:
    """Return what runs the file here, with its version."""
    return f"onnxruntime {onnxruntime.__version__}"


def write(program: ExportedProgram, description: dict[str, Any]) -> bytes:
    """Return the program as an ONNX model of opset 20, with its description as the metadata ``odeness``.

    Raises:
        ExportFailed: an operator of the model is not one of ONNX's.
    """
    names = description["input"]["name"], [output["name"] for output in description["outputs"]]
    try:
        with _quiet():
            written = torch.onnx.export(
                program,
                dynamo=True,
                dynamic_shapes={names[0]: {0: "batch"}},
                input_names=[names[0]],
                output_names=names[1],
                opset_version=OPSET,
                custom_translation_table=CONSTANTS,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportFailed(f"the model cannot be written as ONNX: {_first_line(error)}; export it as torch") from error
    assert written is not None
    model: onnx.ModelProto = written.model_proto
    _remove_traces(model.graph)
    model.producer_name, model.producer_version = "odeness", description["odeness"]
    model.metadata_props.add(key=DESCRIPTION, value=json.dumps(description))
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def load(data: bytes) -> Run:
    """Return what an ONNX model computes in onnxruntime on the CPU.

    Raises:
        ExportFailed: onnxruntime lacks an operator of it for its type of numbers.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=_CPU)
    except Exception as error:  # its errors have no class in common but this one
        raise ExportFailed(
            f"onnxruntime does not run the model: {_first_line(error)}. Of float64 it has few operators, and no "
            f"convolution: export the version as torch, or train it with precision float32"
        ) from error

    def run(inputs: Tensor) -> tuple[Tensor, Tensor]:
        probabilities, logits = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        return torch.from_numpy(probabilities), torch.from_numpy(logits)

    return run


def _remove_traces(graph: onnx.GraphProto) -> None:
    """Remove what torch notes with every node of where in its source it comes from."""
    del graph.metadata_props[:]
    for value in [*graph.value_info, *graph.input, *graph.output, *graph.initializer]:
        del value.metadata_props[:]
    for node in graph.node:
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _remove_traces(attribute.g)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch says at every export of packages that are not installed, and of its own names."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300].rstrip(".")
