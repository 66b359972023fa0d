"""Reads infer requests of the Open Inference Protocol: JSON, or JSON followed by the bytes of tensors. Without torch.

The headers tell how to read a body, never its Content-Type: some clients send none, and others always
application/octet-stream.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.inference_protocol.tensors import DATATYPES, Tensor, checked_shape, from_bytes, from_json
from api.json_body import read_json
from api.problems import Problem, invalid

HEADER_LENGTH = "Inference-Header-Content-Length"

# Some clients repeat in the body what the path says.
_REQUEST_FIELDS = {"id", "model_name", "model_version", "parameters", "inputs", "outputs"}
_INPUT_FIELDS = {"name", "shape", "datatype", "parameters", "data"}
_OUTPUT_FIELDS = {"name", "parameters"}


@dataclass(frozen=True)
class RequestedOutput:
    """An output asked for.

    Attributes:
        name: as in the model's metadata.
        binary: whether its values are to follow the JSON as bytes.
    """

    name: str
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """A request as sent, not yet checked against a model.

    Attributes:
        id: to be repeated in the answer, or None.
        inputs: by name.
        outputs: those asked for, in order; None: all.
        binary_outputs: whether outputs not asked for by name are to follow as bytes.
        parameters: of the request as a whole, without those about its form.
    """

    id: str | None
    inputs: Mapping[str, Tensor]
    outputs: tuple[RequestedOutput, ...] | None
    binary_outputs: bool
    parameters: Mapping[str, Any]


def parse_infer_request(body: bytes, header_length: str | None) -> InferRequest:
    """Read a body that is not compressed (any more).

    Args:
        body: of the request.
        header_length: the header ``Inference-Header-Content-Length``: bytes of the JSON, before those of tensors.

    Raises:
        Problem: 400 where the body cannot be taken apart, 422 where a part of it is wrong.
    """
    json_bytes, tail = _split(body, header_length)
    if header_length is None:
        document = read_json(json_bytes, hint=f"; with binary data, send the header {HEADER_LENGTH}")
    else:
        document = read_json(json_bytes, counted_by=HEADER_LENGTH)
    if not isinstance(document, dict):
        raise Problem(422, "invalid_request", 'the body must be an object: {"inputs": [...]}')
    _require_known(document, _REQUEST_FIELDS, "")
    parameters = _parameters(document, "")
    binary_outputs = _flag(parameters.pop("binary_data_output", None), "parameters.binary_data_output")
    return InferRequest(
        id=_id(document.get("id")),
        inputs=_inputs(document.get("inputs"), None if header_length is None else tail),
        outputs=_outputs(document.get("outputs"), binary_outputs),
        binary_outputs=binary_outputs,
        parameters=parameters,
    )


def _split(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    content = memoryview(body)
    if header_length is None:
        return content, content[len(content) :]
    if not (header_length.isascii() and header_length.isdecimal()) or len(header_length) > 12:
        raise _unreadable(f"the header {HEADER_LENGTH} must be the number of bytes of the JSON")
    length = int(header_length)
    if length > len(content):
        raise _unreadable(
            f"the header {HEADER_LENGTH} says {length:,} bytes of JSON, but the body has {len(content):,}: is it cut "
            "off?"
        )
    return content[:length], content[length:]


def _inputs(found: Any, tail: memoryview | None) -> dict[str, Tensor]:
    if not isinstance(found, list) or not found:
        raise invalid("inputs", "must be a list of at least one tensor: name, shape, datatype, data")
    inputs: dict[str, Tensor] = {}
    taken = 0
    for position, one in enumerate(found):
        path = f"inputs.{position}"
        name, parameters = _named(one, _INPUT_FIELDS, path)
        if name in inputs:
            raise invalid(f"{path}.name", f"there are two inputs {name[:100]}")
        datatype = one.get("datatype")
        if not isinstance(datatype, str) or datatype not in DATATYPES:
            raise invalid(f"{path}.datatype", f"must be one of {', '.join(DATATYPES)}")
        shape = checked_shape(one.get("shape"), f"{path}.shape")
        size = parameters.get("binary_data_size")
        if size is None:
            if one.get("data") is None:
                raise invalid(f"{path}.data", "this field is required, unless parameters.binary_data_size is given")
            inputs[name] = from_json(name, datatype, shape, one["data"], f"{path}.data")
            continue
        if one.get("data") is not None:
            raise invalid(f"{path}.data", "give either data or parameters.binary_data_size, not both")
        if type(size) is not int or size < 0:
            raise invalid(f"{path}.parameters.binary_data_size", "must be a number of bytes")
        if tail is None:
            raise _unreadable(f"{path} is binary: send the header {HEADER_LENGTH} with the number of bytes of the JSON")
        if taken + size > len(tail):
            raise _unreadable(
                f"{path}: {size:,} bytes are announced, but {len(tail) - taken:,} are left: is the body cut off?"
            )
        inputs[name] = from_bytes(name, datatype, shape, tail[taken : taken + size], path)
        taken += size
    if tail is not None and taken != len(tail):
        raise _unreadable(f"{len(tail) - taken:,} bytes follow the last binary input: no binary_data_size counts them")
    return inputs


def _outputs(found: Any, binary: bool) -> tuple[RequestedOutput, ...] | None:
    if found is None or found == []:
        return None
    if not isinstance(found, list):
        raise invalid("outputs", "must be a list of outputs: name, parameters")
    outputs: dict[str, RequestedOutput] = {}
    for position, one in enumerate(found):
        path = f"outputs.{position}"
        name, parameters = _named(one, _OUTPUT_FIELDS, path)
        if name in outputs:
            raise invalid(f"{path}.name", f"the output {name[:100]} is asked for twice")
        if parameters.get("classification"):
            raise invalid(
                f"{path}.parameters.classification", "is not supported: ask for the output probabilities or label"
            )
        wish = parameters.get("binary_data")
        outputs[name] = RequestedOutput(name, binary if wish is None else _flag(wish, f"{path}.parameters.binary_data"))
    return tuple(outputs.values())


def _named(one: Any, fields: set[str], path: str) -> tuple[str, dict[str, Any]]:
    """Return name and parameters of an input or output."""
    if not isinstance(one, dict):
        raise invalid(path, f"must be an object with {', '.join(sorted(fields))}")
    _require_known(one, fields, f"{path}.")
    name = one.get("name")
    if not isinstance(name, str) or not name:
        raise invalid(f"{path}.name", "must be a text")
    parameters = _parameters(one, f"{path}.")
    if "shared_memory_region" in parameters:
        raise invalid(
            f"{path}.parameters.shared_memory_region", "is not supported: send and read the values themselves"
        )
    return name, parameters


def _parameters(document: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise invalid(f"{prefix}parameters", "must be an object")
    return dict(parameters)


def _require_known(document: Mapping[str, Any], known: set[str], prefix: str) -> None:
    if not document.keys() <= known:
        unknown = sorted(document.keys() - known)
        raise invalid(f"{prefix}{unknown[0][:100]}", f"there is no such field: use {', '.join(sorted(known))}")


def _flag(value: Any, path: str) -> bool:
    if value is None:
        return False
    if not isinstance(value, bool):
        raise invalid(path, "must be true or false")
    return value


def _id(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise invalid("id", "must be a text")


def _unreadable(detail: str) -> Problem:
    return Problem(400, "unreadable_body", detail)
