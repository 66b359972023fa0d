"""Writes the answers to infer requests: JSON, with the bytes of binary outputs behind it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from api.inference_protocol.prediction import Prediction
from api.inference_protocol.request import HEADER_LENGTH, RequestedOutput
from api.inference_protocol.signature import Signature
from api.inference_protocol.tensors import Tensor, texts, to_bytes, to_json
from store.models import ModelVersion


def infer_answer(
    version: ModelVersion,
    signature: Signature,
    prediction: Prediction,
    wanted: Sequence[RequestedOutput],
    request_id: str | None,
) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an answer.

    Args:
        version: that predicted.
        signature: its tensors.
        prediction: for all samples.
        wanted: the outputs, in order.
        request_id: to be repeated; None: there was none.
    """
    tensors = output_tensors(signature, prediction)
    document: dict[str, Any] = {"model_name": version.model, "model_version": str(version.version)}
    if request_id is not None:
        document["id"] = request_id
    document["parameters"] = solver_facts(prediction)
    described: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for output in wanted:
        tensor = tensors[output.name]
        description: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.array.shape),
        }
        if output.binary:
            tail.append(to_bytes(tensor))
            description["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            description["data"] = to_json(tensor)
        described.append(description)
    document["outputs"] = described
    content = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not tail:
        return content, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(content))}
    return b"".join((content, *tail)), headers


def output_tensors(signature: Signature, prediction: Prediction) -> dict[str, Tensor]:
    """Return all outputs by name."""
    values = {
        "probabilities": prediction.probabilities.astype(signature.precision, copy=False),
        "logits": prediction.logits.astype(signature.precision, copy=False),
        "label": prediction.labels,
        "nfe": prediction.evaluations,
    }
    return {
        facts.name: texts("status", prediction.status)
        if facts.name == "status"
        else Tensor(facts.name, facts.datatype, values[facts.name])
        for facts in signature.outputs
    }


def solver_facts(prediction: Prediction) -> dict[str, str | int | float]:
    """Return the solver and what it cost, as the protocol's parameters: texts and numbers.

    ``nfe``, ``accepted`` and ``rejected`` are means over the samples.
    """
    solver = prediction.solver.document()
    failures = prediction.failures
    status = "success" if not failures else "failed" if failures == len(prediction.status) else "partial"
    return {
        "solver": solver.pop("method"),
        **solver,
        "nfe": _mean(prediction.evaluations),
        "accepted": _mean(prediction.accepted),
        "rejected": _mean(prediction.rejected),
        "failures": failures,
        "status": status,
    }


def _mean(counts: NDArray[Any]) -> int | float:
    """Return the mean; an integer where it is one."""
    mean = float(np.mean(counts))
    return int(mean) if mean.is_integer() else mean
