"""Reads prediction requests: strict about shape and numbers, fast when all is well. Without torch."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from api.problems import Problem, invalid
from api.validation_messages import invalid_fields
from ode_core.specs import SolverSpec


@dataclass(frozen=True)
class PredictionRequest:
    """A request as sent: inputs not yet checked against a model.

    Attributes:
        inputs: what stood under ``inputs``, any JSON.
        booleans: whether the body holds a ``true`` or ``false`` anywhere.
        solver: the solver asked for; None: the model's own.
    """

    inputs: Any
    booleans: bool
    solver: SolverSpec | None


def parse_body(body: bytes, content_type: str | None) -> PredictionRequest:
    """Read the body of a prediction request.

    Raises:
        Problem: it is not JSON, or its fields are not those of a prediction request.
    """
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if not (media_type == "application/json" or media_type.endswith("+json")):
        raise Problem(
            415, "unsupported_media_type", "send the body as JSON, with the header Content-Type: application/json"
        )
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(400, "invalid_json", f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Problem(422, "invalid_request", 'the body must be an object: {"inputs": [...], "solver": {...} or null}')
    if unknown := sorted(document.keys() - {"inputs", "solver"}):
        raise invalid(unknown[0][:100], "there is no such field: use inputs and solver")
    if "inputs" not in document:
        raise invalid("inputs", "this field is required: a list of inputs")
    try:
        solver = None if document.get("solver") is None else SolverSpec.model_validate(document["solver"])
    except ValidationError as error:
        errors = [dict(one) | {"loc": ("body", "solver", *one["loc"])} for one in error.errors(include_url=False)]
        raise invalid_fields(errors, document) from error
    return PredictionRequest(document["inputs"], b"true" in body or b"false" in body, solver)


def check_inputs(
    request: PredictionRequest, input_shape: tuple[int, ...], *, max_rows: int, precision: str
) -> NDArray[Any]:
    """Return the inputs as an array ``(n, *input_shape)`` of ``precision``.

    Raises:
        Problem: not between 1 and ``max_rows`` inputs of that shape, or numbers that are not finite.
    """
    inputs = request.inputs
    if not isinstance(inputs, list) or not inputs:
        raise invalid("inputs", f"must be a list with at least one input of shape {list(input_shape)}")
    if len(inputs) > max_rows:
        message = f"{len(inputs):,} inputs exceed the budget of {max_rows:,} in one request: send fewer at a time"
        raise invalid("inputs", message, code="budget_exceeded")
    if request.booleans and (wrong := _first_mismatch(inputs, input_shape)):
        raise _mismatch(inputs, input_shape, *wrong)
    try:
        array = np.asarray(inputs)
    except ValueError:  # ragged, or nested too deep
        array = np.empty(0, object)
    # A JSON integer beyond 64 bits was read as a float. Mixed with texts or nulls, numpy would make texts or
    # objects of all; a plain dtype=float would quietly turn "1" into 1.
    if array.dtype.kind not in "iuf" or array.shape[1:] != input_shape:
        wrong = _first_mismatch(inputs, input_shape)
        assert wrong is not None
        raise _mismatch(inputs, input_shape, *wrong)
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=precision)
    if not np.isfinite(array).all():
        position = np.argwhere(~np.isfinite(array))[0]
        raise invalid(".".join(["inputs", *map(str, position)]), f"the number does not fit into {precision}")
    return array


def _mismatch(inputs: list[Any], shape: tuple[int, ...], path: str, message: str) -> Problem:
    received = _apparent_shape(inputs)
    hint = ""
    if received == list(shape):
        hint = ": this is one input; put it into a list"
    elif len(received) > 1 and received[1:] != list(shape) and math.prod(received[1:]) == math.prod(shape):
        hint = f": the same numbers, nested otherwise; reshape each input to {list(shape)}"
    detail = f"inputs must have shape [n, {', '.join(map(str, shape))}], received {_shape_text(received)}{hint}"
    return Problem(422, "invalid_shape", f"{detail}. {path}: {message}", errors=[{"path": path, "message": message}])


def _shape_text(shape: list[int]) -> str:
    return f"[{', '.join(map(str, shape))}]" if shape else "a single value"


def _apparent_shape(value: Any) -> list[int]:
    """Return the shape as the first elements show it."""
    shape: list[int] = []
    while isinstance(value, list) and len(shape) < 10:
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _first_mismatch(inputs: list[Any], shape: tuple[int, ...]) -> tuple[str, str] | None:
    """Return path and message of the first part that is no number or no list of the right length."""
    for position, one in enumerate(inputs):
        if found := _mismatch_below(one, shape, f"inputs.{position}"):
            return found
    return None


def _mismatch_below(value: Any, shape: tuple[int, ...], path: str) -> tuple[str, str] | None:
    if not shape:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return None
        return path, f"must be a number, not {_kind(value)}"
    if not isinstance(value, list):
        return path, f"must be a list of {shape[0]}, not {_kind(value)}"
    if len(value) != shape[0]:
        return path, f"must be a list of {shape[0]}, but has {len(value)}"
    for position, one in enumerate(value):
        if found := _mismatch_below(one, shape[1:], f"{path}.{position}"):
            return found
    return None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "a text" if isinstance(value, str) else "a number"
