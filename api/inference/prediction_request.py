"""Reads prediction requests: strict about shape and numbers, fast when all is well. Without torch."""

import itertools
import math
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from api.identifiers import VersionReference
from api.inference import prediction_call
from api.inference.prediction_call import MOST_TIMES, AutoSolver, Otherwise, PredictionCall
from api.problems import Problem, invalid
from api.validation_messages import invalid_fields
from ode_core.audit.solver_choice import DEFAULT_AGREEMENT, Evidence
from ode_core.specs import SolverSpec
from ode_core.specs.solver import Precision

_FIELDS = ("inputs", "solver", "agreement", "evidence", "otherwise", "certify", "times", "deadline_seconds")
_AUTO_ALONE = ("agreement", "evidence", "otherwise")


@dataclass(frozen=True)
class JsonInputs:
    """Inputs as they stood in a JSON body.

    Attributes:
        inputs: what stood under ``inputs``, any JSON.
        odd: whether they may hold something that is no number, such as a text.
    """

    inputs: Any
    odd: bool

    def checked(self, input_shape: tuple[int, ...], *, max_rows: int, precision: Precision) -> NDArray[Any]:
        """Return the inputs as an array ``(n, *input_shape)`` of ``precision``.

        Raises:
            Problem: not between 1 and ``max_rows`` inputs of that shape, or numbers that are not finite.
        """
        inputs = self.inputs
        if not isinstance(inputs, list) or not inputs:
            raise invalid("inputs", f"must be a list with at least one input of shape {list(input_shape)}")
        refuse_too_many_rows(len(inputs), max_rows)
        # numpy takes a boolean for a number, and makes all values as long as the longest text among them.
        if self.odd and (wrong := _first_mismatch(inputs, input_shape)):
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
        return in_precision(array, precision)


def refuse_too_many_rows(rows: int, max_rows: int) -> None:
    """Raise a problem where a request has more inputs than one may have."""
    if rows > max_rows:
        message = f"{rows:,} inputs exceed the budget of {max_rows:,} in one request: send fewer at a time"
        raise invalid("inputs", message, code="budget_exceeded")


def in_precision(array: NDArray[Any], precision: Precision) -> NDArray[Any]:
    """Return numbers in a model's precision.

    Raises:
        Problem: one of them is not finite, or not in that precision.
    """
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=precision)
    if not np.isfinite(array).all():
        position = np.argwhere(~np.isfinite(array))[0]
        raise invalid(".".join(["inputs", *map(str, position)]), f"the number does not fit into {precision}")
    return array


def parse_body(body: bytes, content_type: str | None, model: str, version: VersionReference) -> PredictionCall:
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
    for name in document:
        if name not in _FIELDS:
            raise invalid(name[:100], f"there is no such field: use {', '.join(_FIELDS[:-1])} and {_FIELDS[-1]}")
    if "inputs" not in document:
        raise invalid("inputs", "this field is required: a list of inputs")
    return PredictionCall(
        model,
        version,
        JsonInputs(document["inputs"], _may_hold_others_than_numbers(body, document)),
        _solver(document),
        certify=_flag(document, "certify"),
        times=read_times(document.get("times")),
        seconds=read_deadline(document.get("deadline_seconds")),
    )


def _may_hold_others_than_numbers(body: bytes, document: dict[str, Any]) -> bool:
    if b"true" in body or b"false" in body:
        return True
    others = orjson.dumps({name: value for name, value in document.items() if name != "inputs"})
    return body.count(b'"') > others.count(b'"') + 2  # those around "inputs"


def _solver(document: dict[str, Any]) -> SolverSpec | AutoSolver | None:
    solver = document.get("solver")
    if solver == "auto":
        return auto_solver({name: document[name] for name in _AUTO_ALONE if document.get(name) is not None})
    for name in _AUTO_ALONE:
        if document.get(name) is not None:
            raise invalid(name, 'is for "solver": "auto" alone: leave it out, or let the solver be chosen')
    if solver is None:
        return None
    try:
        return SolverSpec.model_validate(solver)
    except ValidationError as error:
        errors = [dict(one) | {"loc": ("body", "solver", *one["loc"])} for one in error.errors(include_url=False)]
        raise invalid_fields(errors, document) from error


def auto_solver(asked: dict[str, Any]) -> AutoSolver:
    """Return what is asked of a chosen solver.

    Raises:
        Problem: a wrong value, with the field's name.
    """
    agreement = asked.get("agreement", DEFAULT_AGREEMENT)
    if isinstance(agreement, bool) or not isinstance(agreement, int | float) or not 0 < agreement <= 1:
        raise invalid("agreement", "must be a number above 0 and at most 1, for example 0.99")
    for name, allowed in (("evidence", get_args(Evidence)), ("otherwise", get_args(Otherwise))):
        if name in asked and asked[name] not in allowed:
            raise invalid(name, f"must be {' or '.join(allowed)}")
    return AutoSolver(**asked | {"agreement": float(agreement)})


def read_times(times: Any) -> tuple[float, ...]:
    """Return the times at which states are wanted.

    Raises:
        Problem: they are not ascending numbers.
    """
    if times is None:
        return ()
    numbers = isinstance(times, list) and all(type(time) in (int, float) for time in times)
    if not numbers or not 1 <= len(times) <= MOST_TIMES:
        raise invalid("times", f"must be a list of 1 to {MOST_TIMES:,} numbers, for example [0, 0.5, 1]")
    if any(earlier > later for earlier, later in itertools.pairwise(times)):
        raise invalid("times", "must ascend")
    return tuple(float(time) for time in times)


def read_deadline(seconds: Any) -> float:
    """Return how long the caller waits, in seconds.

    Raises:
        Problem: it is no time that there is.
    """
    if seconds is None:
        return prediction_call.LONGEST_SECONDS
    if type(seconds) not in (int, float) or not 0 < seconds <= prediction_call.LONGEST_SECONDS:
        raise invalid("deadline_seconds", f"must be above 0 and at most {prediction_call.LONGEST_SECONDS:g}")
    return float(seconds)


def _flag(document: dict[str, Any], name: str) -> bool:
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(name, "must be true or false")
    return bool(value)


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
