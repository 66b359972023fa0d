"""How each server wants its inputs and gives its answers: as bytes, and back."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import orjson
from numpy.typing import NDArray

from benchmarks.serving.http_messages import post

Numbers = NDArray[Any]
OUTPUT = "probabilities"


@dataclass(frozen=True)
class Endpoint:
    """Where and in what form a server takes inputs.

    Attributes:
        protocol: a key of ``PROTOCOLS``.
        path: of the URL.
        input_shape: of one input; the numbers are the same whatever it is.
        solver: for odeness, sent with each request; None: the model's own.
    """

    protocol: str
    path: str
    input_shape: tuple[int, ...] = (2,)
    solver: Mapping[str, Any] | None = None

    def request(self, inputs: Numbers) -> bytes:
        """Return the request for inputs ``(rows, numbers)``, float32."""
        return PROTOCOLS[self.protocol].request(self, inputs.reshape(len(inputs), *self.input_shape))

    def probabilities(self, headers: Mapping[str, str], body: bytes) -> Numbers:
        """Return the probabilities ``(rows, classes)`` of an answer.

        Raises:
            LookupError, TypeError, ValueError: it is none.
        """
        return PROTOCOLS[self.protocol].probabilities(headers, body)


@dataclass(frozen=True)
class Protocol:
    """The two directions of a protocol; see ``Endpoint``."""

    request: Callable[[Endpoint, Numbers], bytes]
    probabilities: Callable[[Mapping[str, str], bytes], Numbers]


def _json_post(endpoint: Endpoint, document: Any) -> bytes:
    return post(endpoint.path, orjson.dumps(document), {"Content-Type": "application/json"})


def _v1_request(endpoint: Endpoint, inputs: Numbers) -> bytes:
    document: dict[str, Any] = {"inputs": inputs.tolist()}
    return _json_post(endpoint, document if endpoint.solver is None else document | {"solver": endpoint.solver})


def _v1_answer(headers: Mapping[str, str], body: bytes) -> Numbers:
    return numpy.array([one["probabilities"] for one in orjson.loads(body)["predictions"]], dtype=float)


def _tensors(inputs: Numbers, **of_input: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "inputs", "shape": list(inputs.shape), "datatype": "FP32"} | of_input]}


def _v2_document(endpoint: Endpoint, inputs: Numbers, **of_input: Any) -> dict[str, Any]:
    document = _tensors(inputs, **of_input)
    if endpoint.solver is None:
        return document
    settings = dict(endpoint.solver)
    return document | {"parameters": {"solver": settings.pop("method"), **settings}}


def _v2_request(endpoint: Endpoint, inputs: Numbers) -> bytes:
    document = _v2_document(endpoint, inputs, data=inputs.ravel().tolist())
    return _json_post(endpoint, document | {"outputs": [{"name": OUTPUT}]})


def _v2_answer(headers: Mapping[str, str], body: bytes) -> Numbers:
    tensor = _output(orjson.loads(body))
    return numpy.array(tensor["data"], dtype=float).reshape(tensor["shape"])


def _v2_binary_request(endpoint: Endpoint, inputs: Numbers) -> bytes:
    raw = inputs.astype("<f4").tobytes()
    document = _v2_document(endpoint, inputs, parameters={"binary_data_size": len(raw)})
    document["outputs"] = [{"name": OUTPUT, "parameters": {"binary_data": True}}]
    head = orjson.dumps(document)
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return post(endpoint.path, head + raw, headers)


def _v2_binary_answer(headers: Mapping[str, str], body: bytes) -> Numbers:
    """Read the tensor whose bytes follow the JSON; those of the outputs stand in the outputs' order."""
    head = int(headers["inference-header-content-length"])
    document, place = json.loads(body[:head]), head
    for tensor in document["outputs"]:
        size = tensor["parameters"]["binary_data_size"]
        if tensor["name"] == OUTPUT:
            number = {"FP32": "<f4", "FP64": "<f8"}[tensor["datatype"]]
            count = math.prod(tensor["shape"])
            values = numpy.frombuffer(body, number, count=count, offset=place)
            return values.astype(float).reshape(tensor["shape"])
        place += size
    raise LookupError(f"there is no output {OUTPUT}")


def _output(document: Mapping[str, Any]) -> Mapping[str, Any]:
    outputs: Sequence[Mapping[str, Any]] = document["outputs"]
    for tensor in outputs:
        if tensor["name"] == OUTPUT:
            return tensor
    raise LookupError(f"there is no output {OUTPUT}")


def _plain_request(endpoint: Endpoint, inputs: Numbers) -> bytes:
    return _json_post(endpoint, {"inputs": inputs.tolist()})


def _plain_answer(headers: Mapping[str, str], body: bytes) -> Numbers:
    return numpy.array(orjson.loads(body)["probabilities"], dtype=float)


def _bare_answer(headers: Mapping[str, str], body: bytes) -> Numbers:
    return numpy.array(orjson.loads(body), dtype=float)


def _no_answer(headers: Mapping[str, str], body: bytes) -> Numbers:
    return numpy.empty(0)


PROTOCOLS: Mapping[str, Protocol] = {
    "v1": Protocol(_v1_request, _v1_answer),
    "v2-json": Protocol(_v2_request, _v2_answer),
    "v2-binary": Protocol(_v2_binary_request, _v2_binary_answer),
    "plain": Protocol(_plain_request, _plain_answer),
    "bare": Protocol(_plain_request, _bare_answer),
    "no-op": Protocol(_v1_request, _no_answer),
}
